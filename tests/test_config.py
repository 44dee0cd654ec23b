"""The configuration: what is read, what is refused, and that nothing is lost on the way to the run folder."""

from __future__ import annotations

import importlib.util
import sys
from typing import Literal

import pytest

from pplr.config import changes, config_toml, load_config, parse_config
from pplr.config_history import as_meant
from pplr.demo import demo_config
from pplr.errors import ConfigError
from pplr.federation.strategies import STRATEGIES, Local, Product


def test_all_mistakes_are_reported_at_once_with_the_nearest_names(tmp_path):
    wrong = {
        "sed": 1,
        "backbone": {"kind": "sequense"},
        "training": {"epoch": 3, "learning_rate": -1},
        "strategy": {"alfa": 1},
        "clients": {"kind": "kmeans", "count": "many"},
    }
    with pytest.raises(ConfigError) as caught:
        parse_config(wrong, tmp_path)
    text = str(caught.value)
    assert len(caught.value.problems) == 6
    for expected in ("'seed'", "'sequence'", "'epochs'", "training.learning_rate = -1", "'alpha'", "clients.count"):
        assert expected in text
    assert "kmeans.count" not in text, "the kind of a section is no part of a key's name"


@pytest.mark.parametrize("backbone", ["sequence", "encoder", "generative"])
def test_a_resolved_configuration_reads_back_the_same(backbone, tmp_path):
    config = demo_config(backbone)
    (tmp_path / "config.toml").write_text(config_toml(config))
    again = load_config(tmp_path / "config.toml")
    assert again == config
    assert changes(config, again) == []


@pytest.mark.parametrize(
    ("given", "moments"),
    [
        ({}, "kept"),
        ({"strategy": {"kind": "pplr", "products": True}}, "fresh"),
        ({"strategy": {"kind": "product"}}, "fresh"),
        ({"backbone": {"kind": "encoder", "adapter": {"rank": 8, "ranks": {"client-0": 4}}}}, "fresh"),
        ({"training": {"moments": "fresh"}}, "fresh"),
    ],
)
def test_moments_are_kept_where_what_they_belong_to_is(given, moments, tmp_path):
    demo = {"demo": "movietweetings"}
    config = parse_config({"data": demo, "backbone": {"kind": "encoder"}} | given, tmp_path)
    assert config.training.moments == moments
    assert f'moments = "{moments}"' in config_toml(config)


PRIVATE = {"bias": "none", "residual": "private"}


@pytest.mark.parametrize(
    ("strategy", "given", "contrast"),
    [
        ("pplr", {}, "known"),
        ("centralised", {}, "known"),
        ("pplr", {"bias": "private"}, "known"),
        ("pplr", PRIVATE, "catalogue"),
        ("local", {}, "catalogue"),
        ("local", {"contrast": "own"}, "own"),
        ("pplr", {"contrast": "catalogue"}, "catalogue"),
        ("pplr", {"kind": "encoder"}, "catalogue"),
    ],
)
def test_who_hears_nothing_of_others_items_trains_among_all(strategy, given, contrast, tmp_path):
    content = {"data": {"demo": "movietweetings"}, "backbone": {"kind": "sequence"} | given}
    config = parse_config(content | {"strategy": {"kind": strategy}}, tmp_path)
    assert config.backbone.contrast == contrast
    (tmp_path / "config.toml").write_text(config_toml(config))
    assert load_config(tmp_path / "config.toml") == config
    copied = parse_config(content, tmp_path).model_copy(update={"strategy": config.strategy})
    assert copied.backbone == config.backbone


@pytest.mark.parametrize(
    ("strategy", "given"),
    [("local", {}), ("pplr", PRIVATE), ("pplr", {"kind": "encoder", "bias": "private"})],
)
def test_known_items_are_refused_where_nothing_tells_them(strategy, given, tmp_path):
    backbone = {"kind": "sequence", "contrast": "known"} | given
    content = {"data": {"demo": "movietweetings"}, "backbone": backbone, "strategy": {"kind": strategy}}
    with pytest.raises(ConfigError, match="needs a table of items that others change too"):
        parse_config(content, tmp_path)


