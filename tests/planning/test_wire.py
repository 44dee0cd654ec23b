"""Planned bytes are those of the frames that a client and a trunk exchange."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from pplr.data.dataset import Catalogue, Ragged
from pplr.models.causal.split import SplitCausal
from pplr.models.decoding.beam import beam_search
from pplr.models.encoder import EncoderBackbone, EncoderSettings
from pplr.models.generative import GenerativeBackbone, GenerativeSettings
from pplr.models.hub import Kind
from pplr.models.hub.parts import load_parts
from pplr.models.hub.resolver import ModelFiles
from pplr.models.lora import AdapterSettings
from pplr.models.parts import Cut, Which
from pplr.models.parts.encoder import SplitEncoder
from pplr.models.parts.passing import PartModel
from pplr.planning import Reading
from pplr.planning.batch import Batch, training_batch
from pplr.planning.wire import recommendation_traffic, step_traffic
from pplr.training import Place, TrainingSettings, train_locally
from pplr.trunk.codecs import CODECS
from pplr.trunk.fields import Contract, Limits
from pplr.trunk.meter import Meter
from pplr.trunk.stub import StubTrunk, Unassigned

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WIDTH = 64


@pytest.fixture
def framed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The link whose frames are written and read."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("framed_link")


def _model(folder: Path, kind: Kind, pieces: int) -> Any:
    """A split model whose trunk is nobody's yet."""
    model, tokenizer = (
        (tiny.decoder("llama", hidden_size=WIDTH, num_hidden_layers=3), tiny.byte_tokenizer())
        if kind is Kind.DECODER
        else (tiny.encoder("bert", hidden_size=WIDTH, num_hidden_layers=3), tiny.word_tokenizer())
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    bottom, top = load_parts(ModelFiles("m", folder, kind, ""), Cut(1), Which.BOTTOM, Which.TOP)
    split = SplitCausal if kind is Kind.DECODER else SplitEncoder
    return split(PartModel(bottom), Unassigned(), PartModel(top), pieces)


TRAINING = {"forward", "states", "backward", "gradient", "step"}


def _total(meter: Meter, kinds: set[str] = TRAINING) -> int:
    """Bytes of frames; what begins and ends a round is no part of a step."""
    return sum(counts["bytes"] for way in meter.totals().values() for kind, counts in way.items() if kind in kinds)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("pieces", "bucket"), [(1, 1), (2, 1), (3, 16)])
def test_a_training_step_of_the_generative_backbone(
    tmp_path: Path, framed: ModuleType, codec: str, pieces: int, bucket: int
) -> None:
    contract = Contract(WIDTH, True, CODECS[codec], bucket, Limits())
    model, (link, meter) = _model(tmp_path, Kind.DECODER, pieces), framed.framed_link(contract)
    titles = tuple(f"title{i:03}" for i in range(20))
    settings = GenerativeSettings(model="m", history_items=3, prompt_tokens=400, title_tokens=8, examples="last")
    backbone = GenerativeBackbone(
        settings, Catalogue(tuple(map(str, range(20))), titles, {}), model, tiny.byte_tokenizer(), tiny.CPU
    ).behind(StubTrunk(link))
    # first items of all hundreds, so that prompts differ from there
    rows = Ragged.from_rows([[10 * (i % 2), i, i + 1, i + 2] for i in range(8)])
    examples = backbone.examples(rows)
    training = TrainingSettings(epochs=1, batch_tokens=8 * int(examples.lengths.max()))
    done = train_locally(
        backbone, backbone.layout.initial_row(1), examples, training, Place(1, "client", 1, 0.0), elsewhere=link
    )
    prompts = [backbone.prompts.prompt(history) for history in examples.histories]
    common = next(i for i in range(1000) if len({prompt[i] for prompt in prompts}) > 1)
    reading = Reading(prompt=len(prompts[0]), common=common, title=8, batch_tokens=training.batch_tokens, pieces=pieces)
    batch = training_batch(reading, decoder=True)
    assert done.steps == 1
    assert {len(prompt) for prompt in prompts} == {reading.prompt}
    assert (batch.rows, batch.targets) == (8, done.targets)
    planned = step_traffic(batch, contract)
    assert planned.total == pytest.approx(_total(meter), rel=0.002)
    totals = meter.totals()
    up = sum(counts["bytes"] for kind, counts in totals["up"].items() if kind in TRAINING)
    assert planned.up == pytest.approx(up, rel=0.002)
    assert len(batch.pieces) == totals["up"]["forward"]["frames"]


