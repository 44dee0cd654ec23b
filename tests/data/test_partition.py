import numpy as np
import pytest

from pplr.data import Catalogue, ClientAssignment, Dataset, Part, Ragged, client_data, pool
from pplr.errors import DataError


def dataset(times: bool = True) -> Dataset:
    rows = [[0, 1, 2, 3], [4], [1, 0, 3], [2, 2, 1, 0, 4], [3, 0, 1]]
    parts = [[0, 0, 1, 2], [0], [0, 1, 2], [0, 0, 0, 1, 2], [2, 2, 2]]
    names = tuple("abcde")
    return Dataset(
        Catalogue(names, names),
        tuple("vwxyz"),
        Ragged.from_rows(rows),
        np.concatenate(parts).astype(np.int8),
        np.arange(16) if times else None,
    )


ASSIGNMENT = ClientAssignment(("north", "south"), np.array([0, 1, 1, 0, 1]))


def test_each_client_gets_the_rows_of_its_users_and_no_others() -> None:
    data = dataset()
    clients = client_data(data, ASSIGNMENT)
    assert [client.name for client in clients] == ["north", "south"]
    assert [client.users.tolist() for client in clients] == [[0, 3], [1, 2, 4]]
    assert [[row.tolist() for row in client.training] for client in clients] == [[[0, 1], [2, 2, 1]], [[4], [1], []]]
    north, south = clients
    assert north.test.users.tolist() == [0, 3]
    assert [row.tolist() for row in north.test.histories] == [[0, 1, 2], [2, 2, 1, 0]]
    assert south.test.users.tolist() == [2]
    assert south.validation.targets[0].tolist() == [0]
    assert north.test.times is not None
    assert north.test.times.tolist() == [3, 12]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("times", [True, False])
def test_the_pool_of_all_clients_is_the_whole_data_set(order: tuple[int, int], times: bool) -> None:
    data = dataset(times)
    clients = client_data(data, ASSIGNMENT)
    whole = pool([clients[place] for place in order], "all")
    assert whole.name == "all"
    assert whole.users.tolist() == [0, 1, 2, 3, 4]
    assert whole.training.values.tolist() == data.training().values.tolist()
    assert whole.training.offsets.tolist() == data.training().offsets.tolist()
    for part, queries in ((Part.VALIDATION, whole.validation), (Part.TEST, whole.test)):
        expected = data.queries(part)
        assert queries.users.tolist() == expected.users.tolist()
        assert queries.histories.values.tolist() == expected.histories.values.tolist()
        assert queries.targets.values.tolist() == expected.targets.values.tolist()
        assert (queries.times is None) == (expected.times is None)
        if queries.times is not None and expected.times is not None:
            assert queries.times.tolist() == expected.times.tolist()


def test_what_cannot_be_pooled() -> None:
    north, _ = client_data(dataset(), ASSIGNMENT)
    with pytest.raises(DataError, match="User 0 belongs to two"):
        pool([north, north], "all")
    with pytest.raises(DataError, match="no clients"):
        pool([], "all")
