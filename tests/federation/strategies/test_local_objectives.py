"""fedprox, ditto and fedper: what clients minimise, and what they keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from row_cohorts import LAYOUT

import tiny
from pplr.errors import ConfigError
from pplr.federation.messages import TrainTask
from pplr.federation.strategies import Ditto, FedAvg, FedPer, FedProx, Local
from pplr.models.layout import Layout, ParameterSpec, zeros
from pplr.training import Place, Pull, TrainingSettings, train_locally
from pplr.training.local import _plan

DATA = tiny.dataset()
PLACE = Place(seed=3, client="client-1", round=1, progress=0.0)
SETTINGS = TrainingSettings(
    epochs=1, learning_rate=0.05, weight_decay=0.0, warmup_steps=3, clip_norm=0.7, batch_tokens=60
)


def by_autograd(backbone, examples, row, towards, strength):
    """A plain loop of torch: the term is in the loss, and nothing is worked out by hand."""
    theta = row.clone().requires_grad_()
    adam = torch.optim.AdamW([theta], weight_decay=0.0)
    for step, (_, batch) in enumerate(_plan(examples.lengths, SETTINGS, PLACE), start=1):
        loss = backbone.loss(backbone.layout.views(theta), None, examples, batch, training=True)
        shared = theta[: len(towards)]
        whole = loss.total / loss.targets + strength / 2 * ((shared - towards) ** 2).sum()
        adam.zero_grad()
        whole.backward()
        torch.nn.utils.clip_grad_norm_([theta], SETTINGS.clip_norm)
        adam.param_groups[0]["lr"] = SETTINGS.learning_rate * min(1, step / SETTINGS.warmup_steps)
        adam.step()
    return theta.detach()


@pytest.mark.parametrize("bias", ["shared", "private"])
@pytest.mark.parametrize("strength", [0.05, 3.0])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["fedprox", "ditto"])
def test_the_pull_is_the_gradient_of_the_term_in_the_loss(bias, strength, elsewhere):
    backbone = tiny.sequence_backbone(DATA, dropout=0.0, bias=bias)
    examples = backbone.examples(DATA.training().select(np.arange(20)))
    received = backbone.layout.initial_row(0)
    start = backbone.layout.initial_row(1) if elsewhere else received
    towards = received[: backbone.layout.shared]
    expected = by_autograd(backbone, examples, start, towards, strength)
    found = train_locally(backbone, start, examples, SETTINGS, PLACE, pull=Pull(strength, towards)).row
    moved = (expected - start).abs().max()
    assert (found - expected).abs().max() < 2e-3 * moved
    free = train_locally(backbone, start, examples, SETTINGS, PLACE).row
    assert (found - free).abs().max() > 0.02 * moved, "the term makes a difference"


def test_the_reported_loss_is_without_the_term():
    backbone = tiny.sequence_backbone(DATA, dropout=0.0)
    examples = backbone.examples(DATA.training().select(np.arange(4)))
    settings = SETTINGS.model_copy(update={"batch_tokens": 10_000})
    row = backbone.layout.initial_row(0)
    far = Pull(100.0, torch.zeros(backbone.layout.shared))
    results = [train_locally(backbone, row, examples, settings, PLACE, pull=pull) for pull in (None, far)]
    assert results[0].steps == 1
    assert results[0].loss == results[1].loss


def essence(strategy, **options):
    """What a run measures and ends with, all its randomness the same."""
    coordinator, members = tiny.federation(None, strategy=strategy, rounds=3, **options)
    history = coordinator.run().history
    measured = [
        {name: (one.validation, one.validation_loss) for name, one in record.clients.items()} for record in history
    ]
    return coordinator, measured, {member.info.name: member.best for member in members}


def whole_rows(bests):
    return torch.stack([bests[name] for name in sorted(bests)])


@pytest.mark.parametrize("participation", [1.0, 2])
def test_ditto_without_a_pull_measures_local_rows_and_shares_those_of_fedavg(participation):
    options = {"participation": participation}
    ditto, measured, bests = essence(Ditto(pull=0), **options)
    _, expected, own = essence(Local(), **options)
    fedavg, _, _ = essence(FedAvg(), **options)
    assert measured == expected
    assert torch.equal(whole_rows(bests), whole_rows(own))
    assert torch.equal(ditto.bank.rows, fedavg.bank.rows)


@pytest.mark.parametrize(("moments", "pulls"), [("fresh", (0.0, 1.0, 100.0)), ("kept", (0.0, 0.1, 1.0))])
def test_the_stronger_the_pull_the_closer_is_a_personal_row_to_the_shared_one(moments, pulls):
    """Where moments are kept, a pull that outweighs the loss (100) comes no closer than 1: the gradient is clipped, and averages
    of it point to where the shared row was."""
    gaps, training = [], tiny.TRAINING.model_copy(update={"moments": moments})
    for pull in pulls:
        coordinator, members = tiny.federation(None, strategy=Ditto(pull=pull), rounds=3, training=training)
        coordinator.run()
        shared = coordinator.bank.rows.shape[1]
        gaps.append(sum(float((m.personal[:shared] - coordinator.bank.row(m.info.name)).norm()) for m in members))
    assert gaps[0] > 1.1 * gaps[1] > 1.1**2 * gaps[2], gaps


def test_a_personal_row_is_trained_from_itself_towards_what_was_received():
    _, (client, *_) = tiny.federation(None, strategy=Ditto(pull=0.7))
    backbone, shared = client._backbone, client._backbone.layout.shared
    before = backbone.layout.initial_row(17)
    client.personal = before.clone()
    received = backbone.layout.initial_row(18)[:shared]
    update = client.train(TrainTask(client.info.name, 2, 0.25, received))
    place = Place(5, client.info.name, 2, 0.25)
    expected = train_locally(backbone, before, client._examples, tiny.TRAINING, place, pull=Pull(0.7, received))
    assert torch.equal(client.personal, expected.row)
    assert update.tokens == 2 * expected.tokens
    plain = tiny.federation(None, strategy=FedAvg())[1][0]
    assert torch.equal(update.row, plain.train(TrainTask(client.info.name, 2, 0.25, received)).row)


@pytest.mark.parametrize("participation", [1.0, 2])
@pytest.mark.parametrize(
    ("strategy", "other"), [(FedProx(mu=0), FedAvg()), (FedPer(layers=0), FedAvg()), (FedPer(names=("*",)), Local())]
)
def test_at_its_degenerate_value_a_run_is_the_other_one(strategy, other, participation):
    options = {"participation": participation, "backbone_settings": {"contrast": "catalogue"}}  # as local is configured
    _, measured, bests = essence(strategy, **options)
    _, expected, others = essence(other, **options)
    assert measured == expected
    layouts = [tiny.federation(None, strategy=one)[1][0]._backbone.layout for one in (strategy, other)]
    ours, theirs = (layout.views(whole_rows(rows)) for layout, rows in zip(layouts, (bests, others), strict=True))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_prox_keeps_rows_closer_to_what_was_received():
    moved = []
    for mu in (0.0, 10.0):
        coordinator, _ = tiny.federation(None, strategy=FedProx(mu=mu), rounds=1)
        before = coordinator.bank.rows.clone()
        coordinator.run()
        moved.append(float((coordinator.bank.rows - before).norm()))
    assert moved[1] < 0.8 * moved[0]


def private(strategy, specs=LAYOUT.specs, depth=None):
    return {spec.name for spec in strategy.scope(specs, depth) if spec.private}


def test_the_last_layers_of_each_stack_are_private():
    names = [
        *(f"block.{i}.up" for i in range(3)),
        *(f"encoder.layer.{i}.query.lora_A" for i in (0, 5, 11)),
        "norm_final",
    ]
    specs = [ParameterSpec(name, (2,), zeros) for name in names]
    assert private(FedPer(), specs) == {"block.2.up", "encoder.layer.11.query.lora_A"}
    assert private(FedPer(layers=2), specs) == {"block.1.up", "block.2.up", "encoder.layer.11.query.lora_A"}
    assert private(FedPer(layers=100, names=("norm_*",)), specs) == set(names)
    middle = [spec for spec in specs if spec.name.startswith("encoder")][:2]
    assert private(FedPer(layers=6), middle, depth=12) == set()
    assert private(FedPer(layers=7), middle, depth=12) == {"encoder.layer.5.query.lora_A"}


def test_private_layers_differ_between_clients_and_the_others_do_not():
    coordinator, members = tiny.federation(
        None, strategy=FedPer(), rounds=2, backbone_settings={"layers": 2, "bias": "shared"}
    )
    coordinator.run()
    layout = members[0]._backbone.layout
    assert {spec.name.split(".")[1] for spec in layout.specs if spec.private} == {"1"}
    assert torch.equal(coordinator.bank.rows[0], coordinator.bank.rows[1])
    assert not torch.equal(members[0].private, members[1].private)


def test_a_name_that_nothing_has_is_refused():
    with pytest.raises(ConfigError, match=r"strategy\.names has 'head\.\*', but no parameter is called so"):
        FedPer(names=("head.*",)).scope(Layout(LAYOUT.specs).specs)