@pytest.mark.parametrize("codec", CODECS)
def test_a_training_step_and_a_recommendation_of_the_encoder(tmp_path: Path, framed: ModuleType, codec: str) -> None:
    contract = Contract(WIDTH, False, CODECS[codec], 1, Limits())
    model, (link, meter) = _model(tmp_path, Kind.ENCODER, 2), framed.framed_link(contract)
    titles = tuple(" ".join(tiny.WORDS[i : i + 3]) for i in range(16))
    catalogue = Catalogue(tuple(map(str, range(16))), titles, {})
    backbone = EncoderBackbone(
        EncoderSettings(model="m", history_tokens=60), catalogue, model, tiny.word_tokenizer(), tiny.CPU
    ).behind(StubTrunk(link))
    examples = backbone.examples(Ragged.from_rows([[i, i + 1, i + 2, i + 3, i + 4] for i in range(9)]))
    examples = examples.select(np.flatnonzero(examples.lengths == examples.lengths.max()))
    training = TrainingSettings(epochs=1, batch_tokens=100_000)
    train_locally(
        backbone, backbone.layout.initial_row(1), examples, training, Place(1, "client", 1, 0.0), elsewhere=link
    )
    length = int(examples.lengths[0])
    batch = training_batch(Reading(length, batch_tokens=9 * length), decoder=False)
    assert batch == Batch(9, length, 0, 9, causal=False, pieces=(5, 4))
    other, catalogue_meter = framed.framed_link(contract)
    parameters = backbone.layout.views(backbone.layout.initial_row(1))
    vectors = backbone.behind(StubTrunk(other)).encode_catalogue(parameters)
    planned = step_traffic(batch, contract)
    # the step also encoded the catalogue
    assert planned.total == pytest.approx(_total(meter) - _total(catalogue_meter), rel=0.005)
    other, meter = framed.framed_link(contract)
    backbone.behind(StubTrunk(other)).scores(parameters, vectors, [np.arange(4)])
    assert recommendation_traffic(Reading(length), contract).total == pytest.approx(_total(meter), rel=0.02)


@pytest.mark.parametrize("codec", CODECS)
def test_a_search_that_reads_every_beam_to_its_end(tmp_path: Path, framed: ModuleType, codec: str) -> None:
    contract = Contract(WIDTH, True, CODECS[codec], 1, Limits())
    model, (link, meter) = _model(tmp_path, Kind.DECODER, 1), framed.framed_link(contract)
    split = model.behind(StubTrunk(link))
    split.adapters(AdapterSettings())
    ids = torch.randint(5, 200, (1, 30), generator=torch.Generator().manual_seed(2))
    # a token that is no token ends nothing: all beams go on to the last
    beam_search(split, ids, torch.ones_like(ids), beams=3, max_new_tokens=7, eos=10_000, same_weights=True)
    planned = recommendation_traffic(Reading(prompt=30, title=6, beams=3), contract)
    assert planned.waits == meter.totals()["up"]["read"]["frames"]
    assert planned.total == pytest.approx(_total(meter, {"read", "states"}), rel=0.02)


def test_what_the_method_says_of_large_states() -> None:
    """4 d q bytes a token in training and 2 d q in inference, where headers and masks are small beside them."""
    for name, size in (("float32", 4), ("bfloat16", 2), ("int8", 1)):
        contract = Contract(4096, True, CODECS[name], 1, Limits())
        reading = Reading(prompt=60, common=0, title=4, beams=1, batch_tokens=640, pieces=1)
        batch = training_batch(reading, decoder=True)
        assert step_traffic(batch, contract).total == pytest.approx(4 * 4096 * size * batch.tokens, rel=0.01)
        recommended = recommendation_traffic(reading, contract)
        assert recommended.total == pytest.approx(2 * 4096 * size * 64, rel=0.1)


def test_the_start_goes_along_with_every_piece_and_buckets_fill_up() -> None:
    contract = Contract(64, True, CODECS["float32"], 1, Limits())
    reading = Reading(prompt=50, common=20, title=10, batch_tokens=240)
    one, two = (step_traffic(training_batch(r, decoder=True), contract) for r in (
        Reading(50, 20, 10, 4, 240, 1), reading
    ))  # fmt: skip
    assert two.total - one.total == pytest.approx(4 * 20 * 64 * 4, rel=0.12)
    filled = step_traffic(training_batch(reading, decoder=True), Contract(64, True, CODECS["float32"], 64, Limits()))
    # 2 rows of 40 and a start of 20 in each piece become 128 and 64
    assert filled.total == pytest.approx(4 * 2 * (128 + 64) * 64 * 4, rel=0.02)
