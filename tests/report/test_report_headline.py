"""The sentences at the top: true for runs that win, lose, tie, and for runs with nothing to compare."""

from __future__ import annotations

import json

import pytest

from pplr.report.folder import read_metrics
from pplr.report.headline import best_baseline, headline, main_measure
from pplr.report.schema import Metrics
from pplr.wording import bytes_text, measure_name, relative_text, seconds_text


@pytest.fixture
def metrics_with(build_run):
    """Return a function: overall NDCG@10 of the run and of its baselines -> metrics."""
    content = json.loads((build_run() / "metrics.json").read_text())

    def make(value, baselines):
        content["overall"]["ndcg@10"] = value
        content["baselines"] = {
            name: {"overall": {"ndcg@10": other}, "clients": {}} for name, other in baselines.items()
        }
        return Metrics.model_validate(content)

    return make


def test_a_run_that_wins(metrics_with):
    top = headline(metrics_with(0.15, {"popularity": 0.05, "transitions": 0.12, "recent": 0.1}))
    assert top.sentence == (
        "Dynamic balance (pplr) over 5 clients reaches NDCG@10 0.150, 25% above the best simple baseline (transitions)."
    )
    assert top.verdict == "good"
    text = " ".join(top.paragraphs)
    assert "Popularity (the same most chosen items for everybody) reaches 0.050, the model is 200% better" in text
    assert "recent popularity (what was chosen most in the days before) reaches 0.100, the model is 50% better" in text


def test_a_run_that_loses_is_not_talked_up(metrics_with):
    top = headline(metrics_with(0.09, {"popularity": 0.05, "transitions": 0.12}))
    assert "25% below the best simple baseline (transitions)" in top.sentence
    assert top.verdict == "poor"
    assert "So far transitions serves users better" in " ".join(top.paragraphs)


@pytest.mark.parametrize(
    ("best", "advice"),
    [
        (10, "better: train longer."),
        (4, "better: rounds after number 4 made it no better, so tune on validation data."),
    ],
)
def test_more_rounds_are_advised_only_where_the_last_was_the_best(metrics_with, best, advice):
    metrics = metrics_with(0.09, {"transitions": 0.12})
    assert metrics.stopped is not None
    stopped = metrics.stopped.model_copy(update={"round": 10, "best_round": best})
    assert advice in " ".join(headline(metrics.model_copy(update={"stopped": stopped})).paragraphs)


def test_small_differences_are_no_victory(metrics_with):
    top = headline(metrics_with(0.1215, {"transitions": 0.12}))
    assert "about as good as the best simple baseline" in top.sentence
    assert top.verdict == "even"


def test_a_baseline_of_zero(metrics_with):
    top = headline(metrics_with(0.1, {"popularity": 0.0}))
    assert "above the best simple baseline (popularity)" in top.sentence
    assert "reaches 0.000, where the model finds some" in " ".join(top.paragraphs)


def test_without_baselines_nothing_is_claimed(build_run):
    top = headline(read_metrics(build_run(baselines=False)))
    assert top.sentence.endswith("on 600 test users.")
    assert top.verdict == "open"
    assert "No simple baselines were measured" in " ".join(top.paragraphs)


def test_the_worst_client_is_named_with_what_its_users_would_get_from_counting(build_run):
    metrics = read_metrics(build_run())
    worst = min(metrics.clients, key=lambda name: metrics.clients[name].figure("ndcg@10"))
    name, value = max(
        ((name, baseline.clients[worst].figure("ndcg@10")) for name, baseline in metrics.baselines.items()),
        key=lambda pair: pair[1],
    )
    assert best_baseline(metrics, "ndcg@10", worst) == (name, value)
    text = " ".join(headline(metrics).paragraphs)
    assert f"The worst client is {worst} with {metrics.clients[worst].figure('ndcg@10'):.3f}" in text
    assert f"gives {value:.3f}" in text
    better = sum(c.figure("ndcg@10") > best_baseline(metrics, "ndcg@10", n)[1] for n, c in metrics.clients.items())
    assert f"{better} of 5 clients are better served" in text


def test_nobody_to_measure_on(build_run):
    nothing = {
        "overall": {"users": 0},
        "balance": {},
        "clients": {"only": {"users": 0, "examples": 3}},
        "baselines": {},
    }
    top = headline(read_metrics(build_run(change=nothing)))
    assert "no user had held-out events" in top.sentence
    assert top.tiles == ()


@pytest.mark.parametrize(
    ("overall", "expected"),
    [
        ({"recall@10": 0.3, "ndcg@5": 0.1, "ndcg@10": 0.2}, "ndcg@10"),
        ({"recall@3": 0.3, "ndcg@3": 0.1}, "ndcg@3"),
        ({"recall@3": 0.3, "ndcg@3": None}, "recall@3"),
        ({"loss": 2.0}, "loss"),
    ],
)
def test_the_measure_that_leads(build_run, overall, expected):
    metrics = read_metrics(build_run(change={"overall": {"users": 5, **overall}}))
    assert main_measure(metrics) == expected


def test_numbers_as_people_read_them():
    assert [
        relative_text(*pair)
        for pair in ((1.2, 1.0), (0.8, 1.0), (1.001, 1.0), (0.0, 0.0), (0.1, 0.0), (0.4, 0.1), (2.4, 0.1))
    ] == [
        "+20%",
        "−20%",
        "±0%",
        "±0%",
        "above 0",
        "4.0 times",
        "24 times",
    ]
    assert [seconds_text(s) for s in (0.04, 4.24, 9.96, 59.4, 59.6, 200, 3599.7, 7500)] == [
        "0.0 s",
        "4.2 s",
        "10 s",
        "59 s",
        "1 min 00 s",
        "3 min 20 s",
        "1 h 00 min",
        "2 h 05 min",
    ]
    assert [bytes_text(b) for b in (0, 512, 999_600, 12_700_000, 1.412e9)] == [
        "0 B",
        "512 B",
        "1 MB",
        "12.7 MB",
        "1.41 GB",
    ]
    assert [measure_name(key) for key in ("ndcg@10", "recall@5", "loss")] == ["NDCG@10", "Recall@5", "Loss"]