def test_a_copy_with_what_is_made_anew_starts_afresh_too(tmp_path):
    config = parse_config({"data": {"demo": "movietweetings"}, "backbone": {"kind": "encoder"}}, tmp_path)
    adapter = config.backbone.adapter.model_copy(update={"ranks": {"client-0": 4}})
    ranks = {"backbone": config.backbone.model_copy(update={"adapter": adapter})}
    for update in ({"strategy": Product()}, ranks):
        copied = config.model_copy(update=update)
        assert (config.training.moments, copied.training.moments) == ("kept", "fresh")
        (tmp_path / "config.toml").write_text(config_toml(copied))
        assert load_config(tmp_path / "config.toml") == copied


@pytest.mark.parametrize("damaged", [{"training": 3}, {"strategy": "pplr"}, {"backbone": []}])
def test_a_damaged_configuration_of_a_run_is_said_to_be_that(damaged, tmp_path):
    assert as_meant(damaged)[next(iter(damaged))] == next(iter(damaged.values()))
    with pytest.raises(ConfigError):
        parse_config(as_meant({"data": {"demo": "movietweetings"}} | damaged), tmp_path)


@pytest.mark.parametrize(("given", "epochs"), [(2, 2), (2.0, 2), (0.25, 0.25), (1.5, 1.5)])
def test_epochs_are_a_count_or_a_part(given, epochs, tmp_path):
    config = parse_config({"data": {"demo": "movietweetings"}, "training": {"epochs": given}}, tmp_path)
    assert (type(config.training.epochs), config.training.epochs) == (type(epochs), epochs)
    assert f"epochs = {epochs}\n" in config_toml(config)


def test_paths_start_at_the_configuration_file(tmp_path):
    (tmp_path / "c.toml").write_text('[data]\nevents = "e.csv"\nitems = "sub/i.csv"\n')
    config = load_config(tmp_path / "c.toml")
    assert load_config(str(tmp_path / "c.toml")) == config
    assert config.data.events == tmp_path / "e.csv"
    assert config.data.items == tmp_path / "sub" / "i.csv"


def test_overrides(tmp_path):
    (tmp_path / "c.toml").write_text('[data]\ndemo = "movietweetings"\n')
    config = load_config(tmp_path / "c.toml", ["training.epochs=7", "strategy.kind=fedavg", "evaluation.ks=[3,10]"])
    assert (config.training.epochs, config.strategy.kind, config.evaluation.ks) == (7, "fedavg", (3, 10))
    for wrong in ("training.epochs", "=3", "seed.x=1"):
        with pytest.raises(ConfigError):
            load_config(tmp_path / "c.toml", ["seed=1", wrong])


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "pplr init"), ("a = = 1", "not valid TOML"), (b"\xff\xfe", "not UTF-8 text")]
)
def test_unreadable_files(tmp_path, content, expected):
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=expected):
        load_config(path)


def test_changes_say_what_was_and_what_is(tmp_path):
    demo = {"data": {"demo": "movietweetings"}}
    one = parse_config(demo, tmp_path)
    other = parse_config(
        {
            **demo,
            "threads": 2,
            "evaluation": {"ks": [5, 10], "baselines": False},
            "training": {"epochs": 2},
            "strategy": {"alpha": 0.5},
            "data": {"demo": "movietweetings", "columns": {"user": 'the "user"'}},
        },
        tmp_path,
    )
    assert changes(one, one) == []
    assert changes(one, other) == [
        'data.columns.user: not set → "the \\"user\\""',
        "evaluation.baselines: true → false",
        "evaluation.ks: [5, 10, 20, 50] → [5, 10]",
        "strategy.alpha: 0.7 → 0.5",
        "threads: not set → 2",
        "training.epochs: 1 → 2",
    ]
    assert "training.epochs: 2 → 1" in changes(other, one)


def test_changes_of_a_kind_name_the_kind_and_what_both_kinds_have(tmp_path):
    one = parse_config({"clients": {"kind": "kmeans", "count": 4, "factors": 3}}, tmp_path)
    other = parse_config({"clients": {"kind": "random", "count": 7}}, tmp_path)
    assert changes(one, other) == ["clients.count: 4 → 7", 'clients.kind: "kmeans" → "random"']


def test_a_share_of_one_and_one_client_differ(tmp_path):
    one = parse_config({"federation": {"participation": 1.0}}, tmp_path)
    other = parse_config({"federation": {"participation": 1}}, tmp_path)
    assert changes(one, other) == ["federation.participation: 1.0 → 1"]


