"""Products in bfloat16: what is rounded, what is not, and that training is as good."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import tiny
from pplr.config import parse_config
from pplr.data.dataset import Part
from pplr.errors import ConfigError
from pplr.models import arithmetic
from pplr.models.arithmetic import cross_entropy, linear
from pplr.models.encoder import EncoderBackbone, EncoderSettings
from pplr.models.generative import GenerativeBackbone, GenerativeSettings
from pplr.models.layout import TrainableRow
from pplr.models.lora import AdapterSettings
from pplr.training import Place, train_locally

DATA = tiny.dataset()


def backbone(kind, precision):
    adapter = AdapterSettings(rank=2, dropout=0.0)
    if kind == "sequence":
        return tiny.sequence_backbone(DATA, dropout=0.0, precision=precision)
    if kind == "encoder":
        settings = EncoderSettings(adapter=adapter, history_tokens=60, item_tokens=12, precision=precision)
        return EncoderBackbone(settings, DATA.catalogue, tiny.encoder("bert"), tiny.word_tokenizer(), tiny.CPU)
    settings = GenerativeSettings(
        adapter=adapter, prompt_tokens=500, title_tokens=30, beams=2, precision=precision, model="llama"
    )
    return GenerativeBackbone(settings, DATA.catalogue, tiny.decoder("llama"), tiny.byte_tokenizer(), tiny.CPU)


KINDS = pytest.mark.parametrize("kind", ["sequence", "encoder", "generative"])


def random_row(layout):
    return torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.3


def gradients(loss, *inputs):
    leaves = [None if each is None else each.clone().requires_grad_() for each in inputs]
    total = loss(*leaves)
    (3 * total).backward()
    return total.detach(), [each.grad for each in leaves if each is not None]


@given(
    states=st.integers(0, 40),
    items=st.integers(1, 60),
    chunk=st.integers(1, 50),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_cross_entropy_is_that_of_rounded_factors(states, items, chunk, biased, seed):
    draw = torch.Generator().manual_seed(seed)
    rows, table = torch.randn(states, 16, generator=draw), torch.randn(items, 16, generator=draw)
    bias = torch.randn(items, generator=draw) if biased else None
    targets = torch.randint(items, (states,), generator=draw)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(arithmetic, "CHUNK", chunk)
        found = gradients(lambda *given: cross_entropy(*given, targets, "bfloat16"), rows, table, bias)

    def by_torch(rows, table, bias):
        logits = (rows.bfloat16() @ table.bfloat16().T).float()
        return F.cross_entropy(logits if bias is None else logits + bias, targets, reduction="sum")

    expected = gradients(by_torch, rows, table, bias)
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-4, abs=1e-4)
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert float((mine - theirs).norm()) <= 0.02 * float(theirs.norm()) + 0.02


def test_where_nothing_is_lost_by_rounding_the_loss_is_exact():
    draw = torch.Generator().manual_seed(0)
    rows, table = (torch.randint(-2, 3, (n, 8), generator=draw).float() for n in (20, 30))
    targets = torch.randint(30, (20,), generator=draw)
    bias = torch.randn(30, generator=draw)  # added in float32
    expected = F.cross_entropy(rows @ table.T + bias, targets, reduction="sum")
    for precision in ("bfloat16", "float32"):
        torch.testing.assert_close(cross_entropy(rows, table, bias, targets, precision), expected)
        torch.testing.assert_close(linear(rows, table, precision), rows @ table.T, rtol=0, atol=0)
        assert linear(rows, table, precision).dtype == torch.float32


@KINDS
def test_a_rounded_pass_is_near_the_full_one_and_is_not_it(kind):
    losses, found = [], []
    for precision in ("float32", "bfloat16"):
        tested = backbone(kind, precision)
        trained = TrainableRow(tested.layout, random_row(tested.layout))
        examples = tested.examples(DATA.training())
        catalogue = tested.encode_catalogue(trained.frozen())
        loss = tested.loss(trained.named, catalogue, examples, np.arange(6), training=True)
        loss.total.backward()
        assert loss.total.dtype == trained.gradient.dtype == torch.float32
        losses.append(float(loss.total.detach()) / loss.targets)
        found.append(trained.gradient)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert 0 < float((found[1] - found[0]).norm() / found[0].norm()) < 0.2


@KINDS
def test_training_in_it_learns_as_much(kind):
    losses = {}
    for precision in ("float32", "bfloat16"):
        tested = backbone(kind, precision)
        examples = tested.examples(DATA.training()).select(np.arange(30))
        row, before = tested.layout.initial_row(1), None
        for number in (1, 2):
            result = train_locally(tested, row, examples, tiny.TRAINING, Place(1, "shop", number, 0.0))
            before, row = before or result.loss, result.row
        losses[precision] = (before, result.loss)
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.01)
    fallen = {precision: first - last for precision, (first, last) in losses.items()}
    assert fallen["bfloat16"] == pytest.approx(fallen["float32"], rel=0.1), "steps are seen by the next pass"
    assert fallen["float32"] > 0


@pytest.mark.parametrize("contrast", ["catalogue", "own"])
@pytest.mark.parametrize("private", [False, True])
def test_a_rounded_gradient_of_items_is_near_the_full_one(contrast, private):
    found = []
    for precision in ("float32", "bfloat16"):
        where = {"residual": "private" if private else "shared", "bias": "none" if private else "shared"}
        tested = tiny.sequence_backbone(DATA, dropout=0.0, precision=precision, contrast=contrast, **where)
        examples = tested.examples(DATA.training().select(np.arange(3)))
        assert 2 < len(examples.items) < 30
        found.append(tested.item_gradient(tested.layout.views(random_row(tested.layout)), None, examples, 20))
    assert torch.equal(found[0].any(1), found[1].any(1)), "of the same items"
    assert 0 < float((found[1] - found[0]).norm() / found[0].norm()) < 0.05


def test_items_that_are_read_at_every_step_are_read_in_it():
    adapters = {"adapters": True, "adapter": AdapterSettings(rank=2, dropout=0.0), "live_items": 5}
    found = []
    for precision in ("float32", "bfloat16"):
        tested = tiny.sequence_backbone(DATA, dropout=0.0, precision=precision, **adapters)
        trained = TrainableRow(tested.layout, random_row(tested.layout))
        examples = tested.examples(DATA.training())
        vectors = tested.encode_catalogue(trained.frozen())
        torch.manual_seed(1)
        tested.loss(trained.named, vectors, examples, np.arange(6), training=True).total.backward()
        found.append((vectors, torch.cat([trained.named[spec.name].grad.reshape(-1) for spec in tested.lora.specs])))
    for full, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.float32
        assert 0 < float((rounded - full).norm() / full.norm()) < 0.2


def test_what_the_default_backbone_is_measured_by_is_not_rounded():
    full, rounded = (backbone("sequence", precision) for precision in ("float32", "bfloat16"))
    parameters = full.layout.views(random_row(full.layout))
    queries = DATA.queries(Part.TEST)
    scores = [each.scorer(parameters).scores(queries) for each in (full, rounded)]
    assert torch.equal(*scores)
    examples = full.query_examples(queries)
    losses = [each.loss(parameters, None, examples, np.arange(9), training=False).total for each in (full, rounded)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("kind", ["encoder", "generative"])
def test_scores_of_a_rounded_language_model_are_float32_and_near(kind):
    queries = DATA.queries(Part.TEST).select(np.arange(4))
    found = []
    for precision in ("float32", "bfloat16"):
        tested = backbone(kind, precision)
        found.append(tested.scorer(tested.layout.views(random_row(tested.layout))).scores(queries))
    assert found[1].dtype == torch.float32
    if kind == "encoder":
        assert not torch.equal(*found)
        torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.3)
        assert all(len(row.unique()) > 0.9 * len(row) for row in found[1]), "cosines are not rounded into ties"
    else:
        assert ((found[1] > 0).sum(1) >= 2).all(), "beams write titles"


def test_a_split_model_is_in_full_precision(tmp_path):
    content = {"data": {"demo": "movietweetings"}, "backbone": {"kind": "encoder", "precision": "bfloat16"}}
    assert parse_config(content, tmp_path).backbone.precision == "bfloat16"
    with pytest.raises(ConfigError, match=r"Leave the precision out, or set placement.kind to 'whole'"):
        parse_config(content | {"placement": {"kind": "split", "bottom": 1, "top": 1}}, tmp_path)
