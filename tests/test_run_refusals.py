"""What a run folder refuses: another configuration, other data, damage, folders that are not its own."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest

import pplr
from pplr.errors import CheckpointError, ConfigError, PplrError, RunError
from whole_runs import assert_same_result, change_events, configuration, copied


def test_resume_refuses_another_configuration_and_damage(files, tmp_path):
    config = configuration(files, federation={"rounds": 1})
    folder = tmp_path / "run"
    pplr.run(config, folder)
    with pytest.raises(RunError, match=r"federation\.rounds"):
        pplr.run(configuration(files), folder, resume=True)
    with pytest.raises(RunError, match="already a run"):
        pplr.run(config, folder)
    bank = folder / "checkpoints" / "round-0001" / "bank.safetensors"
    bank.write_bytes(bank.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match="damaged"):
        pplr.run(config, folder, resume=True)
    assert pplr.run(config, folder, overwrite=True).metrics["stopped"]["round"] == 1


@pytest.mark.parametrize(
    ("section", "key", "value", "before"),
    [
        ("strategy", "items", "rescaled", "mean"),
        ("training", "moments", "kept", "fresh"),
        ("backbone", "contrast", "known", "catalogue"),
        ("backbone", "new_bias", "mean", "zero"),
        ("strategy", "absent", "take", "keep"),
    ],
)
def test_a_run_of_before_a_key_goes_on_as_it_was_or_not_at_all(files, tmp_path, section, key, value, before):
    some = {"rounds": 2, "participation": 0.5} if key == "absent" else {"rounds": 2}
    config, folder = configuration(files, federation=some), tmp_path / "run"
    as_before = config.model_copy(update={section: getattr(config, section).model_copy(update={key: before})})
    whole = pplr.run(as_before, folder).metrics
    shutil.rmtree(folder / "checkpoints" / "round-0002")
    written = folder / "config.toml"
    said = written.read_text(encoding="utf-8")
    unsaid = said.replace(f'{key} = "{before}"\n', "")
    assert unsaid != said
    written.write_text(unsaid, encoding="utf-8")
    with pytest.raises(RunError, match=rf'write {key} = "{before}" below \[{section}\], .* own {written}'):
        pplr.run(config, folder, resume=True)
    assert pplr.run(as_before, folder, resume=True).metrics["overall"] == whole["overall"]
    shutil.rmtree(folder / "checkpoints" / "round-0002")
    assert pplr.run(pplr.load_config(written), folder, resume=True).metrics["overall"] == whole["overall"]
    written.write_text(said, encoding="utf-8")
    with pytest.raises(RunError, match=rf'{section}\.{key}: "{before}" → "{value}"'):
        pplr.run(config, folder, resume=True)


def test_a_run_of_before_two_keys_names_both(files, tmp_path):
    config, folder = configuration(files, federation={"rounds": 1}), tmp_path / "run"
    pplr.run(config, folder)
    written = folder / "config.toml"
    unsaid = written.read_text(encoding="utf-8").replace('items = "rescaled"\n', "").replace('moments = "kept"\n', "")
    written.write_text(unsaid, encoding="utf-8")
    both = r'items = "mean" below \[strategy\] and moments = "fresh" below \[training\]'
    with pytest.raises(RunError, match=rf"{both}, and take .*, or resume with the run's own"):
        pplr.run(config, folder, resume=True)
    mark = folder / "run.json"
    content = json.loads(mark.read_text(encoding="utf-8"))
    del content["made_from"]["training events"]  # which a run over silos does not have
    mark.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        RunError, match=rf"{both}, in the configuration of every party, and take .* back, or start a new"
    ):
        pplr.run(config, folder, resume=True)


@pytest.mark.parametrize("log", ["whole", "cut", "gone"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(files, tmp_path, log):
    config, folder = configuration(files, federation={"rounds": 2}), tmp_path / "run"
    pplr.run(config, folder)
    shutil.rmtree(folder / "checkpoints")
    events = folder / "events.jsonl"
    if log == "cut":  # killed while it wrote a line
        events.write_bytes(events.read_bytes()[:-20])
    if log == "gone":
        events.unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    reached = "come to its end" if log == "gone" else "finished round 2"
    with pytest.raises(CheckpointError, match=rf"had {reached}, but there is no checkpoint .*--overwrite"):
        pplr.run(config, folder, resume=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_run_that_was_killed_in_its_first_round_is_resumed(files, tmp_path, finished):
    class Killed(Exception):
        pass

    def kill(event):
        if event.name == "client_trained":
            raise Killed

    with pytest.raises(Killed):
        pplr.run(configuration(files), tmp_path / "run", observer=kill)
    assert_same_result(pplr.run(configuration(files), tmp_path / "run", resume=True).folder, finished.folder)


@pytest.mark.parametrize(
    ("name", "advice"), [("rows.safetensors", r"--resume`\.$"), ("config.toml", r"not valid TOML.*--overwrite\.$")]
)
def test_a_damaged_file_of_a_finished_run_says_what_to_do(files, tmp_path, finished, name, advice):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-30] + b"[")
    for use in (pplr.evaluate_run, pplr.Recommender.load):
        with pytest.raises(RunError, match=advice):
            use(folder)


def test_folders_that_hold_something_else_are_left_alone(files, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="not empty"):
            pplr.run(configuration(files), tmp_path / "letters", overwrite=overwrite)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "dear"
    with pytest.raises(RunError, match="no run"):
        pplr.run(configuration(files), tmp_path / "nothing", resume=True)


def test_data_that_changed_since_is_named_and_nothing_is_lost(files, tmp_path):
    mine = copied(files, tmp_path / "mine")
    config, folder = configuration(mine, federation={"rounds": 1}), tmp_path / "run"
    pplr.run(config, folder)
    before = (folder / "metrics.json").read_bytes()
    change_events(mine, -1, "i7")
    for again in (lambda: pplr.run(config, folder, resume=True), lambda: pplr.evaluate_run(folder)):
        with pytest.raises(RunError, match="held-out events that the run"):
            again()
    assert pplr.Recommender.load(folder).owner("u0") == "shop-0"
    change_events(mine, 0, "i9")
    with pytest.raises(RunError, match="training events"):
        pplr.evaluate_run(folder)
    assert pplr.Recommender.load(folder).recommend("shop-0", user="u0", k=1).history[0].id in {"i9", "i0"}
    items = pl.read_csv(mine / "items.csv")
    items.with_columns(pl.col("title").str.to_uppercase()).write_csv(mine / "items.csv")
    with pytest.raises(RunError, match="items that the run"):
        pplr.Recommender.load(folder)
    assert (folder / "metrics.json").read_bytes() == before


def test_whose_user_it_is_cannot_be_told_after_the_grouping_data_changed(files, tmp_path):
    mine = copied(files, tmp_path / "mine")
    clients = {"kind": "random", "count": 2}
    folder = tmp_path / "run"
    pplr.run(configuration(mine, federation={"rounds": 1}, clients=clients), folder)
    change_events(mine, 0, "i9")
    recommender = pplr.Recommender.load(folder)
    with pytest.raises(RunError, match="which client"):
        recommender.owner("u0")
    assert recommender.recommend(recommender.clients[0], history=["i1"], k=1).items
    with pytest.raises(ConfigError, match=r"or id 'House river'\. Did you mean 'house river lost last'"):
        recommender.recommend(recommender.clients[0], history=["House river"])
    with pytest.raises(ConfigError, match=r"or id 'house rivr lost last'\. Did you mean 'house river lost last'\?"):
        recommender.recommend(recommender.clients[0], history=["house rivr lost last"])


def test_a_start_that_fails_leaves_the_folder_as_it_was(files, tmp_path):
    mine = copied(files, tmp_path / "mine")
    config, folder = configuration(mine, federation={"rounds": 1}), tmp_path / "run"
    (mine / "items.csv").rename(mine / "away.csv")
    with pytest.raises(PplrError):
        pplr.run(config, folder)
    assert not folder.exists()
    (mine / "away.csv").rename(mine / "items.csv")
    pplr.run(config, folder)
    (folder / "notes.txt").write_text("mine")
    (mine / "items.csv").rename(mine / "away.csv")
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(PplrError):
        pplr.run(config, folder, overwrite=True)
    assert sorted(path.name for path in folder.rglob("*")) == before
    (mine / "away.csv").rename(mine / "items.csv")
    pplr.run(config, folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_folder_with_a_configuration_is_not_yet_a_run(files, tmp_path):
    """Somebody's own config.toml beside somebody's data must survive any option."""
    (tmp_path / "config.toml").write_text("mine")
    with pytest.raises(RunError, match="holds no run"):
        pplr.run(configuration(files), tmp_path, overwrite=True)
    assert (tmp_path / "config.toml").read_text() == "mine"
