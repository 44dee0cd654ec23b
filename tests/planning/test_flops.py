"""Operations by formula are those that torch counts while the parts run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cut_models import DECODERS, ENCODERS, VOCABULARY, WIDTH, parts, saved
from pplr.models.causal.split import SplitCausal
from pplr.models.hub import Kind
from pplr.models.layout import Layout
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts import Cut, Which
from pplr.models.parts.passing import PartModel
from pplr.planning import outline
from pplr.planning.batch import Batch
from pplr.planning.flops import Shape, together
from pplr.planning.outline import Outline
from pplr.planning.plan import client_flops, server_flops

START = 4
"""Within the windows of the models that have one: of a longer start such a layer remembers the end."""
CUT, RANK = Cut(2, 1), AdapterSettings(rank=4, dropout=0.0)
COUNTABLE = [*DECODERS, *(name for name in ENCODERS if name != "longformer")]
"""Longformer computes its windows in chunks of twice their size, which no formula of tokens and pairs has."""


def _ready(name: str, folder: Path) -> tuple[list[PartModel], Lora, Outline]:
    saved(name, folder)
    head = name in DECODERS
    loaded = parts(folder, CUT, head=head)
    for part in loaded:
        part.module.set_attn_implementation("eager")  # products that the counter knows
    lora = Lora(loaded, RANK)
    return [PartModel(part) for part in loaded], lora, outline(folder, Kind.DECODER if head else Kind.ENCODER, RANK)


def _all_pairs(batch: Batch) -> Batch:
    """The same batch as a counter sees it that does not know which pairs a causal mask leaves out."""

    class Full(Batch):
        @property
        def pairs(self) -> float:
            return self.rows * self.length * (self.length + self.start) + self.start**2

        @property
        def pairs_behind(self) -> float:
            return self.pairs

    return Full(*(getattr(batch, name) for name in batch.__dataclass_fields__))


@pytest.mark.parametrize("name", COUNTABLE)
def test_forward_and_backward_of_a_trunk(tmp_path: Path, name: str) -> None:
    (_, trunk, _), lora, found = _ready(name, tmp_path)
    causal = name in DECODERS
    batch = _all_pairs(Batch(3, 24, START if causal else 0, 5, causal, (3,)))
    row = Layout(lora.specs).initial_row(1).requires_grad_()
    states = torch.randn(3, 24, WIDTH, requires_grad=True)
    start = torch.randn(1, START, WIDTH, requires_grad=True) if causal else None
    counted = []
    with lora.bound(Layout(lora.specs).views(row)):
        with FlopCounterMode(display=False) as counter:
            if causal:
                first, behind = trunk.continued(start, states, torch.ones(3, 24))
                result = behind.sum() + first.sum()
            else:
                result = trunk.through(states, torch.ones(3, 24)).sum()
        counted.append(counter.get_total_flops())
        with FlopCounterMode(display=False) as counter:
            result.backward()
        counted.append(counter.get_total_flops())
    shape = together(layer.shape for layer in found.part(CUT, Which.TRUNK))
    assert counted[0] == pytest.approx(shape.forward(batch.tokens, batch.pairs), rel=0.01)
    assert counted[1] == pytest.approx(shape.backward(batch.tokens, batch.pairs), rel=0.01)
    assert server_flops(found, CUT, batch) == pytest.approx(sum(counted), rel=0.01)


@pytest.mark.parametrize("name", DECODERS)
def test_a_training_step_of_a_client(tmp_path: Path, name: str) -> None:
    """All that the counter sees of a step, but for the trunk."""
    models, lora, found = _ready(name, tmp_path)
    batch = _all_pairs(Batch(3, 24, 0, 7, causal=True, pieces=(3,)))
    ids = torch.randint(5, VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(1))
    row = Layout(lora.specs).initial_row(1).requires_grad_()
    with lora.bound(Layout(lora.specs).views(row)), FlopCounterMode(display=False) as counter:
        model = SplitCausal(*models)
        states = model.continued([], ids, torch.ones(3, 24))[0, :7]
        model.logits(states).sum().backward()
    client = counter.get_total_flops() - server_flops(found, CUT, batch)
    planned = client_flops(found, CUT, batch)
    # the first layer passes no gradient down to the embedding: what its queries, keys and values are spared, and the
    # gradient of its keys, which have no adapter
    first = models[0].part.base.layers[0].self_attn
    maps = sum(m.weight.numel() for m in (first.q_proj.base, first.k_proj, first.v_proj.base))
    spared = 2 * (maps + 2 * RANK.rank * WIDTH) * batch.tokens + 2 * found.layers[0].attention * batch.pairs
    assert client == pytest.approx(planned - spared, rel=0.01)


def test_a_causal_row_has_half_of_the_pairs_and_a_start_is_read_once_per_piece() -> None:
    batch = Batch(5, 10, 4, 1, causal=True, pieces=(3, 2))
    exact = sum(4 + place + 0.5 for place in range(10))  # each token sees the start, those before it, half of itself
    assert batch.pairs == 5 * exact + 8
    assert batch.pairs_behind == 5 * exact + 16
    assert (batch.tokens, batch.tokens_behind) == (54, 58)
    encoder = Batch(5, 10, 0, 1, causal=False, pieces=(5,))
    assert (encoder.pairs, encoder.pairs_behind) == (500, 500)


def test_shapes_add_up() -> None:
    shapes = [Shape(10, 3, 1), Shape(20, 4, 2)]
    assert together(shapes).forward(7, 5) == pytest.approx(sum(shape.forward(7, 5) for shape in shapes))
    assert Shape(10, 3, 1).backward(7, 5) == 2 * (10 + 2) * 7 + 8 * 3 * 5
