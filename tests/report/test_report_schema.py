"""metrics.json: what is accepted, what is refused, and that every field says what it is."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from pydantic import ValidationError

from pplr.evaluation import balance
from pplr.report.schema import BalanceMeasures, ClientMeasures, FusionRecord, Metrics, metrics_json_schema


@pytest.fixture
def content(build_run):
    return json.loads((build_run() / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("weights", "mixes"),
    [
        ({"model": 1.0, "transitions": 0.0, "new_items": -0.4}, False),
        ({"model": 1.0, "transitions": 0.0, "new_items": 0.4}, False),
        ({"model": 0.5, "transitions": 0.1, "new_items": 0.0}, True),
    ],
)
def test_a_client_mixes_where_a_count_has_weight(weights, mixes):
    assert FusionRecord(weights=weights, validation={}).mixes == mixes


def test_what_is_read_is_written_again_unchanged(content):
    again = json.loads(Metrics.model_validate(content).model_dump_json())
    assert again.pop("created").replace("Z", "+00:00") == content.pop("created")
    for name in content["baselines"]:
        for group in (again["baselines"][name]["overall"], *again["baselines"][name]["clients"].values()):
            assert group.pop("users") is None
            assert group.pop("loss") is None
    assert again == content


def test_not_measured_is_null_and_never_nan():
    client = ClientMeasures.model_validate({"users": 0, "examples": 9, "loss": math.nan, "ndcg@10": math.nan})
    assert client.loss is None
    assert client.figure("ndcg@10") is None
    assert json.loads(client.model_dump_json()) == {
        "users": 0,
        "examples": 9,
        "loss": None,
        "fusion": None,
        "ndcg@10": None,
    }
    assert ClientMeasures.model_validate_json(client.model_dump_json()) == client


def test_a_variation_without_a_value_is_null():
    spread = BalanceMeasures.model_validate(asdict(balance({"a": 1.0, "b": -1.0})))
    assert spread.variation is None
    assert spread.gap == 2.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema"),
        ({"surprise": 1}, "surprise"),
        ({"overall": {"users": 3, "hits": 0.5}}, "'hits' is no metric"),
        ({"overall": {"users": 3, "ndcg@10": math.inf}}, "finite"),
        ({"overall": {"ndcg@10": 0.5}}, "users"),
        ({"overall": {"users": -1, "ndcg@10": 0.5}}, "greater than or equal to 0"),
        ({"clients": {}}, "at least 1"),
        ({"stopped": {"round": 1, "best_round": 1, "reason": "bored"}}, "'rounds' or 'patience'"),
        ({"baselines": {"popularity": {"overall": {}, "clients": {"stranger": {}}, "balance": {}}}}, "'stranger'"),
    ],
)
def test_what_nobody_documented_is_refused(content, change, words):
    with pytest.raises(ValidationError, match=words):
        Metrics.model_validate(content | change)


def test_rounds_are_numbered_without_gaps(content):
    content["rounds"].pop(3)
    with pytest.raises(ValidationError, match="without gaps"):
        Metrics.model_validate(content)


def test_every_field_of_the_json_schema_has_a_description(content):
    schema = metrics_json_schema()
    assert set(content) == set(schema["properties"])
    histories = {"ClientRound", "RoundRecord"}  # described by the docstring of federation/history.py, as a whole
    parts = {"Metrics": schema, **schema["$defs"]}
    for name, part in parts.items():
        if name == "JsonValue":  # anything at all: pydantic's own
            continue
        assert part.get("description"), name
        for key, field in part.get("properties", {}).items():
            assert name in histories or field.get("description"), f"{name}.{key}"
