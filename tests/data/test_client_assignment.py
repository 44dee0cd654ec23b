from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from threadpoolctl import threadpool_info, threadpool_limits

from pplr.data import (
    Catalogue,
    ClientSettings,
    ColumnClients,
    Dataset,
    DirichletClients,
    KMeansClients,
    Ragged,
    RandomClients,
    assign_clients,
)
from pplr.data.clients import _dealt
from pplr.errors import ConfigError, DataError

WORLDS = 3
PER_WORLD = 40


def worlds(untrained: int = 0, silos: tuple[str, ...] | None = None) -> Dataset:
    """Three groups of users, each with 20 items of its own; all but the last two events of a user are training."""
    generator = np.random.default_rng(0)
    rows = [20 * (user % WORLDS) + generator.permutation(20)[:10] for user in range(WORLDS * PER_WORLD)]
    parts = [[0] * 8 + [1, 2] for _ in rows] + [[2] * 10 for _ in range(untrained)]
    rows += [np.arange(10) for _ in range(untrained)]
    names = tuple(f"item {n}" for n in range(60))
    genres = tuple(("all|" + "abc"[n // 20]) for n in range(60))
    return Dataset(
        catalogue=Catalogue(names, names, {"genres": genres}),
        user_ids=tuple(f"u{n:03}" for n in range(len(rows))),
        items=Ragged.from_rows(rows),
        parts=np.concatenate(parts).astype(np.int8),
        silos=silos,
    )


TRUTH = np.arange(WORLDS * PER_WORLD) % WORLDS


def agreement(clients: np.ndarray) -> float:
    return max(float((np.array(order)[TRUTH] == clients).mean()) for order in permutations(range(WORLDS)))


def test_k_means_finds_the_tastes() -> None:
    assignment = assign_clients(worlds(), KMeansClients(count=3, factors=8), seed=1)
    assert assignment.names == ("client-0", "client-1", "client-2")
    assert agreement(assignment.client_of_user) == 1


def test_a_dirichlet_draw_with_little_alpha_follows_the_labels() -> None:
    settings = DirichletClients(count=3, attribute="genres", alpha=1e-3, minimum_share=0)
    clients = assign_clients(worlds(), settings, seed=5).client_of_user
    purity = np.mean([np.bincount(clients[world == TRUTH]).max() / PER_WORLD for world in range(WORLDS)])
    assert purity > 0.95


def test_random_clients_have_equal_sizes_and_no_taste() -> None:
    clients = assign_clients(worlds(), RandomClients(count=3), seed=1).client_of_user
    assert np.bincount(clients).tolist() == [40, 40, 40]
    assert agreement(clients) < 0.6
    unequal = assign_clients(worlds(), RandomClients(count=3, sizes=(1, 2, 10)), seed=1).client_of_user
    assert np.bincount(unequal).tolist() == [10, 19, 91]
    assert agreement(unequal) < 0.8


EVERY_KIND: list[ClientSettings] = [
    KMeansClients(count=4, factors=8, minimum_share=0.9),
    DirichletClients(count=4, attribute="genres", alpha=0.1, minimum_share=0.9),
    RandomClients(count=4),
]


@pytest.mark.parametrize("settings", EVERY_KIND, ids=lambda settings: settings.kind)
def test_clients_are_repeatable_and_never_too_small(settings: ClientSettings) -> None:
    dataset = worlds()
    one, two = (assign_clients(dataset, settings, seed=7).client_of_user for _ in range(2))
    assert one.dtype == np.int64
    assert one.tolist() == two.tolist()
    assert np.bincount(one, minlength=4).min() >= 27
    assert any(assign_clients(dataset, settings, seed=seed).client_of_user.tolist() != one.tolist() for seed in (8, 9))


@pytest.mark.parametrize("settings", EVERY_KIND, ids=lambda settings: settings.kind)
def test_users_without_training_change_nothing_for_the_others(settings: ClientSettings) -> None:
    without, with_some, with_more = (
        assign_clients(worlds(untrained=count), settings, seed=2).client_of_user for count in (0, 5, 50)
    )
    assert with_some[:120].tolist() == without.tolist()
    assert with_more[:125].tolist() == with_some.tolist()
    assert len(set(with_more[120:].tolist())) == 4


def test_identical_users_still_make_the_asked_number_of_clients() -> None:
    dataset = worlds()
    same = Dataset(
        dataset.catalogue, dataset.user_ids, Ragged.from_rows([[1, 2, 3, 4, 5]] * 120), np.tile([0, 0, 0, 1, 2], 120)
    )
    sizes = np.bincount(assign_clients(same, KMeansClients(count=5), seed=0).client_of_user, minlength=5)
    assert sizes.min() >= 4


def test_nothing_warns_of_threads_and_the_callers_threads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("implicit.utils._checked_blas_config", False)
    with threadpool_limits(2, "blas"):
        before = [pool["num_threads"] for pool in threadpool_info()]
        assign_clients(worlds(), KMeansClients(count=3), seed=1)
        assert [pool["num_threads"] for pool in threadpool_info()][: len(before)] == before


def test_names_sort_in_the_order_of_the_clients() -> None:
    names = assign_clients(worlds(), RandomClients(count=12), seed=0).names
    assert names[0] == "client-00"
    assert list(names) == sorted(names)


def test_silos_are_named_by_the_column() -> None:
    silos = tuple(("west", "east", "north")[user % 3] for user in range(120))
    assignment = assign_clients(worlds(silos=silos), ColumnClients(), seed=0)
    assert assignment.names == ("east", "north", "west")
    assert [assignment.names[client] for client in assignment.client_of_user] == list(silos)


def test_impossible_clients_say_what_to_do() -> None:
    with pytest.raises(DataError, match=r"no silo column: name it in data\.columns\.silo"):
        assign_clients(worlds(), ColumnClients(), seed=0)
    with pytest.raises(ConfigError, match=r"clients\.count is 500, but only 120 users"):
        assign_clients(worlds(untrained=900), KMeansClients(count=500), seed=0)
    with pytest.raises(
        ConfigError, match=r"'genre', which is no attribute .* Did you mean 'genres'\? They have: 'genres'"
    ):
        assign_clients(worlds(), DirichletClients(attribute="genre"), seed=0)
    silos = ("../up", *["south"] * 119, "quiet")
    with pytest.raises(DataError) as caught:
        assign_clients(worlds(untrained=1, silos=silos), ColumnClients(), seed=0)
    assert "'../up' cannot name a folder" in str(caught.value)
    assert "'quiet' has no training events" in str(caught.value)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(0, 80))
def test_random_clients_have_the_sizes_that_they_were_given(sizes, more):
    users = len(sizes) + more
    settings = RandomClients(count=len(sizes), sizes=tuple(sizes))
    found = np.bincount(_dealt(users, settings), minlength=len(sizes))
    assert found.sum() == users
    assert found.min() >= 1
    wanted = np.array(sizes) / sum(sizes) * (users - len(sizes)) + 1
    assert np.abs(found - wanted).max() <= 1 + 1e-6


def test_sizes_are_as_many_as_the_clients() -> None:
    with pytest.raises(ValidationError, match=r"has 2 sizes, and clients\.count is 5"):
        RandomClients(sizes=(1, 2))
