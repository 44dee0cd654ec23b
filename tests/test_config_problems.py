"""Mistakes in a configuration: each is named by the key as it is written, once, and all of them at once."""

from __future__ import annotations

import pytest

from pplr.config import parse_config
from pplr.errors import ConfigError


def problems(data, base) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(data, base)
    for problem in caught.value.problems:
        assert problem.count("Did you mean") <= 1, problem
        assert problem.endswith((".", "?")), problem
    return caught.value.problems


@pytest.mark.parametrize(
    ("wrong", "start"),
    [
        ({"strategy": {"alpha": "fast"}}, 'strategy.alpha = "fast": '),
        ({"strategy": {"kind": "pplr", "alpha": -1}}, "strategy.alpha = -1: "),
        ({"strategy": {"alfa": 1}}, "strategy.alfa: there is no such key in [strategy]. Did you mean 'alpha'?"),
        ({"clients": {"kind": "dirichlet", "attribute": ""}}, 'clients.attribute = "": '),
        ({"clients": {"kind": "dirichlet"}}, "clients.attribute: this key is missing. Item attribute"),
        ({"backbone": {"kind": "encoder", "adapter": {"rank": 0}}}, "backbone.adapter.rank = 0: "),
        ({"backbone": {"adapter": {"rnk": 2}}}, "backbone.adapter.rnk: there is no such key in [backbone.adapter]. Did"),
        ({"data": {"demo": "movietweetings", "split": {"kind": "global-time", "ratio": [8, 0, 2]}}}, "data.split.ratio[1]"),
        ({"data": {"demo": "movietweetings", "split": {"cut": "ratio"}}}, "data.split.cut: this key belongs to kind"),
        ({"data": {"demo": "movietweetings", "cleaning": {"k_core": "x"}}}, 'data.cleaning.k_core = "x": '),
        ({"training": {"schedule": "cosinus"}}, 'training.schedule = "cosinus": '),
        ({"data": {}}, "data.events and data.items must name a file"),
    ],
)  # fmt: skip
def test_a_key_is_named_as_it_is_written(wrong, start, tmp_path):
    (problem,) = problems(wrong, tmp_path)
    assert problem.startswith(start)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"strategy": {"kind": "fedavg", "alpha": 1.0}}, 'belongs to kind "pplr", and strategy.kind is "fedavg"'),
        ({"strategy": {"kind": "fedavg", "alpha": 1.0}}, 'set strategy.kind = "pplr"'),
        ({"clients": {"kind": "column", "count": 3}}, 'belongs to kinds "kmeans" and "dirichlet" and "random"'),
        ({"backbone": {"beams": 4}}, 'belongs to kind "generative", and backbone.kind is "sequence"'),
        ({"data": {"demo": "movietweetings", "split": {"ratio": [1, 1, 1]}}}, 'kind "global-time"'),
    ],
)
def test_a_key_of_another_kind_is_said_to_be_one(wrong, expected, tmp_path):
    (problem,) = problems(wrong, tmp_path)
    assert expected in problem
    assert "Did you mean" not in problem


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"epochs": 3}, "epochs: there is no such key at the top level. Write it as training.epochs."),
        ({"strategy": {"rounds": 3}}, "Write it as federation.rounds."),
        ({"rank": 3}, "Write it as backbone.adapter.rank."),
        ({"strategy": "fedavg"}, 'this is a section, not a value; write strategy.kind = "fedavg".'),
        ({"strategy": ["fedavg"]}, 'this is a section, not a value; write strategy.kind = "pplr".'),
        ({"training": 3}, "training = 3: this is a section, not a value; write its keys below [training]."),
        ({"training": {"epochs": True}}, "training.epochs = true: true and false are no values of this key."),
        (
            {"training": {"moments": "kept"}, "backbone": {"kind": "encoder", "adapter": {"ranks": {"client-0": 2}}}},
            "and backbone.adapter.ranks makes adapters anew",
        ),
        ({"training": {"epochs": 0}}, "training.epochs = 0: input should be greater than or equal to 0.01."),
        ({"training": {"epochs": 1000.5}}, "training.epochs = 1000.5: input should be less than or equal to 1000."),
        (
            {"training": {"epochs": "all"}},
            'training.epochs = "all": give a number of epochs, such as 2, or a part of one, such as 0.25',
        ),
        ({"training": {"clip_norm": float("inf")}}, "training.clip_norm = inf: a number must be finite."),
        (
            {"training": {"item_rate": 2.0}, "backbone": {"kind": "encoder"}},
            "only the backbone 'sequence' has, unless backbone.residual is 'none'. Leave it out",
        ),
        (
            {"training": {"item_rate": 2.0}, "backbone": {"kind": "sequence", "residual": "none"}},
            "only the backbone 'sequence' has, unless backbone.residual is 'none'. Leave it out",
        ),
        (
            {"training": {"moments": "kept"}, "strategy": {"kind": "product"}, "backbone": {"kind": "encoder"}},
            "and the strategy makes adapters anew from their products. Set training.moments to 'fresh', or leave it out.",
        ),
        ({"strategy": {"tau": float("nan")}}, "strategy.tau = nan: a number must be finite."),
        ({"evaluation": {"ks": []}}, "evaluation.ks = []: list should have at least 1 item, not 0."),
        ({"evaluation": {"ks": [0]}}, "evaluation.ks[0] = 0: input should be greater than or equal to 1."),
        (
            {"data": {"demo": "movietweetings", "split": {"kind": "global-time", "ratio": [1, 1]}}},
            "ratio[2]: this entry",
        ),
        ({"backbone": {"kind": ["x"]}}, "backbone.kind: there is no kind"),
    ],
)
def test_mistakes_that_are_understood(wrong, expected, tmp_path):
    (problem,) = problems(wrong, tmp_path)
    assert expected in problem


def test_behind_an_unknown_kind_the_other_keys_are_checked_too(tmp_path):
    found = problems({"strategy": {"kind": "pplrr", "alpha": -1, "betta": 2}, "clients": {"kind": "?"}}, tmp_path)
    assert len(found) == 4
    assert "clients.kind: there is no kind" in found[0]
    assert "strategy.kind: there is no kind \"pplrr\". Did you mean 'pplr'?" in found[1]
    assert found[2].startswith("strategy.alpha = -1")
    assert found[3].startswith("strategy.betta: ")
