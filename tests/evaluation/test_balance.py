"""Balance against closed forms, and client means against a loop."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplr.errors import DataError
from pplr.evaluation.balance import balance, balances, per_client
from pplr.evaluation.evaluate import UserMetrics

LISTS = st.lists(st.floats(0.001, 100), min_size=1, max_size=12)


@given(values=LISTS)
def test_measures_equal_the_statistics_module(values: list[float]) -> None:
    found = balance({f"c{i}": value for i, value in enumerate(values)})
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.std == pytest.approx(statistics.pstdev(values), abs=1e-9)
    assert found.variation == pytest.approx(statistics.pstdev(values) / statistics.fmean(values), abs=1e-9)
    assert (found.worst, found.best, found.clients) == (min(values), max(values), len(values))
    assert found.gap == pytest.approx(max(values) - min(values))
    # Jain's index in the form of the coefficient of variation
    assert found.jain == pytest.approx(1 / (1 + found.variation**2))
    assert 1 / len(values) - 1e-12 <= found.jain <= 1 + 1e-12


@given(values=LISTS, factor=st.floats(0.1, 10))
def test_jain_and_variation_do_not_depend_on_scale_or_order(values: list[float], factor: float) -> None:
    named = {f"c{i}": value for i, value in enumerate(values)}
    first, second = balance(named), balance({name: value * factor for name, value in reversed(named.items())})
    assert second.jain == pytest.approx(first.jain)
    assert second.variation == pytest.approx(first.variation, abs=1e-7)


def test_jain_at_its_extremes() -> None:
    assert balance({"a": 0.2, "b": 0.2, "c": 0.2}).jain == 1.0
    assert balance({"a": 0.0, "b": 0.0, "c": 0.6}).jain == pytest.approx(1 / 3)
    everybody_misses = balance({"a": 0.0, "b": 0.0})
    assert (everybody_misses.jain, everybody_misses.variation, everybody_misses.gap) == (1.0, 0.0, 0.0)


def test_the_worst_client_of_a_loss_is_the_highest() -> None:
    losses = {"a": 2.0, "b": 5.0, "c": 3.0}
    found = balance(losses, higher_is_better=False)
    assert (found.worst, found.worst_client, found.best, found.best_client) == (5.0, "b", 2.0, "a")
    assert (found.gap, balance(losses).worst_client) == (3.0, "a")


def test_clients_without_a_value_are_left_out() -> None:
    found = balance({"a": 0.1, "b": float("nan"), "c": 0.3})
    assert (found.clients, found.worst_client, found.mean) == (2, "a", pytest.approx(0.2))
    with pytest.raises(DataError, match="No client has a value"):
        balance({"b": float("nan")})
    with pytest.raises(DataError, match="client 'b' is infinite"):
        balance({"a": 1.0, "b": float("inf")})


def test_client_means_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    client_of_user = rng.integers(0, 3, 50)
    users = rng.permutation(50)[:30]
    values = rng.random(30)
    values[4] = np.nan
    metrics = UserMetrics(users, {"recall@10": values, "ndcg@10": values**2})
    found = per_client(metrics, client_of_user, ["x", "y", "z", "nobody"])
    for code, name in enumerate(["x", "y", "z"]):
        mine = [v for u, v in zip(users, values, strict=True) if client_of_user[u] == code and v == v]
        assert found[name]["recall@10"] == pytest.approx(np.mean(mine))
        assert found[name]["ndcg@10"] == pytest.approx(np.mean(np.square(mine)))
    assert np.isnan(found["nobody"]["recall@10"])
    assert balances(found)["ndcg@10"] == balance({name: row["ndcg@10"] for name, row in found.items()})


@pytest.mark.parametrize("client", [-1, 2])
def test_a_user_of_no_client_is_an_error(client: int) -> None:
    metrics = UserMetrics(np.array([0, 1]), {"recall@10": np.ones(2)})
    with pytest.raises(DataError, match="1 evaluated users belong to none of the 2 clients; the first has the code 1"):
        per_client(metrics, np.array([0, client]), ["a", "b"])
    with pytest.raises(DataError, match="the first has the code 1"):
        per_client(metrics, np.array([0]), ["a", "b"])
