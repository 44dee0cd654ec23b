"""For whom a finished run recommends well: targets that nobody's training has, others, and histories by length.

    python benchmarks/buckets.py RUN ... --output benchmarks/results/buckets.json

RUNs are run folders of `pplr run` or of a study's cells, with what they were made from unchanged in its place, measured on
the users that the run was tested on. Baselines stand beside them, counted on all data in one place. The file keeps an entry per run, by the name of its folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from pplr.data.dataset import Part, Queries
from pplr.evaluation import UserMetrics, evaluate, fit_baselines, together
from pplr.evaluation.buckets import by_history, by_novelty
from pplr.federation import Client
from pplr.runner import load_fusion, open_run
from pplr.wiring import Parts
from result_file import circumstances, write_result

KS = (10,)


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
    """Return the figures of each bucket: of what each client recommends by, and of the baselines."""
    parts, rows = open_run(folder)
    config, clients = parts.config, parts.clients(parts.owners)
    weights = load_fusion(folder, config, [client.info.name for client in clients])
    baselines = fit_baselines(parts.seen) if config.evaluation.baselines else {}
    found: dict[str, dict[str, list[UserMetrics]]] = {}
    with parts.reached():
        for client in clients:
            client.best = rows[client.info.name].to(parts.backbone.device)
            with client.with_best() as (backbone, row):
                scorers = {"run": client.scorer(row, weights.get(client.info.name)), **baselines}
                for bucket, queries in buckets(parts, client).items():
                    for name, scorer in scorers.items():
                        users = evaluate(
                            scorer, queries, backbone.items, KS, mask_history=config.evaluation.mask_history
                        )
                        found.setdefault(bucket, {}).setdefault(name, []).append(users)
    return {
        "data": folder_of(config.data.events),
        "split": config.data.split.kind,
        "strategy": config.strategy.model_dump(mode="json"),
        "seed": config.seed,
        "backbone": config.backbone.model_dump(mode="json"),
        "counts": list(config.fusion.statistics),
        "share_of_targets_that_are_new": new_share(parts),
        "buckets": {
            bucket: {name: figures(together(each)) for name, each in columns.items()}
            for bucket, columns in found.items()
        },
    }


def buckets(parts: Parts, client: Client) -> dict[str, Queries]:
    """Return a client's test queries by bucket."""
    mine = client.queries(Part.TEST)
    return {"all": mine} | by_novelty(mine, parts.dataset.training(), len(parts.dataset.catalogue)) | by_history(mine)


def figures(users: UserMetrics) -> dict[str, float]:
    """Return the number of users, and the means over them where there are any."""
    return {"users": len(users)} | (users.overall() if len(users) else {})


def new_share(parts: Parts) -> float:
    """Return the share of test targets that are in nobody's training."""
    known = np.isin(parts.dataset.queries(Part.TEST).targets.values, parts.dataset.training().values)
    return float(1 - known.mean())


def folder_of(events: Path | None) -> str:
    """Return a name of the data that says nothing about the machine's folders."""
    return "movietweetings (demo)" if events is None else events.resolve().parent.name


if __name__ == "__main__":
    main()
