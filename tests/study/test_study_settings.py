"""The study file and its grid: which cells there are, what they are called, and what is refused."""

from __future__ import annotations

import pytest

from pplr.errors import ConfigError
from pplr.study.grid import cells
from pplr.study.settings import StudySettings, load_study

STRATEGIES = {
    "fedavg": {"strategy": {"kind": "fedavg"}},
    "pplr as published": {"strategy": {"kind": "pplr", "similarity": "parameters"}, "training": {"epochs": 2}},
}


def study(**sections) -> StudySettings:
    return StudySettings.model_validate({"name": "small", "axes": {"strategy": STRATEGIES, "seed": [1, 2]}, **sections})


def test_every_combination_is_a_cell_and_the_last_axis_changes_fastest(tmp_path):
    found = cells(study(), tmp_path)
    assert [cell.title for cell in found] == [
        "fedavg, seed 1",
        "fedavg, seed 2",
        "pplr as published, seed 1",
        "pplr as published, seed 2",
    ]
    assert [(cell.config.strategy.model_dump()["kind"], cell.config.seed) for cell in found] == [
        ("fedavg", 1),
        ("fedavg", 2),
        ("pplr", 1),
        ("pplr", 2),
    ]
    last = found[-1].config
    assert (last.strategy.similarity, last.training.epochs, last.name) == ("parameters", 2, "pplr-as-published-2")
    assert len({cell.digest for cell in found}) == 4


def test_a_variant_of_another_kind_drops_the_keys_of_the_base_kind(tmp_path):
    base = {"strategy": {"kind": "pplr", "alpha": 0.3}}
    first, *_, last = cells(study(base=base), tmp_path)
    assert first.config.strategy.model_dump() == {"kind": "fedavg"}
    assert last.config.strategy.alpha == 0.3


def test_a_cell_is_known_by_what_it_is_not_by_what_it_is_called_or_where_its_data_lies(tmp_path):
    data = {"data": {"events": "shop/events.csv", "items": "shop/items.csv"}}
    one, other = (cells(study(base=data), tmp_path / where) for where in ("here", "there"))
    assert one[0].config.data.events == tmp_path / "here" / "shop" / "events.csv"
    assert [cell.digest for cell in one] == [cell.digest for cell in other]
    renamed = study(
        base=data | {"threads": 2, "device": "cpu"}, axes={"kind": {"mean": STRATEGIES["fedavg"]}, "seed": [1]}
    )
    assert cells(renamed, tmp_path)[0].digest == one[0].digest
    changed = cells(study(base=data | {"federation": {"rounds": 3}}), tmp_path)
    assert not {cell.digest for cell in changed} & {cell.digest for cell in one}


def test_a_table_of_names_is_one_value_and_a_section_is_not(tmp_path):
    base = {
        "federation": {"joins": {"client-3": 8}},
        "backbone": {"kind": "encoder", "adapter": {"rank": 4, "dropout": 0.0}},
        "strategy": {"kind": "fedavg"},
    }
    ways = {
        "base": {},
        "nobody": {"federation": {"joins": {}}},
        "another": {"federation": {"joins": {"client-1": 2}}},
        "a name with a dot": {"federation": {"joins": {"shop.eu": 3}}},
        "wider": {"backbone": {"adapter": {"rank": 6}}},
        "ranks": {"backbone": {"adapter": {"ranks": {"client-0": 2}}}},
    }
    found = {cell.title: cell.config for cell in cells(study(base=base, axes={"way": ways}), tmp_path)}
    joins = {title: config.federation.joins for title, config in found.items()}
    assert (joins["base"], joins["nobody"], joins["another"]) == ({"client-3": 8}, {}, {"client-1": 2})
    assert joins["a name with a dot"] == {"shop.eu": 3}
    adapters = {title: config.backbone.adapter for title, config in found.items()}
    assert (adapters["wider"].rank, adapters["wider"].dropout) == (6, 0.0)
    assert (adapters["ranks"].rank, adapters["ranks"].ranks) == (4, {"client-0": 2})


def test_a_cell_is_the_same_wherever_its_certificates_lie(tmp_path):
    for certificates in ({}, {"certificates": "keys"}):
        placement = {"kind": "catalogue", "server": "127.0.0.1:7444"} | certificates
        given = {"placement": placement, "backbone": {"adapters": True, "adapter_updates": "round"}}
        here, there = (cells(study(base=given), tmp_path / where)[0] for where in ("here", "there"))
        assert here.config.placement.certificates != there.config.placement.certificates
        assert here.digest == there.digest
        assert str(tmp_path) not in str(here.content)


def test_a_metric_that_is_not_measured_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match=r"'ndgc@10' is not measured. Did you mean 'ndcg@10'\?"):
        cells(study(metric="ndgc@10"), tmp_path)
    with pytest.raises(ConfigError, match=r"'ndcg@10' is not measured.*There are: recall@5, ndcg@5\."):
        cells(study(base={"evaluation": {"ks": [5]}}), tmp_path)


