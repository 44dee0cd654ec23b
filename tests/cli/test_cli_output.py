import json
import math

import pytest
from rich.console import Console

from pplr.cli.measures import main_metric, print_measures
from pplr.cli.terminal import write_json


def test_json_has_null_for_what_json_does_not_know(capsys):
    write_json({"a": math.nan, "b": [math.inf, 1.5, (None, -math.inf)], "c": {"ä": "ü"}})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": None, "b": [None, 1.5, [None, None]], "c": {"ä": "ü"}}
    assert "ü" in text


def method(values, users=100):
    worst, best = min(values, key=values.get), max(values, key=values.get)
    spread = {"worst": values[worst], "best": values[best], "gap": 0.1, "std": 0.05, "jain": 0.9}
    mean = sum(values.values()) / len(values)
    return {
        "overall": {"recall@10": 2 * mean, "ndcg@10": mean, "loss": 5.0, "users": users * len(values)},
        "clients": {
            name: {"users": users, "loss": 5.0, "recall@10": 2 * value, "ndcg@10": value}
            for name, value in values.items()
        },
        "balance": {"ndcg@10": {**spread, "worst_client": worst, "best_client": best, "clients": len(values)}},
    }


def metrics(clients=3, baselines=2):
    names = [f"client-{index}" for index in range(clients)]
    return {
        "name": "shop",
        "seed": 1,
        "strategy": {"kind": "pplr"},
        "backbone": {"kind": "sequence"},
        "model": {"name": "minilm"},
        "data": {"test_users": 100 * clients, "items": 50},
        **method({name: 0.1 + 0.001 * index for index, name in enumerate(names)}),
        "baselines": {
            f"base_{number}": method(dict.fromkeys(names, 0.08 + 0.01 * number)) for number in range(baselines)
        },
    }


def printed(found, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_measures(found, console)
    console.file.close()
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("baselines", [0, 2, 7, 12])
def test_tables_fit_the_width_and_cut_no_figure(width, baselines):
    text = printed(metrics(baselines=baselines), width)
    assert "…" not in text
    assert "0.1020" in text
    assert max(map(len, text.splitlines())) <= width


def test_a_narrow_table_leaves_out_what_is_not_a_comparison():
    text = printed(metrics(baselines=7), 80)
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["client-1"])
    assert row == ["client-1", "0.1010", *(f"{0.08 + 0.01 * number:.4f}" for number in range(7))]


def test_where_not_every_baseline_fits_the_best_is_named():
    text = printed(metrics(baselines=12), 80)
    assert "best baseline" in text
    assert "base 11 0.1900" in text


def test_a_wide_table_shows_every_baseline():
    text = printed(metrics(baselines=4), 140)
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["client-1"])
    assert row == ["client-1", "100", "5.000", "0.2020", "0.1010", "0.0800", "0.0900", "0.1000", "0.1100"]


def test_of_many_clients_the_worst_are_shown():
    text = printed(metrics(clients=100), 100)
    assert "The 40 worst of 100 clients." in text
    assert "client-39 " in text
    assert "client-40 " not in text


def test_what_was_not_measured_is_a_dash():
    found = metrics()
    found["clients"]["client-0"] |= {"ndcg@10": None, "recall@10": None, "loss": None, "users": 0}
    found["baselines"]["base_0"]["clients"]["client-0"]["ndcg@10"] = None
    row = next(line.split() for line in printed(found, 140).splitlines() if line.split()[:1] == ["client-0"])
    assert row == ["client-0", "0", "-", "-", "-", "-", "0.0900"]


def test_a_run_that_measured_other_lengths_shows_those():
    assert main_metric({"overall": {"recall@5": 0.1, "ndcg@5": 0.1, "users": 3}}) == "ndcg@5"
    assert main_metric({"overall": {"ndcg@5": 0.1, "ndcg@10": 0.1}}) == "ndcg@10"
