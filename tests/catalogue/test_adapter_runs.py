"""Adapters of a language model that is at a server alone: trained there for clients, with the numbers of one process."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import torch
from catalogue_process import CatalogueProcess, serving
from safetensors import safe_open
from trunk_process import certificates

import pplr
from pplr.catalogue.adapting import ADAPTED
from pplr.catalogue.calls import Calls
from pplr.catalogue.chunks import packed, raw_bytes
from pplr.catalogue.fetch import Fetched, fetch
from pplr.catalogue.folder import IDLE_SECONDS, prune
from pplr.catalogue.manifest import ENCODE_METHOD, LEARN_METHOD, EncodeRequest, LearnRequest, agreement
from pplr.catalogue.reader import RemoteReader
from pplr.config import Config
from pplr.data import load_dataset
from pplr.errors import ConfigError, RunError
from pplr.federation.events import Event
from pplr.models.item_reader import Lesson
from pplr.pki import Identity, Party, Role
from pplr.trunk.channel import secure_channel
from pplr.trunk.meter import Meter
from whole_runs import assert_same_result, configuration

LESSON = Lesson(0.01, 1, 0.0, 1.0, 7)
CLIENT = Identity(Role.CLIENT, "shop-1")
COORDINATOR = Identity(Role.COORDINATOR, "coordinator")


def backbone(files: Path) -> dict[str, object]:
    own = configuration(files).backbone.model_dump(mode="json")
    return own | {"adapters": True, "adapter_updates": "round", "live_items": 8, "adapter": {"rank": 2}}


@dataclass(frozen=True)
class Served:
    """A server, and a machine with data and certificates and no model."""

    server: CatalogueProcess
    certificates: Path
    client: Path
    whole: Path
    state: Path

    def config(self, **sections) -> Config:
        placement = {"kind": "catalogue", "server": self.server.address, "certificates": str(self.certificates)}
        return configuration(self.client, placement=placement, backbone=backbone(self.client), **sections)

    def fetched(self, identity: Identity = CLIENT) -> Fetched:
        config = self.config()
        wanted = agreement(config.backbone, load_dataset(config.data, Path()).catalogue)
        return fetch(config.placement, identity, wanted)

    def reader(self, identity: Identity = CLIENT) -> RemoteReader:
        found = self.fetched(identity)
        return RemoteReader(self.config().placement, identity, found.manifest, found.meter)


@pytest.fixture(scope="module")
def served(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("adapters")
    pplr.run(configuration(files, backbone=backbone(files)), folder / "whole")
    shown = certificates(folder / "certificates")
    client, public = folder / "machine", folder / "public"
    for place, names in ((client, ("events.csv", "items.csv")), (public, ("items.csv",))):
        place.mkdir()
        for name in names:
            shutil.copy(files / name, place)
    shutil.copytree(files / "bert", public / "bert")
    config = configuration(public, placement={"kind": "catalogue"}, backbone=backbone(public))
    with serving(config, folder / "server", shown, "--chunk-bytes", "512") as server:
        yield Served(server, shown, client, folder / "whole", folder / "server" / "state")


@pytest.fixture(autouse=True)
def client_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PPLR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def some_adapters(reader: RemoteReader, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {spec.name: torch.randn(spec.shape, generator=generator) for spec in reader.specs}


def test_a_client_without_a_model_trains_its_adapters_like_one_that_has_it(served: Served, tmp_path: Path) -> None:
    run = pplr.run(served.config(), tmp_path / "run")
    assert_same_result(tmp_path / "run", served.whole)
    wire = run.metrics["cost"]["wire"]
    clients, rounds, chunks = 3, 3, -(-30 * 16 * 4 // 512)
    assert wire["up"]["gradient"]["frames"] == clients * rounds * chunks
    assert wire["down"]["manifest"]["frames"] == 2 + clients * rounds, (
        "of no adapters, the first ones, then each client's"
    )
    with safe_open(tmp_path / "run" / "adapters" / "shop-1" / "adapter_model.safetensors", "pt") as adapter:
        assert all(adapter.get_tensor(name).any() for name in adapter.keys() if "lora_B" in name)  # noqa: SIM118
    config = json.loads((tmp_path / "run" / "adapters" / "shop-1" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["query", "value"]


def test_traffic_is_told_after_every_round(served: Served, tmp_path: Path) -> None:
    told: list[Event] = []
    pplr.run(served.config(federation={"rounds": 2}), tmp_path / "run", observer=told.append)
    traffic = [event.data["wire"] for event in told if event.name == "traffic"]
    assert [sum(kind["bytes"] for kind in wire["up"].values()) for wire in traffic] == sorted(
        {sum(kind["bytes"] for kind in wire["up"].values()) for wire in traffic}
    )
    assert len(traffic) == 2


def test_a_run_outlives_a_server_that_is_killed(served: Served, tmp_path: Path) -> None:
    times = 0

    def kill(event: Event) -> None:
        nonlocal times
        if event.name == "round_finished" and event.round in (1, 2):
            times += 1
            served.server.kill()
            threading.Thread(target=served.server.start).start()

    pplr.run(served.config(), tmp_path / "run", observer=kill)
    assert times == 2
    assert_same_result(tmp_path / "run", served.whole)


def test_evaluation_and_recommendation_use_the_adapters(served: Served, tmp_path: Path, client_cache: Path) -> None:
    pplr.run(served.config(), tmp_path / "run")
    expected = pplr.Recommender.load(served.whole).recommend("shop-0", history=["i1", "i2"], k=3)
    shutil.rmtree(client_cache)
    found = pplr.Recommender.load(tmp_path / "run").recommend("shop-0", history=["i1", "i2"], k=3)
    assert found.items == expected.items
    assert (
        pplr.evaluate_run(tmp_path / "run")["overall"]
        == json.loads((served.whole / "metrics.json").read_text())["overall"]
    )


def test_vectors_with_adapters_are_fetched_once_and_no_more(served: Served, client_cache: Path) -> None:
    reader = served.reader()
    adapters = some_adapters(reader)
    one = reader.encode(adapters)
    before = reader._meter.totals()
    again = served.reader()
    assert torch.equal(again.encode(adapters), one)
    assert "chunk" not in again._meter.totals()["down"]
    assert reader._meter.totals() == before
    assert not torch.equal(reader.encode(some_adapters(reader, 1)), one)
    (folder,) = [
        path.parent
        for path in client_cache.rglob("adapted/*/manifest.json")
        if (path.parent / "000001.chunk").is_file()
    ][:1]
    (folder / "000001.chunk").unlink()
    for number in (0, 1):  # one of the two lacks a chunk, which alone is fetched again
        served.reader().encode(some_adapters(reader, number))
    assert (folder / "000001.chunk").is_file()


def refused(served: Served, method: str, *messages: bytes, identity: Identity = CLIENT) -> tuple[str, str]:
    """Return the status and the words with which a call ends."""
    party = Party.load(served.certificates, identity)
    with secure_channel(served.server.address, party) as channel, pytest.raises(grpc.RpcError) as problem:
        list(channel.stream_stream(method)(iter(messages), timeout=20))
    return problem.value.code().name, problem.value.details()


def test_what_no_client_should_send_is_refused(served: Served) -> None:
    reader = served.reader()
    manifest = served.fetched().manifest
    adapters = raw_bytes(torch.cat([part.reshape(-1) for part in some_adapters(reader).values()]))
    good = EncodeRequest(vectors=manifest.vectors).model_dump_json().encode()
    chunks = list(packed(adapters, manifest.chunk_bytes))
    lesson = LearnRequest(
        vectors=manifest.vectors, frozen=(), rate=0.1, warmup=0, weight_decay=0.0, clip_norm=1.0, seed=1
    )
    learning = [lesson.model_dump_json().encode(), *chunks]
    gradient = list(packed(bytes(manifest.bytes), manifest.chunk_bytes))
    endless = packed(raw_bytes(torch.full((len(adapters) // 4,), torch.nan)), manifest.chunk_bytes)
    unknown = lesson.model_copy(update={"frozen": ("head",)}).model_dump_json().encode()
    other = EncodeRequest(vectors="0" * 64).model_dump_json().encode()
    for method, messages, words in (
        (ENCODE_METHOD, [], "no request for adapters"),
        (ENCODE_METHOD, [b"garbage"], "no request for adapters"),
        (ENCODE_METHOD, [good.replace(b"vectors", b"more")], "no request for adapters"),
        (ENCODE_METHOD, [other, *chunks], "another model or catalogue"),
        (ENCODE_METHOD, [good, *chunks[:-1]], "chunk"),
        (ENCODE_METHOD, [good, *chunks, b"more"], "More was sent"),
        (ENCODE_METHOD, [good, b"garbage", *chunks[1:]], "chunk"),
        (ENCODE_METHOD, [good, *endless], "not finite"),
        (LEARN_METHOD, learning, "chunk"),
        (LEARN_METHOD, [*learning, *gradient, b"more"], "More was sent"),
        (LEARN_METHOD, [unknown, *chunks, *gradient], "no factor 'head'"),
        (LEARN_METHOD, [learning[0].replace(b'"rate":0.1', b'"rate":1e999'), *chunks, *gradient], "no request"),
    ):
        status, details = refused(served, method, *messages)
        assert (status, words in details) == ("INVALID_ARGUMENT", True), (words, status, details)
    assert reader.encode(some_adapters(reader)).shape == (30, 16), "and serves on"


def test_a_message_that_is_too_long_is_refused(served: Served) -> None:
    assert refused(served, ENCODE_METHOD, bytes(2**21))[0] == "RESOURCE_EXHAUSTED"


def test_a_client_that_stalls_holds_nobody_up(served: Served) -> None:
    reader = served.reader()
    good = EncodeRequest(vectors=served.fetched().manifest.vectors).model_dump_json().encode()
    waiting = threading.Event()

    def stalled() -> Iterator[bytes]:
        yield good
        waiting.wait(60)

    with secure_channel(served.server.address, Party.load(served.certificates, COORDINATOR)) as channel:
        call = channel.stream_unary(ENCODE_METHOD).future(stalled(), timeout=60)
        started = time.monotonic()
        reader.encode(some_adapters(reader, 5))
        assert time.monotonic() - started < 20
        call.cancel()
        waiting.set()


def test_another_answer_than_adapters_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = served.reader()
    monkeypatch.setattr("pplr.catalogue.calls.sizes", lambda total, size: [min(total, size)])
    with pytest.raises(RunError, match="sent other adapters than it was given"):
        reader.learn(some_adapters(reader), frozenset(), torch.zeros(30, 16), LESSON)


def test_a_server_without_adapters_trains_none(served: Served) -> None:
    found = served.fetched()
    with pytest.raises(RunError, match=r"trains no adapters\. Set backbone\.adapters there too"):
        RemoteReader(served.config().placement, CLIENT, found.manifest.model_copy(update={"adapters": None}), Meter())
    config = served.config()
    settings = config.backbone.model_copy(update={"adapters": False})
    wanted = agreement(settings, load_dataset(config.data, Path()).catalogue)
    with pytest.raises(RunError, match=r"backbone\.adapters, adapter or live_items \(none here"):
        fetch(config.placement, CLIENT, wanted)


def test_steps_need_the_model_at_the_client(files: Path) -> None:
    with pytest.raises(ConfigError, match=r"Set backbone\.adapter_updates to 'round'"):
        configuration(files, backbone=backbone(files) | {"adapter_updates": "step"}, placement={"kind": "catalogue"})


def test_what_was_not_used_for_long_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / str(number)).mkdir()
        age = IDLE_SECONDS + 100 - number if number < 4 else 0.0
        os.utime(tmp_path / str(number), (time.time() - age, time.time() - age))
    prune(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "5"]
    prune(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5"], "used just now"


def test_the_server_keeps_vectors_by_the_digest_of_their_adapters(served: Served) -> None:
    reader = served.reader()
    adapters = some_adapters(reader, 8)
    with secure_channel(served.server.address, Party.load(served.certificates, CLIENT)) as channel:
        calls = Calls(channel, served.config().placement, Meter())
        raw = reader._raw(adapters)
        one = calls.encode(served.fetched().manifest, raw)
        served.server.stop()
        served.server.start()
        assert calls.encode(served.fetched().manifest, raw) == one
        assert len(calls.chunk(one, 0)) == one.chunks[0].size
    assert any(path.parent.name == ADAPTED for path in served.state.rglob("*") if path.is_dir())
