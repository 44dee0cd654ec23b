"""A record gives back every figure bit by bit, and what is damaged is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pplr.errors import RunError
from pplr.report.folder import held_out_digest, read_configuration, read_metrics, read_per_user
from pplr.report.record import PackedUsers, make_record, read_record, write_record

IDS = st.one_of(
    st.lists(st.integers(0, 10**17).map(str), unique=True, max_size=20),
    st.lists(st.text(max_size=8), unique=True, max_size=20),
    st.lists(st.sampled_from(["7", "07", "12", "-3", "٣", "1" * 25, "a\nb", ""]), unique=True),
)


@settings(max_examples=60, deadline=None)
@given(ids=IDS, seed=st.integers(0, 10**6))
def test_every_user_client_and_figure_comes_back(ids, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([0.0, 1.0, 1 / 3, math.nan, rng.random()], (len(ids), 3))
    table = pl.DataFrame(
        {"user": ids, "client": [f"shop-{c}" for c in rng.integers(0, 4, len(ids))]},
        schema={"user": pl.String, "client": pl.String},
    ).with_columns(pl.Series(f"ndcg@{k}", values[:, k - 1]) for k in (1, 2, 3))
    packed = PackedUsers.model_validate_json(PackedUsers.pack(table).model_dump_json())
    assert_frame_equal(packed.table().sort("user"), table.sort("user"), check_exact=True)


def test_a_record_of_many_users_is_small(tmp_path, record):
    rng = np.random.default_rng(0)
    users = 50_000
    ranks = np.minimum(rng.geometric(0.004, users), 10_000)
    keys = {f"ndcg@{k}": np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0) for k in (5, 10, 20, 50)}
    keys |= {f"recall@{k}": (ranks <= k).astype(float) for k in (5, 10, 20, 50)}
    clients = [f"client-{c}" for c in rng.integers(0, 5, users)]
    table = pl.DataFrame({"user": [str(u) for u in range(1, users + 1)], "client": clients, **keys})
    packed = PackedUsers.pack(table)
    assert len(packed.model_dump_json()) < 80_000
    assert_frame_equal(packed.table(), table.select(packed.table().columns), check_exact=True)


@pytest.fixture
def record(build_run, tmp_path):
    """Write the record of a made-up run, and return its path and the run's folder."""
    folder = build_run()
    metrics = read_metrics(folder)
    path = tmp_path / "a.record.json"
    write_record(path, make_record({"seed": metrics.seed}, "abc", metrics, read_per_user(folder)))
    return path, folder


def test_it_is_read_where_a_run_folder_is(record):
    path, folder = record
    found, expected = read_metrics(path), read_metrics(folder)
    assert found.model_copy(update={"rounds": []}) == expected.model_copy(update={"rounds": []})
    assert_frame_equal(read_per_user(path).sort("user"), read_per_user(folder).sort("user"), check_exact=True)
    assert held_out_digest(path) == "abc"
    assert (read_configuration(path).name, read_configuration(path).seed) == (expected.name, expected.seed)


def test_only_matrices_of_rounds_before_the_last_are_left_out(record):
    path, folder = record
    found, expected = read_metrics(path).rounds, read_metrics(folder).rounds
    assert len(found) == len(expected) > 1
    assert found[-1] == expected[-1]
    assert found[-1].mixing is not None
    for one, other in zip(found[:-1], expected[:-1], strict=True):
        assert one.mixing is None
        assert one.details == {name: v for name, v in other.details.items() if not isinstance(v[0], list)}
        assert one.clients == other.clients


@pytest.mark.parametrize("change", ["cut", "version", "fewer users", "packed"])
def test_a_damaged_record_is_refused_with_a_remedy(record, change):
    path, _ = record
    content = json.loads(path.read_text())
    if change == "version":
        content["record"] = 2
    elif change == "fewer users":
        content["per_user"]["row"] = PackedUsers.pack(read_per_user(path)[:3]).row
    elif change == "packed":
        content["per_user"]["client"] = content["per_user"]["client"][:-8]
    path.write_text(json.dumps(content)[: -5 if change == "cut" else None])
    with pytest.raises(RunError, match=r"delete it and run\s+its cell again"):
        read_record(path)
