"""The options by which a benchmark is given data: two files, or the data that comes with the program; and what it says of users."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pplr.data import load
from pplr.data.dataset import Dataset, Ints
from pplr.data.settings import DataSettings
from pplr.data.splits import GlobalTime, LeaveOneOut
from pplr.evaluation import UserMetrics, balances, per_client

KEY = "ndcg@10"


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add `--events`, `--items`, `--split` and `--output`."""
    parser.add_argument("--events", type=Path, help="file of events; absent: the demo data (MovieTweetings)")
    parser.add_argument("--items", type=Path, help="file of items")
    parser.add_argument("--split", choices=("leave-one-out", "global-time"), default="leave-one-out")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def data_settings(options: argparse.Namespace) -> DataSettings:
    """Return what the options say, as the section `[data]` of a configuration."""
    split = GlobalTime() if options.split == "global-time" else LeaveOneOut()
    if options.events is None:
        return DataSettings(demo="movietweetings", split=split)
    return DataSettings(events=options.events.resolve(), items=options.items and options.items.resolve(), split=split)


def load_data(options: argparse.Namespace) -> Dataset:
    """Return the data set that the options name."""
    return load(data_settings(options), Path()).dataset


def data_name(options: argparse.Namespace) -> str:
    """Return a name for the result file that says nothing about the machine's folders."""
    return "movietweetings (demo)" if options.events is None else str(options.events.resolve().parent.name)


def figures_by_client(users: UserMetrics, owners: Ints, names: Sequence[str]) -> dict[str, Any]:
    """Return test figures overall and by client, of which `owners` [all users] has the codes and `names` the names."""
    clients = per_client(users, owners, names)
    spread = balances(clients)[KEY]
    return {
        "users": len(users),
        "overall": users.overall(),
        "clients": {name: means[KEY] for name, means in clients.items()},
        "worst_client": spread.worst,
        "std": spread.std,
    }
