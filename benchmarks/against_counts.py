"""How far a study's runs are ahead of counting on all clients' data, and whether that is more than the luck of the users.

    python benchmarks/against_counts.py studies/games.toml --only strategy=pplr --data-folder DATA --name "Amazon Games"

Runs are read from their records; baselines are counted again, and asked the same users. Several seeds are one variant, as in
`pplr compare --over-seeds`. The file keeps one entry per name; others stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pplr.data import load
from pplr.data.dataset import Dataset, Part
from pplr.evaluation import UserMetrics, evaluate, fit_baselines
from pplr.evaluation.seeds import compare_over_seeds
from pplr.report.record import Record, read_record
from pplr.study.grid import Cell, cells
from pplr.study.records import recorded
from pplr.study.settings import load_study
from result_file import circumstances, write_result
from study_runs import KEY

HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> None:
    """Compare the chosen cells with every baseline, and write their entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file")
    parser.add_argument("--only", action="append", default=[], metavar="AXIS=LABEL", help="as in `pplr study`")
    parser.add_argument("--data-folder", type=Path, help="where relative paths start; the study's folder without")
    parser.add_argument("--records", type=Path, help="records of the study; results/NAME beside it without")
    parser.add_argument("--name", required=True, help="name of the entry")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "against_counts.json")
    options = parser.parse_args(arguments)
    study = load_study(options.study)
    known = recorded(options.records or options.study.parent / "results" / options.study.stem)
    chosen = cells(study, options.data_folder or options.study.parent, study.chosen(options.only))
    done = [cell for cell in chosen if cell.digest in known]
    if len({cell.variant for cell in done}) != 1:
        raise SystemExit(
            f"{len(done)} cells with records are chosen. Choose some of one variant, by --only for each axis but seed."
        )
    old = json.loads(options.output.read_text(encoding="utf-8"))["runs"] if options.output.is_file() else {}
    entry = {**circumstances(), "study": options.study.stem, "labels": labels(done)}
    entry |= measured(done[0], [read_record(known[cell.digest]) for cell in done])
    write_result(options.output, "against_counts", {"runs": {**old, options.name: entry}})


def labels(done: Sequence[Cell]) -> dict[str, list[str]]:
    """Return what was chosen along each axis."""
    return {axis: sorted({cell.labels[axis] for cell in done}) for axis in done[0].labels}


def measured(cell: Cell, records: Sequence[Record]) -> dict[str, Any]:
    """Return for each baseline the runs' figure minus its own, with the interval: of all users, and of the worst clients."""
    dataset = load(cell.config.data, Path()).dataset
    runs, owners = zip(*(per_user(dataset, record) for record in records), strict=True)
    queries, found = dataset.queries(Part.TEST), {}
    for name, scorer in fit_baselines(dataset).items():
        asked = evaluate(
            scorer, queries, len(dataset.catalogue), (10,), mask_history=cell.config.evaluation.mask_history
        )
        for record in records:
            before = record.metrics.baselines[name].overall.figure(KEY)
            if before is None or abs(before - asked.overall()[KEY]) > 1e-9:
                raise SystemExit(
                    f"{name} has {asked.overall()[KEY]:.6f} here and had {before:.6f}: these are other data."
                )
        differences = compare_over_seeds(runs, [asked] * len(runs), KEY, seed=1, clients=owners)
        found[name] = {what: asdict(each) for what, each in differences.items()}
    return {"minus": found}


def per_user(dataset: Dataset, record: Record) -> tuple[UserMetrics, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return what a run has measured of each user, in this data set's codes, and each user's client [all users]."""
    table = record.per_user.table()
    codes = {user: code for code, user in enumerate(dataset.user_ids)}
    if absent := set(table["user"]) - codes.keys():
        raise SystemExit(f"{len(absent)} users of the run are not here: these are other data.")
    users = np.array([codes[user] for user in table["user"]], dtype=np.int64)
    names = {name: code for code, name in enumerate(sorted(set(table["client"])))}
    owners = np.zeros(len(codes), dtype=np.int64)
    owners[users] = [names[client] for client in table["client"]]
    return UserMetrics(users, {KEY: table[KEY].to_numpy()}), owners


if __name__ == "__main__":
    main()
