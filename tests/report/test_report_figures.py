"""The plots: plotly accepts them, they hold the run's numbers, and large federations stay readable."""

from __future__ import annotations

import json

import plotly.graph_objects as go
import pytest

from pplr.report.figures import MOST_CURVES, marks, over_rounds, quality, shown_clients, strategy_curves
from pplr.report.folder import read_metrics
from pplr.report.matrices import matrices


@pytest.mark.parametrize("clients", [1, 5, 60])
def test_plotly_accepts_every_figure(build_run, clients):
    metrics = read_metrics(build_run(clients=clients, users=1200, rounds=3))
    names = shown_clients(metrics, "ndcg@10")
    figures = [*quality(metrics).values(), *over_rounds(metrics, names, "ndcg@10").values()]
    assert len(figures) > 1
    for figure in [*figures, *strategy_curves(metrics, names).values()]:
        go.Figure(figure)  # an unknown property or value is an error
        json.dumps(figure, allow_nan=False)


def test_curves_hold_the_numbers_of_the_rounds(build_run):
    metrics = read_metrics(build_run(rounds=4))
    curves = over_rounds(metrics, ["client-3"], "ndcg@10")
    assert set(curves) == {"training_loss", "validation_loss", "validation_measure"}
    (trace,) = curves["validation_measure"]["data"]
    assert trace["x"] == [1, 2, 3, 4]
    assert trace["y"] == [record.clients["client-3"].validation["ndcg@10"] for record in metrics.rounds]
    speeds = strategy_curves(metrics, ["client-3"])
    assert speeds["learning_speed"]["data"][0]["y"] == [r.details["learning_speed"][3] for r in metrics.rounds]
    assert speeds["own_weight"]["data"][0]["y"] == [record.mixing[3][3] for record in metrics.rounds]


def test_a_client_that_was_absent_leaves_a_gap(build_run):
    folder = build_run(rounds=3)
    content = json.loads((folder / "metrics.json").read_text())
    content["rounds"][1]["clients"]["client-0"] |= {"trained": False, "training_loss": None}
    (folder / "metrics.json").write_text(json.dumps(content))
    curve = over_rounds(read_metrics(folder), ["client-0"], None)["training_loss"]["data"][0]["y"]
    assert curve[1] is None
    assert None not in (curve[0], curve[2])


def test_of_many_clients_the_worst_and_the_best_are_drawn(build_run):
    metrics = read_metrics(build_run(clients=50, users=1500, rounds=1))
    shown = shown_clients(metrics, "ndcg@10")
    values = {name: client.figure("ndcg@10") for name, client in metrics.clients.items()}
    assert len(set(shown)) == MOST_CURVES
    assert values[shown[0]] == min(values.values())
    assert values[shown[-1]] == max(values.values())
    assert marks(metrics) == []


def test_matrices_are_thinned_from_the_first_to_the_last_round(build_run):
    records = read_metrics(build_run(clients=4, rounds=20)).rounds
    found = matrices(records, limit=4 * 4 * 2 * 5)
    assert found.rounds == (1, 6, 11, 15, 20)
    assert found.left_out == 15
    assert set(found.values) == {"mixing", "similarity"}
    for shown, number in zip(found.values["mixing"], found.rounds, strict=True):
        for row, exact in zip(shown, records[number - 1].mixing, strict=True):
            assert row == pytest.approx(exact, abs=5e-5)
    assert matrices(records, limit=4 * 4 * 2) is None
    assert matrices([]) is None


def test_a_strategy_without_a_matrix_has_neither_heat_map_nor_own_weights(build_run):
    metrics = read_metrics(build_run(strategy="robust", rounds=2))
    assert metrics.rounds[0].mixing is None
    assert matrices(metrics.rounds) is None
    assert strategy_curves(metrics, ["client-0"]) == {}
