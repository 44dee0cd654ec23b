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
from pplr.models.parts import Cut, Which
from pplr.models.parts.passing import PartModel
from pplr.planning import Reading, outline
from pplr.planning.batch import Batch
from pplr.planning.memory import USERS, client_memory, server_memory, whole_memory

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
    print(name, start, sum(kept.values()) / planned)
    assert sum(kept.values()) == pytest.approx(planned, rel=0.2)
