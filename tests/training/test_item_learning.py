"""Adapters that learn once a round: from the gradient of all items' vectors, in whichever process the model is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from pplr.errors import NumericalError
from pplr.models.item_reader import Lesson
from pplr.models.layout import Layout
from pplr.models.lora import AdapterSettings
from pplr.models.sequence import SequenceBackbone, item_tokens
from pplr.models.sequence_settings import SequenceSettings
from pplr.models.vectors import encode
from pplr.training import Place, TrainingSettings, train_locally
from pplr.training.item_learning import LocalReader

DATA = tiny.dataset()
ADAPTER = AdapterSettings(rank=2, dropout=0.0)
SETTINGS = SequenceSettings(
    width=16, positions=8, layers=1, dropout=0.0, adapters=True, adapter_updates="round", adapter=ADAPTER
)
LESSON = Lesson(rate=0.02, warmup=0, weight_decay=0.0, clip_norm=1.0, seed=5)
PLACE = Place(seed=3, client="client-1", round=2, progress=0.25)


def local_reader(settings: SequenceSettings = SETTINGS, step_items: int = 8) -> LocalReader:
    tokens = item_tokens(settings, DATA.catalogue, tiny.word_tokenizer())
    return LocalReader(tiny.encoder("bert"), tokens, settings.adapter, step_items)


def backbone(reader: LocalReader, settings: SequenceSettings = SETTINGS) -> SequenceBackbone:
    vectors = encode(tiny.encoder("bert"), item_tokens(settings, DATA.catalogue, tiny.word_tokenizer()))
    return SequenceBackbone(settings, DATA.catalogue, None, None, tiny.CPU, vectors=vectors, reader=reader)


def some_row(layout: Layout) -> torch.Tensor:
    return layout.initial_row(1) + torch.randn(layout.size, generator=torch.Generator().manual_seed(1)) * 0.1


def factors_of(tested: SequenceBackbone, row: torch.Tensor) -> dict[str, torch.Tensor]:
    views = tested.layout.views(row)
    return {spec.name: views[spec.name] for spec in tested.reader.specs}


def test_the_gradient_is_that_of_the_loss_by_every_vector():
    tested = backbone(local_reader())
    parameters = tested.layout.views(some_row(tested.layout))
    examples = tested.examples(DATA.training())
    raw = tested.reader.encode(factors_of(tested, some_row(tested.layout)))
    found = tested.item_gradient(parameters, tested.encode_catalogue(parameters), examples, 40)
    leaf = raw.clone().requires_grad_()
    loss = tested.loss(parameters, tested._standardised(leaf), examples, np.arange(len(examples)), training=False)
    (loss.total / loss.targets).backward()
    torch.testing.assert_close(found, leaf.grad, rtol=1e-4, atol=1e-7)
    assert found.abs().max() > 0


def test_the_first_step_follows_the_gradient_of_the_whole_chain():
    tested = backbone(local_reader(step_items=len(DATA.catalogue)))
    row = some_row(tested.layout)
    parameters = tested.layout.views(row)
    examples = tested.examples(DATA.training())
    gradient = tested.item_gradient(parameters, tested.encode_catalogue(parameters), examples, 40)
    learned = tested.reader.learn(factors_of(tested, row), frozenset(), gradient, LESSON)

    def loss(factors: dict[str, torch.Tensor]) -> torch.Tensor:
        catalogue = tested.encode_catalogue({**parameters, **factors})
        found = tested.loss(parameters, catalogue, examples, np.arange(len(examples)), training=False)
        return found.total / found.targets

    before = factors_of(tested, row)
    for name in before:  # by differences, the model's own gradients unused; AdamW's first step is rate times the sign
        step = 1e-2
        place = int((learned[name] - before[name]).abs().argmax())
        moved = [{**before, name: before[name].clone()} for _ in range(2)]
        for sign, factors in zip((1, -1), moved, strict=True):
            factors[name].view(-1)[place] += sign * step
        slope = float(loss(moved[0]) - loss(moved[1])) / (2 * step)
        change = float((learned[name] - before[name]).reshape(-1)[place])
        assert abs(change) == pytest.approx(LESSON.rate, rel=0.02)
        assert change * slope < 0, f"{name} went uphill"


def test_rounds_of_learning_lower_the_loss_and_the_adapters_are_why():
    losses = {}
    for learns in (True, False):
        tested = backbone(local_reader())
        if not learns:
            tested.end_round = lambda *arguments: {}
        row, examples = tested.layout.initial_row(1), tested.examples(DATA.training())
        settings = TrainingSettings(epochs=1, learning_rate=5e-3, batch_tokens=200, schedule="constant")
        for number in range(6):
            result = train_locally(tested, row, examples, settings, Place(3, "a", number + 1, 0.0))
            row = result.row
        losses[learns] = result.loss
        moved = any(bool(value.any()) for name, value in tested.layout.views(row).items() if name.endswith("lora_B"))
        assert moved == learns
    assert losses[True] < losses[False] - 0.01


def test_steps_leave_the_adapters_alone():
    tested = backbone(local_reader())
    tested.end_round = lambda *arguments: {}
    row = some_row(tested.layout)
    settings = TrainingSettings(learning_rate=0.05, weight_decay=0.5, batch_tokens=100)
    trained = train_locally(tested, row, tested.examples(DATA.training()), settings, PLACE).row
    before, after = factors_of(tested, row), factors_of(tested, trained)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(row, trained)


def test_frozen_factors_stand_still_and_the_same_lesson_gives_the_same_bits():
    reader = local_reader(SETTINGS.model_copy(update={"adapter": AdapterSettings(rank=2, dropout=0.3)}))
    adapters = {spec.name: torch.randn(spec.shape, generator=torch.Generator().manual_seed(2)) for spec in reader.specs}
    gradient = torch.randn(len(DATA.catalogue), 16, generator=torch.Generator().manual_seed(3))
    frozen = frozenset(name for name in adapters if name.endswith("lora_A"))
    one = reader.learn(adapters, frozen, gradient, LESSON)
    torch.manual_seed(99)
    other = reader.learn(adapters, frozen, gradient, LESSON)
    assert all(torch.equal(one[name], other[name]) for name in adapters)
    for name, before in adapters.items():
        assert torch.equal(one[name], before) == (name in frozen)


def test_a_gradient_that_leads_nowhere_is_a_sentence():
    reader = local_reader()
    adapters = {spec.name: torch.full(spec.shape, 1e30) for spec in reader.specs}
    with pytest.raises(NumericalError, match=r"adapters became (nan|inf) in step 1\. Lower"):
        reader.learn(adapters, frozenset(), torch.full((len(DATA.catalogue), 16), 1e30), LESSON)


def test_a_client_without_examples_learns_nothing():
    tested = backbone(local_reader())
    row = some_row(tested.layout)
    nothing = tested.examples(DATA.training().select(np.arange(0)))
    assert torch.equal(train_locally(tested, row, nothing, TrainingSettings(), PLACE).row, row)
