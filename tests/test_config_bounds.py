"""Values that would crash a run later, or be ignored by it, are refused when the configuration is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pplr.config import parse_config
from pplr.errors import ConfigError
from pplr.federation.settings import FederationSettings


def nested(name, value):
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("name", ["", ".", "..", "a/b", "../up", "a\\b", ".hidden", "-x", "a b", "a\n", "x" * 61]),
        ("device", ["gpu", "cuda:", "cuda:128", "cuda:99999999999", "cuda:-1", "CPU"]),
        ("seed", [-1, 1.5, True]),
        ("threads", [0, -2, 1025]),
        ("evaluation.ks", [[], [0], [10, -1], [10, 10**9], 10]),
        ("evaluation.max_users", [0]),
        ("evaluation.validation_users", [0]),
        ("evaluation.examples", [-1, 101]),
        ("federation.rounds", [-1, True]),
        ("federation.patience", [0]),
        ("federation.participation", [0, -1, 0.0, -0.5, 1.01, 2.0, True, False, "half", float("nan"), float("inf")]),
        ("training.epochs", [0, -1, 0.009, 1000.5, 1001, True, float("nan"), float("inf"), "half"]),
        ("training.learning_rate", [0, -1e-3, float("nan"), float("inf"), 2]),
        ("training.weight_decay", [-0.1, float("nan")]),
        ("training.item_rate", [0, -1, 101, float("nan")]),
        ("training.warmup_steps", [-1]),
        ("training.clip_norm", [0, float("nan"), float("inf")]),
        ("training.batch_tokens", [0, -1]),
        ("training.batch_examples", [0]),
        ("training.max_examples", [0]),
        ("strategy.alpha", [-1, float("inf"), float("nan")]),
        ("strategy.beta", [0, float("inf")]),
        ("strategy.tau", [0, float("inf")]),
        ("strategy.temperature", [0, -1, float("inf")]),
        ("strategy.self_weight", [-0.1, 1.1, float("nan")]),
        ("clients.minimum_share", [-0.1, 1.1, float("nan")]),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_that_names_the_key(key, values, tmp_path):
    for value in values:
        with pytest.raises(ConfigError) as caught:
            parse_config(nested(key, value), tmp_path)
        assert len(caught.value.problems) == 1, value
        assert caught.value.problems[0].startswith(key), (value, caught.value.problems)
        assert "pattern" not in str(caught.value), "nobody has to read regular expressions"


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("name", ["shop", "run-2.1_b", "2024", "Größe", "x" * 60]),
        ("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:127"]),
        ("evaluation.ks", [[1], [5, 100_000]]),
        ("federation.participation", [1, 7, 1.0, 0.001]),
        ("seed", [0, 2**63]),
        ("training.epochs", [0.01, 0.25, 1, 1.5, 1000]),
    ],
)
def test_what_can_be_is_taken(key, values, tmp_path):
    for value in values:
        found = parse_config(nested(key, value), tmp_path).model_dump()
        for part in key.split("."):
            found = found[part]
        assert found == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("fedprox", {"mu": [-1, float("inf"), float("nan")]}),
        ("ditto", {"pull": [-1, float("inf")]}),
        ("fedper", {"layers": [-1, 1001], "names": ["block.1.*"]}),
        ("fedadam", {"eta": [-1], "beta1": [-0.1, 1], "beta2": [-0.1, 1], "tau": [0]}),
        ("qfedavg", {"q": [-1, 101], "lipschitz": [-1]}),
        ("robust", {"method": ["mode"], "trim": [-0.1, 0.5]}),
    ],
)
def test_strategies_refuse_what_lies_outside_of_their_ranges(kind, values, tmp_path):
    for key, wrong in values.items():
        for value in wrong:
            with pytest.raises(ConfigError) as caught:
                parse_config({"strategy": {"kind": kind, key: value}}, tmp_path)
            assert len(caught.value.problems) == 1, value
            assert caught.value.problems[0].startswith(f"strategy.{key}"), caught.value.problems


@pytest.mark.parametrize(
    "strategy",
    [
        *({"kind": kind} for kind in ("ditto", "fedadam", "robust", "product")),
        {"kind": "qfedavg", "lipschitz": 0.1},
        {"kind": "pplr", "products": True},
    ],
)
def test_what_needs_whole_rows_is_refused_where_a_server_holds_a_part_of_them(strategy, tmp_path):
    values = {"backbone": {"kind": "generative"}, "placement": {"kind": "split"}, "strategy": strategy}
    parse_config(values, tmp_path)
    values["placement"] = {"kind": "split", "server": "trunk.example:7443"}
    with pytest.raises(ConfigError, match=r"needs whole rows.*Leave placement\.server out.*pplr, fedavg"):
        parse_config(values, tmp_path)


@pytest.mark.parametrize("value", [True, 0, 1.5, "all", None])
def test_participation_is_a_share_or_a_count_in_python_too(value):
    with pytest.raises(ValidationError, match=r"a whole number of clients, 1 or more"):
        FederationSettings(participation=value)


def test_a_bound_on_single_clients_and_sums_over_items_do_not_go_together():
    clip = {"strategy": {"kind": "pplr", "clip": 1.0}}
    with pytest.raises(ConfigError, match=r"Set strategy\.items to 'mean', backbone\.residual to 'private'"):
        parse_config(clip, Path())
    for other in (
        {"strategy": {"kind": "pplr", "clip": 1.0, "items": "mean"}},
        {**clip, "backbone": {"kind": "sequence", "residual": "private"}},
        {**clip, "backbone": {"kind": "encoder"}},
    ):
        assert parse_config(other, Path()).strategy.needs_distances