def test_an_axis_may_be_any_key(tmp_path):
    found = cells(study(axes={"strategy.alpha": [0.0, 0.7], "evaluation.mask_history": [True, False]}), tmp_path)
    assert [(cell.config.strategy.alpha, cell.config.evaluation.mask_history) for cell in found] == [
        (0.0, True),
        (0.0, False),
        (0.7, True),
        (0.7, False),
    ]
    assert found[-1].labels == {"strategy.alpha": "0.7", "evaluation.mask_history": "false"}


def test_only_some_cells_are_asked_for(tmp_path):
    asked = study()
    one = cells(asked, tmp_path, asked.chosen(["strategy=pplr as published", "seed=2"]))
    assert [cell.title for cell in one] == ["pplr as published, seed 2"]
    assert one[0].digest == cells(asked, tmp_path)[-1].digest
    any_of = cells(asked, tmp_path, asked.chosen(["seed=1", "seed=2", "strategy=fedavg"]))
    assert [cell.title for cell in any_of] == ["fedavg, seed 1", "fedavg, seed 2"]


def test_only_with_mistakes_is_refused_all_at_once(tmp_path):
    with pytest.raises(ConfigError) as refused:
        study().chosen(["fedavg", "strategie=fedavg", "strategy=fedavgg", "seed=3"])
    assert refused.value.problems == (
        "--only takes AXIS=LABEL, such as strategy=fedavg; 'fedavg' has no '='.",
        "--only names the axis 'strategie', which is not there. Did you mean 'strategy'? Axes: strategy, seed.",
        "--only names 'fedavgg' of the axis 'strategy'. Did you mean 'fedavg'? There is: 'fedavg', 'pplr as published'.",
        "--only names '3' of the axis 'seed'. There is: '1', '2'.",
    )
    without = study(skip=[{"strategy": "fedavg", "seed": "2"}])
    with pytest.raises(ConfigError, match="--only asks for: `skip` leaves them out"):
        cells(without, tmp_path, without.chosen(["strategy=fedavg", "seed=2"]))


def test_skipped_combinations_are_left_out(tmp_path):
    found = cells(study(skip=[{"strategy": "fedavg", "seed": "2"}]), tmp_path)
    assert [cell.title for cell in found] == [
        "fedavg, seed 1",
        "pplr as published, seed 1",
        "pplr as published, seed 2",
    ]
    with pytest.raises(ConfigError, match="no cell"):
        cells(study(skip=[{}]), tmp_path)


def test_all_mistakes_in_cells_are_named_with_their_cells(tmp_path):
    wrong = {"one": {"training": {"epochs": 0}}, "two": {"strategy": {"kind": "fedagv"}}}
    with pytest.raises(ConfigError) as caught:
        cells(study(axes={"strategy": wrong, "seed": [1, 2]}), tmp_path)
    assert any(text.startswith("one, 1: training.epochs = 0") for text in caught.value.problems)
    assert any(text.startswith("two, 2: strategy.kind") and "fedavg" in text for text in caught.value.problems)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("axes = {}", "axes"),
        ("[axis]\nseed = [1]", "a study has no such key. Did you mean 'axes'?"),
        ("[axes]\nseed = [1, 1]", "axes.seed has a value twice"),
        ("axes = [1]", "axes is a table of axes"),
        ("[axes]\nseed = 1", "axes.seed is neither a list of values nor a table"),
        ("[axes.strategy]\nkind = 'pplr'", "[axes.strategy.NAME] with keys"),
        (
            "[axes]\nclients = [{ kind = 'kmeans' }]",
            "Give each variant a name: [axes.clients.NAME]",
        ),
        ("reference = { strategie = 'x' }\n[axes]\nstrategy = ['x']", "Did you mean 'strategy'?"),
        ("reference = { seed = '3' }\n[axes]\nseed = [1, 2]", "There is: '1', '2'"),
        (
            "reference = { strategy = 'x' }\n[axes.strategy.'a, b']\nstrategy.kind = 'fedavg'\n[axes.strategy.c]\nseed = 2",
            "There is: 'a, b', 'c'",
        ),
        ("[axes", "not valid TOML"),
    ],
)
def test_mistakes_in_a_study_file_are_sentences(tmp_path, text, sentence):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"\S") as caught:
        load_study(path)
    assert sentence in str(caught.value)


def test_a_study_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_study(tmp_path / "none.toml")


def test_the_shipped_studies_are_valid(tmp_path):
    from pathlib import Path

    for path in sorted((Path(__file__).parents[2] / "studies").glob("*.toml")):
        assert cells(load_study(path), tmp_path), path
