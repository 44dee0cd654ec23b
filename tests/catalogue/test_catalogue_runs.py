"""A client that has item vectors of a server, and no language model: real processes, killed at the worst moments."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from catalogue_process import CatalogueProcess, serving
from trunk_process import certificates

import pplr
from pplr.catalogue.fetch import fetch
from pplr.catalogue.folder import MANIFEST, VectorFolder
from pplr.catalogue.manifest import MANIFEST_METHOD, agreement
from pplr.config import Config, config_toml, load_config
from pplr.data import load_dataset
from pplr.errors import ConfigError, RunError
from pplr.federation.events import ignore
from pplr.models.hub.cache import cache_folder
from pplr.pki import Authority, Identity, Role
from pplr.silos.processes import security
from pplr.silos.work import SiloWork
from pplr.wiring import prepare
from whole_runs import assert_same_result, configuration

CHUNKS = 30
"""30 vectors of 16 numbers, in chunks of 64 bytes."""
COORDINATOR = Identity(Role.COORDINATOR, "coordinator")


@dataclass(frozen=True)
class Served:
    """A server, and what clients of it need; `client` is a machine that has data and certificates, and no model."""

    server: CatalogueProcess
    certificates: Path
    client: Path
    whole: Path
    server_state: Path

    def config(self, **sections) -> Config:
        placement = {"kind": "catalogue", "server": self.server.address, "certificates": str(self.certificates)}
        return configuration(self.client, placement=placement, **sections)


def run_client(folder: Path, *words: str, victim: str = "nobody", chunk: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `pplr` with a cache of its own below `folder`, and report what it opened in report.json."""
    command = [sys.executable, str(Path(__file__).parent / "client_process.py"), str(folder / "report.json")]
    environment = os.environ | {"PPLR_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, victim, str(chunk), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def written(folder: Path, config: Config) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "tiny.toml").write_text(config_toml(config))
    return str(folder / "tiny.toml")


def frames(run: Path) -> dict[str, int]:
    wire = json.loads((run / "metrics.json").read_text())["cost"]["wire"]["down"]
    return {kind: counts["frames"] for kind, counts in wire.items()}


@pytest.fixture(scope="module")
def served(files: Path, finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("catalogue")
    shown = certificates(folder / "certificates")
    client = folder / "machine"
    client.mkdir()
    for name in ("events.csv", "items.csv"):
        shutil.copy(files / name, client)
    public = folder / "public"
    public.mkdir()
    shutil.copy(files / "items.csv", public)  # the server has no events
    shutil.copytree(files / "bert", public / "bert")
    with serving(
        configuration(public, placement={"kind": "catalogue"}), folder / "server", shown, "--chunk-bytes", "64"
    ) as server:
        yield Served(server, shown, client, finished.folder, folder / "server" / "state")


@pytest.fixture
def client_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PPLR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_client_without_a_model_ends_like_one_that_has_it(served: Served, tmp_path: Path) -> None:
    config = written(tmp_path, served.config())
    ended = run_client(tmp_path, "run", config, "--out", str(tmp_path / "run"))
    assert ended.returncode == 0, ended.stderr
    assert_same_result(tmp_path / "run", served.whole)
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["tokenizers"]
    weights = [
        path for path in report["opened"] if re.search(r"tokenizer|vocab|bert|model\.safetensors", Path(path).name)
    ]
    assert [path for path in weights if not path.endswith((".py", ".pyc"))] == []
    assert not (tmp_path / "cache" / "models").exists()
    assert not (served.client / "bert").exists()
    assert frames(tmp_path / "run") == {"manifest": 1, "chunk": CHUNKS}
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (tmp_path / "run", served.whole))
    assert ours["model"]["digest"] == theirs["model"]["digest"]


def test_only_missing_chunks_are_fetched_after_the_server_was_killed(served: Served, tmp_path: Path) -> None:
    config = written(tmp_path, served.config())

    def start_again(process: subprocess.Popen[str]) -> None:
        process.wait()
        served.server.start()

    killed = threading.Thread(target=start_again, args=(served.server.process,))
    killed.start()
    ended = run_client(
        tmp_path, "run", config, "--out", str(tmp_path / "run"), victim=str(served.server.process.pid), chunk=7
    )
    killed.join(120)
    assert ended.returncode == 0, ended.stderr
    assert frames(tmp_path / "run") == {"manifest": 1, "chunk": CHUNKS}
    up = json.loads((tmp_path / "run" / "metrics.json").read_text())["cost"]["wire"]["up"]["chunk"]["frames"]
    assert up > CHUNKS, "the server was away for a while"
    assert_same_result(tmp_path / "run", served.whole)


def test_only_missing_chunks_are_fetched_after_the_client_was_killed(served: Served, tmp_path: Path) -> None:
    config = written(tmp_path, served.config())
    words = ("run", config, "--out", str(tmp_path / "run"))
    assert run_client(tmp_path, *words, victim="self", chunk=7).returncode == -signal.SIGKILL
    there = len(list((tmp_path / "cache").rglob("[0-9]*.chunk")))
    assert 0 < there < CHUNKS
    ended = run_client(tmp_path, *words)
    assert ended.returncode == 0, ended.stderr
    assert frames(tmp_path / "run") == {"manifest": 1, "chunk": CHUNKS - there}
    assert_same_result(tmp_path / "run", served.whole)


def test_a_finished_run_needs_no_server(served: Served, tmp_path: Path, client_cache: Path) -> None:
    config = served.config()
    pplr.run(config, tmp_path / "run")
    away = config.placement.model_copy(update={"server": "127.0.0.1:9", "wait_seconds": 0.2})
    text = config_toml(config.model_copy(update={"placement": away}))
    (tmp_path / "run" / "config.toml").write_text(text)
    metrics = pplr.evaluate_run(tmp_path / "run")
    assert metrics["overall"] == json.loads((served.whole / "metrics.json").read_text())["overall"]
    recommended = pplr.Recommender.load(tmp_path / "run").recommend("shop-0", history=["i1", "i2"], k=3)
    expected = pplr.Recommender.load(served.whole).recommend("shop-0", history=["i1", "i2"], k=3)
    assert recommended.items == expected.items
    shutil.rmtree(client_cache)
    with pytest.raises(RunError, match=r"has not been reached for 0\.2 s .* `pplr catalogue serve`"):
        pplr.evaluate_run(tmp_path / "run")


def test_a_run_is_not_resumed_with_other_vectors(served: Served, tmp_path: Path, client_cache: Path) -> None:
    pplr.run(served.config(), tmp_path / "run")
    mark = tmp_path / "run" / "run.json"
    made_from = json.loads(mark.read_text())
    made_from["made_from"] |= {"model": "0" * 64, "item vectors": "0" * 64}
    mark.write_text(json.dumps(made_from))
    with pytest.raises(RunError, match=r"The model and the item vectors that the run .* have changed since"):
        pplr.run(served.config(), tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="have changed since"):
        pplr.evaluate_run(tmp_path / "run")


def test_a_silo_fetches_as_itself_and_others_are_refused(served: Served, tmp_path: Path, client_cache: Path) -> None:
    config = served.config()
    wanted = agreement(config.backbone, load_dataset(config.data, Path()).catalogue)
    fetched = fetch(config.placement, Identity(Role.CLIENT, "shop-1"), wanted)
    assert fetched.vectors.shape == (30, 16)
    with pytest.raises(ConfigError, match="shop-9"):
        fetch(config.placement, Identity(Role.CLIENT, "shop-9"), wanted)
    other = certificates(tmp_path / "others")
    stranger = config.placement.model_copy(update={"certificates": str(other), "wait_seconds": 1.0})
    with pytest.raises(RunError, match="do not accept each other's certificates"):
        fetch(stranger, COORDINATOR, wanted)
    with grpc.insecure_channel(served.server.address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(MANIFEST_METHOD)(b"", timeout=5)


def test_a_silo_announces_the_weights_of_the_server(served: Served, tmp_path: Path, client_cache: Path) -> None:
    silo = SiloWork(prepare(served.config(), ignore, silo="shop-1"), "shop-1", tmp_path / "state")
    whole = json.loads((served.whole / "run.json").read_text())["made_from"]
    assert silo.announcement.weights == whole["model"]
    assert silo.announcement.catalogue == whole["items"]
    assert not {name for name in silo.announcement.settings if name.startswith("placement.") and "kind" not in name}


def test_a_revoked_certificate_is_refused(served: Served, client_cache: Path) -> None:
    config = served.config()
    wanted = agreement(config.backbone, load_dataset(config.data, Path()).catalogue)
    Authority(served.certificates).revoke(Identity(Role.CLIENT, "shop-2"))
    with pytest.raises(RunError, match=r"does not let this party in: .* was revoked"):
        fetch(config.placement, Identity(Role.CLIENT, "shop-2"), wanted)


@pytest.mark.parametrize(
    ("item_tokens", "attributes", "words"),
    [(7, None, r"backbone.item_tokens \(7 here, 48 there\) differ"), (48, (), r"the items' texts \(digest .* differ")],
)
def test_another_catalogue_is_refused_with_what_differs(
    served: Served, tmp_path: Path, client_cache: Path, item_tokens: int, attributes: tuple[str, ...] | None, words: str
) -> None:
    config = served.config()
    backbone = config.backbone.model_copy(update={"item_tokens": item_tokens, "attributes": attributes})
    with pytest.raises(RunError, match=words):
        pplr.run(config.model_copy(update={"backbone": backbone}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_chunks_are_said_and_mended(served: Served, tmp_path: Path, client_cache: Path) -> None:
    config = served.config()
    wanted = agreement(config.backbone, load_dataset(config.data, Path()).catalogue)
    (state,) = [path.parent for path in served.server_state.rglob(MANIFEST)]
    damaged = state / "000003.chunk"
    before = damaged.read_bytes()
    damaged.write_bytes(b"garbage")
    with pytest.raises(RunError, match=r"Chunk 3 of the item vectors .* Start `pplr catalogue serve` again"):
        fetch(config.placement, COORDINATOR, wanted)
    served.server.stop()
    served.server.start()
    assert damaged.read_bytes() == before
    fetched = fetch(config.placement, COORDINATOR, wanted)
    here = cache_folder() / "catalogue" / fetched.manifest.vectors
    (here / "000005.chunk").write_bytes(b"garbage")
    assert fetch(config.placement, COORDINATOR, wanted).meter.totals()["down"]["chunk"]["frames"] == 1
    folder = VectorFolder.opened(here)
    assert folder is not None
    assert folder.missing() == []


@pytest.mark.parametrize("kind", ["encoder", "generative"])
def test_other_backbones_read_texts_themselves(files: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"backbone.kind is '{kind}', which reads texts itself\. Set placement.kind"):
        configuration(files, kind, placement={"kind": "catalogue"})


def test_a_silo_shows_the_certificates_that_its_command_names(files: Path, tmp_path: Path) -> None:
    config = configuration(files, placement={"kind": "catalogue"})
    assert config.placement.certificates == str(files / "certificates")
    assert security(tmp_path, insecure=False).of(config).placement.certificates == str(tmp_path)


def test_a_configuration_of_a_whole_model_has_no_catalogue_to_serve(files: Path, tmp_path: Path) -> None:
    (tmp_path / "whole.toml").write_text(config_toml(configuration(files)))
    assert load_config(tmp_path / "whole.toml").placement.kind == "whole"
    ended = run_client(tmp_path, "catalogue", "serve", str(tmp_path / "whole.toml"))
    assert ended.returncode == 2
    assert "there is no catalogue to serve. Set it to 'catalogue'" in " ".join(ended.stderr.split())


def test_a_server_that_is_away_is_waited_for_as_long_as_was_said(
    served: Served, tmp_path: Path, client_cache: Path
) -> None:
    config = served.config()
    placement = config.placement.model_copy(update={"server": "127.0.0.1:9", "wait_seconds": 0.5})
    started = time.monotonic()
    with pytest.raises(RunError, match=r"has not been reached for 0\.5 s"):
        pplr.run(config.model_copy(update={"placement": placement}), tmp_path / "run")
    assert 0.5 < time.monotonic() - started < 20
