"""What a backward pass needs is about what autograd really saves, and the rest is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cut_models import DECODERS, ENCODERS, WIDTH, parts, saved
from pplr.models.causal.cache import RoomyCache
from pplr.models.hub import Kind
from pplr.models.layout import Layout
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts import Cut
from pplr.models.parts.passing import PartModel
from pplr.planning import Outline, Reading, outline
from pplr.planning.batch import Batch
from pplr.planning.memory import USERS, client_memory, server_memory, whole_memory
from pplr.training.optimiser import RowOptimiser

CUT, RANK = Cut(1, 1), AdapterSettings(rank=2, dropout=0.05)


CASES = [*((name, 0) for name in (*DECODERS, *ENCODERS) if name != "longformer"), *((name, 16) for name in DECODERS)]


@pytest.mark.parametrize(("name", "start"), CASES)
def test_states_of_a_trunk_are_those_that_autograd_saves(tmp_path: Path, name: str, start: int) -> None:
    saved(name, tmp_path)
    head = name in DECODERS
    part = parts(tmp_path, CUT, head=head)[1]
    lora, trunk = Lora([part], RANK), PartModel(part)
    layout = Layout(lora.specs)
    row = layout.initial_row(1).requires_grad_()
    constant = {p.data_ptr() for p in part.module.parameters()} | {row.data_ptr()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in constant and not isinstance(tensor, torch.nn.Parameter):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    length = 64
    states = torch.randn(4, length, WIDTH, requires_grad=True)
    first = torch.randn(1, start, WIDTH, requires_grad=True) if start else None
    with (
        lora.bound(layout.views(row)),
        lora.training(3),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        mask = torch.ones(4, length, dtype=torch.long)
        _result = trunk.continued(first, states, mask) if head else trunk.through(states, mask)
    found = outline(tmp_path, Kind.DECODER if head else Kind.ENCODER, RANK)
    batch = Batch(4, length, start, 4, head, (4,))
    memory = server_memory(found, CUT, batch, Reading(), clients=1)
    planned = memory.training - 4 * 4 * batch.tokens * WIDTH
    assert sum(kept.values()) == pytest.approx(planned, rel=0.2)


def _llama(folder: Path) -> tuple[Outline, Batch, Reading]:
    saved("llama", folder)
    reading = Reading(prompt=20, common=6, title=3, beams=2, batch_tokens=92, pieces=1)
    return outline(folder, Kind.DECODER, RANK), Batch(4, 17, 6, 16, True, (4,)), reading


def test_weights_and_adapters_with_their_gradient_and_moments(tmp_path: Path) -> None:
    found, batch, reading = _llama(tmp_path)
    loaded = parts(tmp_path, CUT, head=True)
    client, server = client_memory(found, CUT, batch, reading), server_memory(found, CUT, batch, reading, clients=3)
    unique = {p.data_ptr(): p.nbytes for p in loaded[1].module.parameters()}
    assert server.weights == sum(unique.values())
    layout = Layout(Lora([loaded[0], loaded[2]], RANK).specs)
    optimiser = RowOptimiser(layout, layout.initial_row(1), 0.0)
    optimiser.row.gradient.fill_(1.0)
    optimiser.step(0.1, 1.0)
    held, kept = (
        [tensor.nbytes for tensor in of.values() if tensor.dim()] for of in (optimiser.state(), optimiser.moments())
    )
    assert client.adapters == sum(held) + sum(kept)
    assert server.adapters == 3 * 32 * sum(spec.size for spec in Lora([loaded[1]], RANK).specs)
    whole = whole_memory(found, batch, reading)
    assert whole.weights == client.weights + server.weights
    assert whole.adapters == client.adapters + server.adapters / 3 * 24 / 32


def test_keys_and_values_of_a_search_are_those_of_its_cache(tmp_path: Path) -> None:
    found, batch, reading = _llama(tmp_path)
    cache = RoomyCache(3, room=0)
    for layer in cache.layers:
        layer.update(torch.zeros(USERS, 2, 26, 8), torch.zeros(USERS, 2, 26, 8))
    held = sum(store.nbytes for layer in cache.layers for store in layer._stores)
    assert server_memory(found, CUT, batch, reading, clients=1).recommending == held


def test_memory_grows_with_the_batch_and_with_k(tmp_path: Path) -> None:
    found, batch, reading = _llama(tmp_path)
    totals = [client_memory(found, Cut(k), batch, reading).total for k in range(4)]
    assert totals == sorted(set(totals))
    twice = replace(batch, rows=8, pieces=(8,), targets=32)
    one, two = (client_memory(found, CUT, b, reading) for b in (batch, twice))
    assert 1.5 < two.training / one.training < 2
    assert (one.weights, one.recommending) == (two.weights, two.recommending)
