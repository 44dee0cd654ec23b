"""Changing what is to be predicted changes nothing that is learned from."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pplr.data import (
    CleaningSettings,
    ClientSettings,
    Dataset,
    DataSettings,
    DirichletClients,
    GlobalTime,
    KMeansClients,
    LeaveOneOut,
    Part,
    RandomClients,
    assign_clients,
    load_dataset,
)

USERS, ITEMS = 60, 40
CLIENTS: list[ClientSettings] = [
    KMeansClients(count=3, factors=8),
    DirichletClients(count=3, attribute="genre"),
    RandomClients(count=3),
]


def events(generator: np.random.Generator) -> pl.DataFrame:
    lengths = generator.integers(1, 15, USERS)
    total = int(lengths.sum())
    return pl.DataFrame(
        {
            "user": [f"u{user:02}" for user in np.repeat(np.arange(USERS), lengths)],
            "item": [f"i{item:02}" for item in generator.integers(0, ITEMS, total)],
            "time": generator.permutation(total) + 1_000,
        }
    )


def loaded(folder: Path, frame: pl.DataFrame, split: LeaveOneOut | GlobalTime, core: int) -> Dataset:
    frame.write_parquet(folder / "events.parquet")
    table = pl.DataFrame({"id": [f"i{n:02}" for n in range(ITEMS)], "title": [f"T{n}" for n in range(ITEMS)]})
    table.with_columns(genre=pl.Series([f"g{n % 4}" for n in range(ITEMS)])).write_parquet(folder / "items.parquet")
    cleaning = CleaningSettings(k_core=core)
    return load_dataset(
        DataSettings(events=Path("events.parquet"), items=Path("items.parquet"), split=split, cleaning=cleaning), folder
    )


def later_than(frame: pl.DataFrame, split: LeaveOneOut | GlobalTime, part: Part) -> pl.Series:
    """Return which events belong to a part later than `part`, found without the code under test."""
    if isinstance(split, GlobalTime):
        ranks = frame["time"].rank("ordinal")
        return ranks > round(len(frame) * (0.8 if part is Part.TRAIN else 0.9))
    back = frame.select(pl.col("time").rank("ordinal", descending=True).over("user")).to_series()
    many = frame.select(pl.len().over("user") >= 3).to_series()
    return (back <= (2 if part is Part.TRAIN else 1)) & many


def changed(frame: pl.DataFrame, later: pl.Series, generator: np.random.Generator) -> pl.DataFrame:
    """Return the events with other items in the later part, each user's in another order."""
    items = pl.Series([f"i{item:02}" for item in generator.integers(0, ITEMS, len(frame))])
    frame = frame.with_columns(item=pl.select(pl.when(later).then(items).otherwise(frame["item"])).to_series())
    shuffled = frame.filter(later).with_columns(
        pl.col("time").gather(pl.int_range(pl.len()).shuffle(seed=int(generator.integers(1000)))).over("user")
    )
    return pl.concat([frame.filter(~later), shuffled])


@pytest.mark.parametrize("core", [0, 5])
@pytest.mark.parametrize("split", [LeaveOneOut(), GlobalTime()], ids=lambda split: split.kind)
@pytest.mark.parametrize("part", [Part.TRAIN, Part.VALIDATION], ids=["after training", "after validation"])
def test_later_events_change_nothing_earlier(
    tmp_path: Path, part: Part, split: LeaveOneOut | GlobalTime, core: int
) -> None:
    generator = np.random.default_rng(core)
    frame = events(generator)
    later = later_than(frame, split, part)
    one = loaded(tmp_path, frame, split, core)
    other_events = changed(frame, later, generator)
    assert not other_events.sort("user", "time").equals(frame.sort("user", "time"))
    two = loaded(tmp_path, other_events, split, core)

    assert one.catalogue == two.catalogue
    assert one.user_ids == two.user_ids
    earlier_one, earlier_two = one.parts <= part, two.parts <= part
    assert one.items.values[earlier_one].tolist() == two.items.values[earlier_two].tolist()
    assert one.times is not None
    assert two.times is not None
    assert one.times[earlier_one].tolist() == two.times[earlier_two].tolist()
    assert one.training().offsets.tolist() == two.training().offsets.tolist()
    assert one.training().values.tolist() == two.training().values.tolist()
    for settings in CLIENTS:
        first, second = (assign_clients(dataset, settings, seed=3) for dataset in (one, two))
        assert first.names == second.names
        assert first.client_of_user.tolist() == second.client_of_user.tolist()


def test_the_test_set_itself_did_change(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    frame = events(generator)
    one = loaded(tmp_path, frame, LeaveOneOut(), 0)
    two = loaded(
        tmp_path, changed(frame, later_than(frame, LeaveOneOut(), Part.VALIDATION), generator), LeaveOneOut(), 0
    )
    assert one.queries(Part.TEST).targets.values.tolist() != two.queries(Part.TEST).targets.values.tolist()
    assert one.queries(Part.VALIDATION).targets.values.tolist() == two.queries(Part.VALIDATION).targets.values.tolist()


@pytest.mark.parametrize("settings", CLIENTS[:2], ids=lambda settings: settings.kind)
def test_other_training_events_do_change_the_clients(tmp_path: Path, settings: ClientSettings) -> None:
    generator = np.random.default_rng(2)
    frame = events(generator)
    one = loaded(tmp_path, frame, LeaveOneOut(), 0)
    two = loaded(tmp_path, changed(frame, pl.repeat(True, len(frame), eager=True), generator), LeaveOneOut(), 0)
    first, second = (assign_clients(dataset, settings, seed=3).client_of_user for dataset in (one, two))
    assert first.tolist() != second.tolist()