def test_a_strategy_that_is_registered_can_be_configured(tmp_path, monkeypatch):
    class Halfway(Local):
        """Only for this test."""

        kind: Literal["halfway"] = "halfway"
        share: float = 0.5

    monkeypatch.setitem(STRATEGIES, "halfway", Halfway)
    spec = importlib.util.find_spec("pplr.config")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pplr.config", module)
    spec.loader.exec_module(module)
    config = module.parse_config({"strategy": {"kind": "halfway", "share": 0.25}}, tmp_path)
    assert config.strategy == Halfway(share=0.25)
    with pytest.raises(ConfigError, match="'halfway'"):
        module.parse_config({"strategy": {"kind": "halfwai"}}, tmp_path)


@pytest.mark.parametrize(
    ("given", "below"),
    [
        ("./my-model", "my-model"),
        ("../elsewhere", "../elsewhere"),
        ("models/ours", "models/ours"),
        ("./minilm", "minilm"),
        ("~no-such-user/ours", "~no-such-user/ours"),
        ("minilm", None),  # a known name means that model, also beside a folder of that name
        ("organisation/model", None),
        ("hub:models/ours", None),
    ],
)
def test_a_model_folder_starts_at_the_configuration_file(tmp_path, monkeypatch, given, below):
    here, conf = tmp_path / "here", tmp_path / "conf"
    for folder in (here, conf / "models" / "ours", conf / "minilm"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    (conf / "c.toml").write_text(f'[backbone]\nkind = "encoder"\nmodel = "{given}"\n')
    config = load_config(conf / "c.toml")
    assert config.backbone.model == (given if below is None else str((conf / below).resolve()))
    (tmp_path / "resolved.toml").write_text(config_toml(config))
    assert load_config(tmp_path / "resolved.toml") == config


def test_a_prompt_file_starts_at_the_configuration_file(tmp_path):
    (tmp_path / "c.toml").write_text('[backbone]\nkind = "generative"\nprompt = "ours.toml"\n')
    assert load_config(tmp_path / "c.toml").backbone.prompt == str((tmp_path / "ours.toml").resolve())


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("shop.toml", "shop"),
        ("my shop (2).toml", "my-shop-2"),
        (".toml", "toml"),
        ("--.toml", "run"),
        ("x" * 70, "x" * 60),
    ],
)
def test_a_run_is_called_after_its_configuration(tmp_path, file, name):
    (tmp_path / file).write_text("seed = 1\n")
    assert load_config(tmp_path / file).name == name
    assert load_config(tmp_path / file, ["name=other"]).name == "other"


def test_another_kind_on_the_command_line_leaves_the_keys_of_the_old_one_behind(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[strategy]\nalpha = 0.5\n[clients]\nkind = "kmeans"\ncount = 3\nfactors = 8\n')
    config = load_config(path, ["strategy.kind=fedavg", "clients.kind=random"])
    assert (config.strategy.kind, config.clients.kind, config.clients.count) == ("fedavg", "random", 3)
    assert load_config(path, ["strategy.kind=pplr"]).strategy.alpha == 0.5
    again = load_config(path, ["data.split.ratio=[6,2,2]", "data.split.kind=global-time", "data.demo=movietweetings"])
    assert again.data.split.ratio == (6.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("content", "overrides"),
    [
        ('[strategy]\nkind = "fedavg"\nalpha = 0.5\n', ["strategy.kind=fedavg"]),  # wrong in the file itself
        ("[strategy]\nalpha = 0.5\n", ["strategy.kind=fedavg", "strategy.alpha=0.1"]),
        ("[strategy]\n", ["strategy.alpha=0.1", "strategy.kind=fedavg"]),
        ("[strategy]\nalfa = 0.5\n", ["strategy.kind=fedavg"]),
    ],
)
def test_what_is_wrong_with_another_kind_stays_wrong(tmp_path, content, overrides):
    (tmp_path / "c.toml").write_text(content)
    with pytest.raises(ConfigError, match=r"^strategy\.al(ph|f)a: "):
        load_config(tmp_path / "c.toml", overrides)


def test_mistakes_of_the_file_and_of_overrides_are_reported_together(tmp_path):
    (tmp_path / "c.toml").write_text("seed = -1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.toml", ["nothing", "seed.x=1", "training.epoch=2", "=3", "a..b=1"])
    starts = [*["--set needs NAME=VALUE"] * 3, "--set seed.x=1: seed is a value"]
    problems = caught.value.problems
    assert [problem[: len(start)] for problem, start in zip(problems, starts, strict=False)] == starts
    assert sorted(problem.split(":")[0] for problem in problems[4:]) == ["seed = -1", "training.epoch"]
