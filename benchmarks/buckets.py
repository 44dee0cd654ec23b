"""For whom a finished run recommends well: targets that nobody's training has, others, and histories by length.

    python benchmarks/buckets.py RUN ... --output benchmarks/results/buckets.json

RUNs are run folders of `pplr run` or of a study's cells, with what they were made from still in its place. Baselines stand
beside them, counted on all data in one place. The file keeps an entry per run, by the name of its folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pplr.data.dataset import Part, Queries
from pplr.evaluation import Scorer, evaluate, fit_baselines, together
from pplr.evaluation.buckets import by_history, by_novelty
from pplr.evaluation.evaluate import mean_of_known
from pplr.federation.events import ignore
from pplr.runner import load_run
from pplr.wiring import Parts, prepare
from result_file import circumstances, write_result

KS = (10,)
Buckets = dict[str, Queries]


def main() -> None:
    """Measure every run, and write its entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    for folder in options.runs:
        old = json.loads(options.output.read_text(encoding="utf-8"))["runs"] if options.output.is_file() else {}
        write_result(options.output, "buckets", {"runs": {**old, folder.name: {**circumstances(), **measured(folder)}}})


def measured(folder: Path) -> dict[str, Any]:
    """Return the figures of each bucket: of the models with the best rows, and of the baselines."""
    config, rows = load_run(folder)
    parts = prepare(config, ignore)
    asked = {owner.name: buckets(parts, owner.users) for owner in parts.owners}
    names = list(next(iter(asked.values())))
    mask, found = config.evaluation.mask_history, {}
    scorers = {name: parts.backbone.scorer(parts.backbone.layout.views(row)) for name, row in rows.items()}
    baselines = fit_baselines(parts.dataset) if config.evaluation.baselines else {}
    for bucket in names:
        of_each = [(owner, queries[bucket]) for owner, queries in asked.items() if len(queries[bucket])]
        found[bucket] = {"model": figures(((scorers[owner], queries) for owner, queries in of_each), parts, mask)} | {
            name: figures(((scorer, queries) for _, queries in of_each), parts, mask)
            for name, scorer in baselines.items()
        }
    return {
        "data": folder_of(config.data.events),
        "split": config.data.split.kind,
        "strategy": config.strategy.model_dump(mode="json"),
        "seed": config.seed,
        "backbone": config.backbone.model_dump(mode="json"),
        "share_of_targets_that_are_new": new_share(parts),
        "buckets": found,
    }


def buckets(parts: Parts, users: Any) -> Buckets:
    """Return a client's test queries by bucket."""
    queries = parts.dataset.queries(Part.TEST)
    mine = queries.select(np.flatnonzero(np.isin(queries.users, users)).astype(np.int64))
    training = parts.dataset.training()
    return {"all": mine} | by_novelty(mine, training, len(parts.dataset.catalogue)) | by_history(mine)


def figures(asked: Iterable[tuple[Scorer, Queries]], parts: Parts, mask_history: bool) -> dict[str, float]:
    """Return the number of users, and the means over them."""
    items = len(parts.dataset.catalogue)
    each = [evaluate(scorer, queries, items, KS, mask_history=mask_history) for scorer, queries in asked]
    if not each:
        return {"users": 0}
    users = together(each)
    return {"users": len(users)} | {key: mean_of_known(column) for key, column in users.values.items()}


def new_share(parts: Parts) -> float:
    """Return the share of test targets that are in nobody's training."""
    known = np.isin(parts.dataset.queries(Part.TEST).targets.values, parts.dataset.training().values)
    return float(1 - known.mean())


def folder_of(events: Path | None) -> str:
    """Return a name of the data that says nothing about the machine's folders."""
    return "movietweetings (demo)" if events is None else events.resolve().parent.name


if __name__ == "__main__":
    main()
