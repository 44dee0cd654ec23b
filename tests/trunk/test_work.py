"""A trunk behind a stub gives the states, gradients and steps of the trunk in the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cut_models import DECODERS, ENCODERS, VOCABULARY, parts, saved
from pplr.errors import RunError
from pplr.models.causal.split import SplitCausal
from pplr.models.decoding.beam import beam_search
from pplr.models.layout import Layout
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts import Cut
from pplr.models.parts.passing import PartModel
from pplr.trunk.rows import ServerRows
from pplr.trunk.stub import DirectLink, StubTrunk
from pplr.trunk.work import Manner, States, TrunkWork, manner_key

SETTINGS = AdapterSettings(rank=2, dropout=0.3)


class Both:
    """Bottom, trunk and top in one place, and bottom and top with a stub of the trunk; the same rows in both."""

    def __init__(self, name: str, folder: Path, cut: Cut) -> None:
        saved(name, folder)
        head = name in DECODERS
        chain = [PartModel(part) for part in parts(folder, cut, head=head)]
        self.lora = Lora([model.part for model in chain], SETTINGS)
        self.layout = Layout(self.lora.specs)
        self.row = self.layout.initial_row(3)
        self.row += 0.05 * torch.randn(self.row.shape, generator=torch.Generator().manual_seed(3))
        self.chain = chain
        ends = [PartModel(part) for part in parts(folder, cut, head=head)]
        trunk = ends[1]
        self.own_lora = Lora([ends[0].part, ends[2].part], SETTINGS)
        self.trunk_lora = Lora([trunk.part], SETTINGS)
        self.trunk_layout = Layout(self.trunk_lora.specs)
        views = self.layout.views(self.row)
        theirs = torch.cat([views[spec.name].flatten() for spec in self.trunk_layout.specs])
        self.rows = ServerRows(self.trunk_layout, ["ada", "bob"], theirs)
        self.work = TrunkWork(trunk, self.trunk_lora, self.rows)
        self.stub = StubTrunk(DirectLink(self.work, "ada"))
        self.ends = [ends[0], self.stub, ends[2]]


def _ids() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(8))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    return ids, mask


def _run(chain, start, ids, mask, causal):
    states = ids
    for part in chain:
        if causal:
            start, states = part.continued(start, states, mask)
        else:
            states = part.through(states, mask)
    return states


@pytest.mark.parametrize("cut", [Cut(0, 1), Cut(2, 1)], ids=str)
@pytest.mark.parametrize(
    ("name", "start"),
    [*((name, None) for name in (*DECODERS, *ENCODERS)), *((name, [7, 8, 9, 10, 11]) for name in DECODERS)],
)
def test_states_and_gradients_of_all_adapters(tmp_path: Path, name: str, cut: Cut, start) -> None:
    causal = name in DECODERS
    both, (ids, mask) = Both(name, tmp_path, cut), _ids()
    first = torch.tensor([start]) if start else None
    weight = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(4)) * mask[..., None]
    leaf = both.row.clone().requires_grad_()
    with both.lora.bound(both.layout.views(leaf)), both.lora.training(11):
        expected = _run(both.chain, first, ids, mask, causal)
        (expected * weight).sum().backward()
    own = both.row.clone().requires_grad_()
    both.rows.begin_round(1)
    with (
        both.own_lora.bound(both.layout.views(own)),
        both.own_lora.training(11),
        both.stub.bound(),
        both.stub.training(11),
    ):
        states = _run(both.ends, first, ids, mask, causal)
        (states * weight).sum().backward()
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
    found = both.layout.views(own.grad if own.grad is not None else torch.zeros_like(own))
    theirs = both.trunk_layout.views(both.rows.training("ada").row.gradient)
    for path, gradient in both.layout.views(leaf.grad).items():
        other = theirs[path] if path in theirs else found[path]
        assert gradient.norm() > 0
        assert (gradient - other).norm() <= 1e-4 * gradient.norm(), path
    assert not both.rows.training("bob").row.gradient.any()
    assert both.work.held("ada") == 0


def test_without_gradients_nothing_is_held_and_the_base_model_can_be_asked(tmp_path: Path) -> None:
    both, (ids, mask) = Both("llama", tmp_path, Cut(1, 1)), _ids()
    with torch.no_grad():
        plain = _run(both.ends, None, ids, mask, True)
        expected = _run(both.chain, None, ids, mask, True)
        torch.testing.assert_close(plain[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
        views = both.layout.views(both.row)
        with both.own_lora.bound(views), both.stub.bound():
            adapted = _run(both.ends, None, ids, mask, True)
    assert not torch.allclose(adapted[mask.bool()], plain[mask.bool()], atol=1e-3)
    assert both.work.held("ada") == 0


def test_a_gradient_for_nothing_is_refused_and_release_forgets(tmp_path: Path) -> None:
    both, (_, mask) = Both("llama", tmp_path, Cut(1, 1)), _ids()
    given = States(torch.randn(3, 16, 32), mask.bool())
    both.work.forward("ada", 1, given, Manner(causal=True, gradients=True))
    both.work.forward("bob", 1, given, Manner(causal=True, gradients=True))
    with pytest.raises(RunError, match="forward pass 1 already"):
        both.work.forward("ada", 1, given, Manner(causal=True, gradients=True))
    both.work.release("ada")
    assert (both.work.held("ada"), both.work.held("bob")) == (0, 1)
    with pytest.raises(RunError, match="pass 1, which is not held"):
        both.work.backward("ada", 1, given)


@pytest.mark.parametrize("name", DECODERS)
def test_beams_through_a_stub_are_those_of_the_model(tmp_path: Path, name: str) -> None:
    both, ids = Both(name, tmp_path, Cut(1, 1)), _ids()[0]
    views, found = both.layout.views(both.row), []
    direct, stubbed = SplitCausal(*both.chain), SplitCausal(*both.ends)
    with both.lora.bound(views):
        found.append(beam_search(direct, ids, torch.ones_like(ids), beams=3, max_new_tokens=6, eos=2))
    with both.own_lora.bound(views), both.stub.bound():
        found.append(beam_search(stubbed, ids, torch.ones_like(ids), beams=3, max_new_tokens=6, eos=2))
    found.append(beam_search(stubbed, ids, torch.ones_like(ids), beams=3, max_new_tokens=6, eos=2))
    assert torch.equal(found[0].tokens, found[1].tokens)
    torch.testing.assert_close(found[0].scores, found[1].scores, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[0].scores, found[2].scores, atol=1e-3)


JOINABLE = [*DECODERS, *(name for name in ENCODERS if name != "longformer")]


def _given(seed: int, rows: int, length: int, start: int) -> States:
    generator = torch.Generator().manual_seed(seed)
    present = torch.ones(rows, length, dtype=torch.bool)
    present[-1, length - 3 :] = False
    states = torch.randn(rows, length, 32, generator=generator) * present[..., None]
    return States(states, present, torch.randn(1, start, 32, generator=generator) if start else None)


@pytest.mark.parametrize("together", ["both", "one after the other", "one alone"])
@pytest.mark.parametrize(("name", "start"), [*((name, 0) for name in JOINABLE), ("llama", 5), ("gemma3", 9)])
def test_passes_together_are_what_they_are_alone(tmp_path: Path, name: str, start: int, together: str) -> None:
    """Two clients with different rows, lengths and seeds of dropout, in one batch."""
    both, causal = Both(name, tmp_path, Cut(1, 1)), name in DECODERS
    given = {"ada": _given(1, 3, 16, start), "bob": _given(2, 2, 11, start)}
    manners = {client: Manner(causal, dropout=seed, gradients=True) for client, seed in (("ada", 5), ("bob", 6))}
    weight = {client: torch.randn(states.rows.shape) * states.present[..., None] for client, states in given.items()}
    assert len({manner_key(given[client], manners[client]) for client in given}) == 1

    def gradient(client: str) -> States:
        start_of = given[client].start
        return States(weight[client], given[client].present, None if start_of is None else torch.ones_like(start_of))

    def prepared() -> TrunkWork:
        both.rows.bank.row("bob").add_(0.1 * torch.randn(both.trunk_layout.size, generator=torch.manual_seed(9)))
        both.rows.begin_round(1)
        return both.work

    work, alone = prepared(), {}
    for client, states in given.items():
        result = work.forward(client, 1, states, manners[client])
        alone[client] = (result, work.backward(client, 1, gradient(client)))
    expected = {client: both.rows.training(client).row.gradient.clone() for client in given}
    both.rows.bank.row("bob").copy_(both.rows.bank.row("ada"))  # as it was before `prepared`
    work = prepared()
    results = work.forward_all([(client, 1, states, manners[client]) for client, states in given.items()])
    assert work.partners("ada", 1) == [("bob", 1)]
    if together == "both":
        found = work.backward_all([(client, 1, gradient(client)) for client in given])
    elif together == "one after the other":
        found = [work.backward("ada", 1, gradient("ada"))]
        both.rows.step("ada", 1, 0.1, 1.0)  # changes ada's row before bob's gradient is computed
        found.append(work.backward("bob", 1, gradient("bob")))
        both.rows.training("ada").row.gradient.copy_(expected["ada"])
    else:
        work.release("ada")
        found = [None, work.backward("bob", 1, gradient("bob"))]
        assert not both.rows.training("ada").row.gradient.any()
        both.rows.training("ada").row.gradient.copy_(expected["ada"])
    for (client, (states, back)), result, ours in zip(alone.items(), results, found, strict=True):
        keep = given[client].present
        torch.testing.assert_close(result.rows[keep], states.rows[keep], atol=1e-5, rtol=1e-5)
        own = both.rows.training(client).row.gradient
        assert (own - expected[client]).norm() <= 1e-4 * expected[client].norm()
        assert expected[client].norm() > 0
        if ours is not None:
            torch.testing.assert_close(ours.rows[keep], back.rows[keep], atol=1e-4, rtol=1e-4)
            if start:
                torch.testing.assert_close(ours.start, back.start, atol=1e-4, rtol=1e-4)
    assert work.held("ada") == work.held("bob") == 0
