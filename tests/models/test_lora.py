"""Adapters equal PEFT's for one client, and batches that mix clients equal separate runs."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
from torch.func import functional_call, vmap

import tiny
from pplr.errors import ModelError
from pplr.models.layout import Layout, TrainableRow
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.sequence_network import hidden_states, network_specs

ALL_SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BODIES = {
    "llama": ("q_proj", "v_proj"),
    "qwen2": ("q_proj", "v_proj"),
    "gemma3": ("q_proj", "v_proj"),
    "bert": ("query", "value"),
    "mpnet": ("q", "v"),
    "longformer": ("query", "value"),
}
SETTINGS = AdapterSettings(rank=3, scale=5.0, dropout=0.0)


def body_of(kind):
    return tiny.decoder(kind).base_model if kind in {"llama", "qwen2", "gemma3"} else tiny.encoder(kind)


def random_row(layout, seed=0):
    return torch.randn(layout.size, generator=torch.Generator().manual_seed(seed)) * 0.3


def batch(size=3, length=7):
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, 30, (size, length), generator=generator)
    mask = torch.ones_like(ids)
    for i in range(size):
        mask[i, length - i :] = 0
    return ids, mask


def read(body, ids, mask):
    states = body(input_ids=ids, attention_mask=mask).last_hidden_state
    return states * mask.unsqueeze(-1)


def objective(states):
    """A loss per sample whose gradient does not vanish behind the last normalisation, as that of the square would."""
    weights = torch.linspace(-1, 1, states[0].numel()).view_as(states[0])
    return (states * weights + states**3).sum()


def with_peft(body, targets, named):
    """The same adapter in PEFT, with its factors as leaves by our names."""
    config = peft.LoraConfig(r=3, lora_alpha=5.0, lora_dropout=0.0, target_modules=list(targets))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT's use of transformers
        model = peft.get_peft_model(copy.deepcopy(body), config).eval()
    leaves = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            ours = name.removeprefix("base_model.model.").replace(".default.weight", "")
            parameter.data.copy_(named[ours])
            leaves[ours] = parameter
    assert set(leaves) == set(named)
    return model, leaves


@pytest.mark.parametrize(("kind", "targets"), [*BODIES.items(), ("llama", ALL_SEVEN), ("qwen2", ALL_SEVEN)])
def test_forward_and_every_gradient_equal_peft(kind, targets):
    body, (ids, mask) = body_of(kind), batch()
    reference = copy.deepcopy(body)
    explicit = () if len(targets) == 2 else targets  # the defaults are queries and values
    lora = Lora(body, SETTINGS.model_copy(update={"targets": explicit}))
    layout = Layout(lora.specs)
    trained = TrainableRow(layout, random_row(layout))
    model, leaves = with_peft(reference, targets, trained.frozen())

    expected = read(model.base_model.model, ids, mask)
    with lora.bound(trained.named):
        found = read(body, ids, mask)
    base = read(reference, ids, mask)
    assert (expected - base).abs().max() > 1e-2, "the adapter must matter for this test to mean anything"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    objective(found).backward()
    objective(expected).backward()
    assert len(leaves) == 4 * len(targets)
    for name, leaf in leaves.items():
        scale = leaf.grad.abs().max()
        assert scale > 0
        torch.testing.assert_close(trained.named[name].grad / scale, leaf.grad / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("size", [3, 8])  # 8 = the length Longformer reads: batch and length must not be confused
def test_a_batch_that_mixes_clients_equals_separate_runs(kind, size):
    body, (ids, mask) = body_of(kind), batch(size, 8)
    lora = Lora(body, SETTINGS)
    layout = Layout(lora.specs)
    bank = torch.stack([random_row(layout, seed) for seed in range(4)])
    clients = torch.tensor([2, 0, 2, 3, 1, 1, 0, 3])[:size]

    together = bank.clone().requires_grad_()
    with lora.bound(layout.views(together), clients=clients):
        states = read(body, ids, mask)
    objective(states).backward()

    apart = bank.clone().requires_grad_()
    for i, client in enumerate(clients.tolist()):
        with lora.bound(layout.views(apart[client])):
            alone = read(body, ids[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(states[i : i + 1], alone, rtol=1e-5, atol=1e-5)
        objective(alone).backward()
    scale = apart.grad.abs().max()
    torch.testing.assert_close(together.grad / scale, apart.grad / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch batches its CPU attention one by one
def test_the_sequence_head_runs_many_rows_under_vmap():
    layout = Layout(network_specs(width=8, layers=2, positions=5))
    bank = (torch.stack([layout.initial_row(seed) for seed in range(3)]) + 0.1).requires_grad_()
    items = torch.randn(3, 2, 4, 8, generator=torch.Generator().manual_seed(0))

    def run(parameters, batch):
        return hidden_states(parameters, batch, layers=2, heads=2)

    states = vmap(run)(layout.views(bank), items)
    states.square().sum().backward()
    apart = bank.detach().clone().requires_grad_()
    alone = torch.stack([run(layout.views(apart[c]), items[c]) for c in range(3)])
    alone.square().sum().backward()
    torch.testing.assert_close(states, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bank.grad, apart.grad, rtol=1e-4, atol=1e-5)


def test_nothing_bound_and_fresh_factors_are_the_base_model(tiny_bert):
    ids, mask = batch()
    before = read(tiny_bert, ids, mask)
    lora = Lora(tiny_bert, SETTINGS)
    assert torch.equal(read(tiny_bert, ids, mask), before)
    layout = Layout(lora.specs)
    with lora.bound(layout.views(layout.initial_row(0))):
        assert torch.equal(read(tiny_bert, ids, mask), before)  # B = 0
    with lora.bound(layout.views(random_row(layout))):
        assert not torch.allclose(read(tiny_bert, ids, mask), before)
    assert torch.equal(read(tiny_bert, ids, mask), before)


def test_factors_are_unbound_after_an_error(tiny_bert):
    ids, mask = batch()
    before = read(tiny_bert, ids, mask)
    lora = Lora(tiny_bert, SETTINGS)
    layout = Layout(lora.specs)
    with pytest.raises(KeyboardInterrupt), lora.training(1), lora.bound(layout.views(random_row(layout))):
        raise KeyboardInterrupt
    assert torch.equal(read(tiny_bert, ids, mask), before)


def test_dropout_applies_inside_the_training_block_only(tiny_llama):
    ids, mask = batch()
    body = tiny_llama.base_model
    lora = Lora(body, AdapterSettings(rank=3, dropout=0.5))
    layout = Layout(lora.specs)
    with lora.bound(layout.views(random_row(layout))):
        quiet = read(body, ids, mask)
        results = []
        for seed in (1, 1, 2):
            with lora.training(seed):
                results.append(read(body, ids, mask))
        assert torch.equal(read(body, ids, mask), quiet)
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2])
    assert not torch.allclose(results[0], quiet)


def test_dropout_drops_its_share_and_scales_the_rest():
    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(40, 40, bias=False)}).requires_grad_(False)
    model["q_proj"].weight.zero_()
    lora = Lora(model, AdapterSettings(rank=40, scale=40.0, dropout=0.3, targets=("q_proj",)))
    x = torch.rand(500, 40, generator=torch.Generator().manual_seed(1)) + 1
    with lora.bound({"q_proj.lora_A": torch.eye(40), "q_proj.lora_B": torch.eye(40)}), lora.training(3):
        y = model["q_proj"](x)
    kept = y != 0
    assert kept.float().mean() == pytest.approx(0.7, abs=0.02)
    torch.testing.assert_close(y[kept], x[kept] / 0.7)


@pytest.mark.parametrize(("wrong", "meant"), [("q_porj", "q_proj"), ("dense", None)])
def test_a_target_that_is_not_there_is_named_with_those_that_are(tiny_llama, wrong, meant):
    with pytest.raises(ModelError) as caught:
        Lora(tiny_llama, AdapterSettings(targets=("v_proj", wrong)))
    text = str(caught.value)
    assert repr(wrong) in text
    assert all(name in text for name in ALL_SEVEN)
    assert (f"Did you mean '{meant}'?" in text) is (meant is not None)


def test_the_base_model_is_neither_copied_nor_changed(tiny_llama):
    before = {name: (t.data_ptr(), t.clone()) for name, t in tiny_llama.state_dict().items()}
    lora = Lora(tiny_llama, SETTINGS)
    layout = Layout(lora.specs)
    trained = TrainableRow(layout, random_row(layout))
    ids, mask = batch()
    with lora.bound(trained.named):
        read(tiny_llama.base_model, ids, mask).sum().backward()
    after = {name.replace(".base.", "."): t for name, t in tiny_llama.state_dict().items()}
    assert set(after) == set(before)
    for name, (place, value) in before.items():
        assert after[name].data_ptr() == place
        assert torch.equal(after[name], value)


def test_functional_call_over_the_wrapped_model_still_works(tiny_bert):
    ids, mask = batch()
    Lora(tiny_bert, SETTINGS)
    doubled = {name: tensor * 2 for name, tensor in tiny_bert.named_parameters()}
    states = functional_call(tiny_bert, doubled, (), {"input_ids": ids, "attention_mask": mask})
    assert torch.isfinite(states.last_hidden_state).all()
