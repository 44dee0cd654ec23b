"""A federation whose trunk is a server on the network, over TLS: the same numbers, also when the server is killed."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from trunk_process import certificates, serving

from pplr import Recommender, evaluate_run, run
from pplr.config import Config
from pplr.errors import RunError
from whole_runs import assert_numbers_agree, assert_same_rows, configuration

COMMON = {
    "federation": {"rounds": 2},
    "training": {"epochs": 2, "batch_tokens": 3000, "max_examples": 60, "learning_rate": 1e-3, "clip_norm": 0.5},
    "evaluation": {"max_users": 5, "select_by": "ndcg@10"},
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("pki") / "certificates")


def split(files: Path, backbone: str, pki: Path, **placement) -> Config:
    section = {"kind": "split", "bottom": 0, "top": 1, "server": "127.0.0.1:1", "pieces": 1, "certificates": str(pki)}
    return configuration(files, backbone, placement=section | {"wait_seconds": 60.0} | placement, **COMMON)


def at(config: Config, address: str) -> Config:
    return config.model_copy(update={"placement": config.placement.model_copy(update={"server": address})})


@pytest.mark.parametrize("backbone", ["generative", "encoder"])
def test_three_processes_give_the_numbers_of_one(files: Path, tmp_path: Path, pki: Path, backbone: str) -> None:
    run(configuration(files, backbone, placement={"kind": "whole"}, **COMMON), tmp_path / "whole")
    config = split(files, backbone, pki)
    with serving(config, tmp_path / "server", pki) as server:
        config = at(config, server.address)
        run(config, tmp_path / "split")
        assert_numbers_agree(tmp_path / "split", tmp_path / "whole")
        metrics = json.loads((tmp_path / "split" / "metrics.json").read_text())
        again = evaluate_run(tmp_path / "split")
        assert again["overall"] == pytest.approx(metrics["overall"], rel=1e-6)
        ours, theirs = (Recommender.load(tmp_path / name) for name in ("split", "whole"))
        history = [ours.recommend("shop-0", user="u0", k=1).history[0].id]
        found, expected = (
            [item.id for item in recommender.recommend("shop-0", history=history, k=5).items]
            for recommender in (ours, theirs)
        )
        assert found == expected
        assert server.stop() == 0
    wire = metrics["cost"]["wire"]
    assert (
        wire["up"]["forward"]["frames"]
        == wire["down"]["states"]["frames"] - wire["up"].get("read", {"frames": 0})["frames"]
    )
    assert wire["up"]["backward"]["frames"] == wire["down"]["gradient"]["frames"] > 0
    events = [json.loads(line) for line in (tmp_path / "split" / "events.jsonl").read_text().splitlines()]
    assert [e["round"] for e in events if e["event"] == "traffic"] == [1, 2]


def test_written_text_is_grounded_through_the_server_too(files: Path, tmp_path: Path, pki: Path) -> None:
    def grounded(config: Config) -> Config:
        return config.model_copy(update={"backbone": config.backbone.model_copy(update={"grounding": "embedding"})})

    run(grounded(configuration(files, "generative", placement={"kind": "whole"}, **COMMON)), tmp_path / "whole")
    config = grounded(split(files, "generative", pki))
    with serving(config, tmp_path / "server", pki) as server:
        run(at(config, server.address), tmp_path / "split")
    assert_numbers_agree(tmp_path / "split", tmp_path / "whole")


def test_a_server_that_is_killed_again_and_again_changes_nothing(files: Path, tmp_path: Path, pki: Path) -> None:
    config = split(files, "generative", pki)
    with serving(config, tmp_path / "a", pki) as server:
        run(at(config, server.address), tmp_path / "straight")
    with serving(config, tmp_path / "b", pki) as server:
        seen = threading.Event()

        def noting(event) -> None:
            if event.name in ("training", "client_trained", "client_validated"):
                seen.set()

        ended = threading.Event()
        killed = 0

        def killing() -> None:
            nonlocal killed
            while not ended.is_set() and killed < 4:
                seen.clear()
                if not seen.wait(30):
                    return
                time.sleep(0.03 * killed)
                server.kill()
                server.start()
                killed += 1

        thread = threading.Thread(target=killing)
        thread.start()
        run(at(config, server.address), tmp_path / "broken", observer=noting)
        ended.set()
        seen.set()
        thread.join()
        assert killed >= 2
    assert_same_rows(tmp_path / "broken", tmp_path / "straight")
    assert_numbers_agree(tmp_path / "broken", tmp_path / "straight", rel=1e-7)


def test_a_server_that_is_asked_to_stop_finishes_its_steps_and_goes_on_later(files: Path, tmp_path: Path, pki: Path):
    config = split(files, "encoder", pki)
    with serving(config, tmp_path / "a", pki) as server:
        run(at(config, server.address), tmp_path / "straight")
    with serving(config, tmp_path / "b", pki) as server:
        stopped: list[int] = []

        def stopping(event) -> None:
            if event.name == "client_trained" and event.round == 2 and not stopped:
                stopped.append(server.stop())
                server.start()

        run(at(config, server.address), tmp_path / "broken", observer=stopping)
        assert stopped == [0]
    assert_same_rows(tmp_path / "broken", tmp_path / "straight")


def test_a_run_that_is_resumed_takes_the_server_back_with_it(files: Path, tmp_path: Path, pki: Path) -> None:
    config = split(files, "encoder", pki)

    class Stop(Exception):
        pass

    def stop(event) -> None:
        if event.name == "client_trained" and event.round == 2:
            raise Stop

    with serving(config, tmp_path / "server", pki) as server:
        config = at(config, server.address)
        run(config, tmp_path / "straight")
        with pytest.raises(Stop):
            run(config, tmp_path / "broken", observer=stop)
        run(config, tmp_path / "broken", resume=True)
        assert_same_rows(tmp_path / "broken", tmp_path / "straight")
        other = config.model_copy(update={"training": config.training.model_copy(update={"learning_rate": 2e-3})})
        run(other, tmp_path / "other")
        with pytest.raises(RunError, match="has the rows of another run"):
            evaluate_run(tmp_path / "broken")


def test_a_server_that_is_not_there_is_named(files: Path, tmp_path: Path, pki: Path) -> None:
    config = at(split(files, "encoder", pki, wait_seconds=1.0), "127.0.0.1:9")
    with pytest.raises(
        RunError, match=r"127\.0\.0\.1:9 has not been reached for 1 s .* Start it with `pplr trunk serve`"
    ):
        run(config, tmp_path / "run")


def test_another_seed_at_the_server_is_named(files: Path, tmp_path: Path, pki: Path) -> None:
    config = split(files, "encoder", pki)
    other = config.model_copy(update={"seed": 9})
    with (
        serving(other, tmp_path / "server", pki) as server,
        pytest.raises(RunError, match=r"do not fit\. The configurations differ in settings"),
    ):
        run(at(config, server.address), tmp_path / "run")
