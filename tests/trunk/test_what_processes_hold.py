"""Client and server of a split run, each with its own part of the model on disk: what their memory holds, and what not.

Both processes are looked into from outside while the client trains, and the server again at the end. What must not be
in one of them is found in the other by the same search.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from held_bytes import READABLE, found_in, mapped_weights
from safetensors.numpy import load_file
from trunk_process import TrunkProcess, certificates, serving

import tiny
from pplr.config import Config, config_toml, parse_config
from pplr.models.hub import resolve
from pplr.models.hub.part_folder import write_part
from pplr.models.hub.part_record import Party
from pplr.models.parts import Cut

pytestmark = pytest.mark.skipif(not READABLE, reason="needs Linux's /proc")

TITLE, USER, ITEM = "Qzxvwk Jj", "uSrQqxw", "iTmQqxw"
"""How every title, user id and item id begins: nothing else has these letters."""

CUT = Cut(1, 1)


@dataclass(frozen=True)
class Seen:
    """Names of what was found, by process and moment."""

    needles: dict[str, bytes]
    client: set[str]
    server: set[str]
    server_at_the_end: set[str]
    mapped: set[str]
    exit_code: int
    metrics: dict[str, object]


def _write(folder: Path) -> Path:
    """Write interactions whose words and numbers are like no others, and a decoder; return the decoder's folder."""
    rng = np.random.default_rng(3)
    rows = [
        {"user": f"{USER}-{user}", "item": f"{ITEM}-{item}", "time": time, "silo": f"shop-{user % 3}"}
        for user in range(24)
        for time, item in enumerate(rng.permutation(40)[:12])
    ]
    pl.DataFrame(rows).write_csv(folder / "events.csv")
    items = {"id": [f"{ITEM}-{i}" for i in range(40)], "title": [f"{TITLE} number {i}" for i in range(40)]}
    pl.DataFrame(items).write_csv(folder / "items.csv")
    model = tiny.decoder("llama", num_hidden_layers=4, hidden_size=32, tie_word_embeddings=False)
    model.save_pretrained(folder / "llama")
    tiny.byte_tokenizer().save_pretrained(folder / "llama")
    return folder / "llama"


def _config(folder: Path, model: Path, pki: Path) -> Config:
    placement = {"kind": "split", "bottom": CUT.bottom, "top": CUT.top, "certificates": str(pki)}
    return parse_config(
        {
            "threads": 1,
            "data": {"events": "events.csv", "items": "items.csv", "columns": {"silo": "silo"}},
            "clients": {"kind": "column"},
            "backbone": {"kind": "generative", "model": str(model), "title_tokens": 30, "prompt_tokens": 400},
            "placement": placement | {"server": "127.0.0.1:1"},
            "federation": {"rounds": 2},
            "training": {"epochs": 3, "batch_tokens": 1500, "max_examples": 60},
            "evaluation": {"max_users": 2, "baselines": False},
        },
        folder,
    )


def _needles(folder: Path, model: Path) -> dict[str, bytes]:
    """What to look for: text, tokens and numbers of the client's, and the middle of a tensor of each part."""
    written = tiny.byte_tokenizer()(TITLE)["input_ids"]
    events = pl.read_csv(folder / "events.csv").filter(pl.col("user") == f"{USER}-0")["item"]
    codes = [int(item.rpartition("-")[2]) for item in events][:8]
    found = {
        "title": TITLE.encode(),
        "user": USER.encode(),
        "item": ITEM.encode(),
        "tokens": np.asarray(written, np.int64).tobytes(),
        "tokens in 32 bits": np.asarray(written, np.int32).tobytes(),
        "labels": np.asarray(codes, np.int64).tobytes(),
        "labels in 32 bits": np.asarray(codes, np.int32).tobytes(),
    }
    tensors = load_file(model / "model.safetensors")
    for name in (
        "model.embed_tokens.weight",
        "lm_head.weight",
        *(f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4)),
    ):
        content = tensors[name].tobytes()
        found[name] = content[len(content) // 2 :][:64]
    return found


def _stopped_while_it_trains(client: subprocess.Popen[str], run: Path) -> None:
    """Wait until the client has trained once, and is training again, and stop it there."""
    until = time.monotonic() + 120
    while time.monotonic() < until and client.poll() is None:
        path = run / "events.jsonl"
        if path.exists() and '"client_trained"' in path.read_text():
            break
        time.sleep(0.02)
    assert client.poll() is None, client.communicate()
    os.kill(client.pid, signal.SIGSTOP)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("held")
    model, pki = _write(folder), certificates(folder / "certificates")
    whole = resolve(str(model))
    for party in Party:
        write_part(whole, party, CUT, folder / party)
    needles = _needles(folder, model)
    away = folder / "away"  # from here on neither party has the whole model
    model.rename(away)
    server_config = _config(folder / "nowhere", folder / "server", pki)  # the server has no data either
    with serving(server_config, folder / "at-server", pki) as server:
        yield _watched(folder, server, needles, _config(folder, folder / "client", pki))


def _watched(folder: Path, server: TrunkProcess, needles: dict[str, bytes], config: Config) -> Seen:
    placement = config.placement.model_copy(update={"server": server.address})
    (folder / "client.toml").write_text(config_toml(config.model_copy(update={"placement": placement})))
    command = [sys.executable, "-m", "pplr", "run", str(folder / "client.toml"), "--out", str(folder / "run"), "-q"]
    client = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        _stopped_while_it_trains(client, folder / "run")
        in_client, in_server = found_in(client.pid, needles), found_in(server.process.pid, needles)
        mapped = mapped_weights(client.pid) | mapped_weights(server.process.pid)
        os.kill(client.pid, signal.SIGCONT)
        said = client.communicate(timeout=180)[1]
        assert client.returncode == 0, said
    finally:
        client.kill()
    at_the_end = found_in(server.process.pid, needles)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    return Seen(needles, in_client, in_server, at_the_end, mapped, client.returncode, metrics)


OF_THE_DATA = {"title", "user", "item", "tokens", "labels"}
OF_THE_CLIENT = {
    *("model.embed_tokens.weight", "lm_head.weight"),
    *("model.layers.0.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"),
}
OF_THE_SERVER = {"model.layers.1.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"}


def test_the_search_finds_the_data_in_the_client(seen: Seen) -> None:
    assert seen.client >= OF_THE_DATA


def test_the_server_never_holds_text_ids_tokens_or_labels(seen: Seen) -> None:
    hidden = OF_THE_DATA | {"tokens in 32 bits", "labels in 32 bits"}
    assert not seen.server & hidden
    assert not seen.server_at_the_end & hidden


def test_each_party_holds_its_own_layers_and_none_of_the_others(seen: Seen) -> None:
    assert seen.client & (OF_THE_CLIENT | OF_THE_SERVER) == OF_THE_CLIENT
    for moment in (seen.server, seen.server_at_the_end):
        assert moment & (OF_THE_CLIENT | OF_THE_SERVER) == OF_THE_SERVER


def test_no_process_maps_weights(seen: Seen) -> None:
    assert seen.mapped == set()


def test_the_run_is_finished_without_the_whole_model_anywhere(seen: Seen) -> None:
    assert seen.exit_code == 0
    assert len(seen.metrics["rounds"]) == 2  # type: ignore[arg-type]
