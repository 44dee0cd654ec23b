"""SASRec on all data in one place, the reference that is not ours: same split, candidates, masking and metrics.

    python3 -m venv ENV && ENV/bin/pip install torch==2.13.0
    ENV/bin/pip install -r benchmarks/sasrec_requirements.txt
    python benchmarks/sasrec.py --python ENV/bin/python --work FOLDER --output benchmarks/results/sasrec.json
    python benchmarks/sasrec.py ... --name amazon-beauty --events interactions.csv.gz --items items.csv.gz

RecTools' SASRec with cross-entropy over the catalogue learns from training events alone, in a process of its own
(sasrec_fit.py). Settings and number of epochs are those with the best NDCG@10 on validation targets; only then is the
test looked at, once. The file keeps one entry per data set; others stay as they are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pplr.data import assign_clients
from pplr.data.clients import KMeansClients
from pplr.data.dataset import Dataset, Part, Queries
from pplr.evaluation import evaluate
from pplr.storage import file_digest
from result_file import circumstances, write_result
from source_data import add_data_options, data_name, figures_by_client, load_data

KEY = "ndcg@10"

save: Any = np.savez  # its types forbid arrays by name


class Snapshot(NamedTuple):
    """What sasrec_fit.py wrote after some epochs."""

    epoch: int
    score: float
    cpu_seconds: float
    arrays: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        partial = path.with_name("partial.npz")
        save(partial, epoch=self.epoch, score=self.score, cpu_seconds=self.cpu_seconds, **self.arrays)
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> Snapshot:
        """Return what `save` has written."""
        with np.load(path) as found:
            arrays = dict(found)
        epoch, score, cpu_seconds = (arrays.pop(key).item() for key in ("epoch", "score", "cpu_seconds"))
        return Snapshot(epoch, score, cpu_seconds, arrays)


class DotProducts:
    """Scores by SASRec's vectors; items that no training event has stand last, and so do rows without known items."""

    def __init__(self, queries: Queries, arrays: dict[str, Any], part: str, items: int) -> None:
        """Take the vectors of the queries of a part."""
        width = arrays["item_vectors"].shape[1]
        self._vectors = torch.zeros(len(queries), width)
        self._vectors[torch.from_numpy(arrays[f"{part}_rows"])] = torch.from_numpy(arrays[f"{part}_vectors"])
        self._row_of = {user: row for row, user in enumerate(queries.users.tolist())}
        self._codes = torch.from_numpy(arrays["items"])
        self._item_vectors = torch.from_numpy(arrays["item_vectors"])
        self._items = items

    def scores(self, queries: Queries) -> torch.Tensor:
        """Return the scores [len(queries), items]."""
        rows = torch.tensor([self._row_of[user] for user in queries.users.tolist()])
        known = self._vectors[rows] @ self._item_vectors.T
        scores = (known.min(dim=1, keepdim=True).values - 1).repeat(1, self._items)
        return scores.index_copy(1, self._codes, known)


def main() -> None:
    """Choose on validation, measure on the test, and write the entry of this data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--name", help="name of the data set in the result; absent: its folder's")
    parser.add_argument("--python", type=Path, required=True, help="Python of the environment with RecTools")
    parser.add_argument("--work", type=Path, required=True, help="folder for the split and the vectors")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="the settings are chosen with the first")
    parser.add_argument("--factors", nargs="+", type=int, default=[64], help="widths to choose from")
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.2, 0.5], help="rates to choose from")
    parser.add_argument("--length", type=int, default=50, help="last items of a history that are read")
    parser.add_argument("--epochs-at-once", type=int, default=2, help="epochs between looks at validation")
    parser.add_argument("--max-epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=3, help="looks without improvement before training ends")
    options = parser.parse_args()
    dataset = load_data(options)
    options.work.mkdir(parents=True, exist_ok=True)
    export(dataset, options.work / "split.npz")
    candidates = [
        {"n_factors": factors, "dropout_rate": dropout}
        for factors, dropout in itertools.product(options.factors, options.dropout)
    ]
    found = [best(dataset, settings, options.seeds[0], options) for settings in candidates]
    chosen = int(np.argmax([snapshot.score for snapshot in found]))
    runs = [found[chosen], *(best(dataset, candidates[chosen], seed, options) for seed in options.seeds[1:])]
    entry = {
        **circumstances(),
        "library": requirements(),
        "split": options.split,
        "settings": {**fixed(options), **candidates[chosen]},
        "patience": options.patience,
        "epochs_at_once": options.epochs_at_once,
        "candidates": [
            {
                **settings,
                "epochs": snapshot.epoch,
                f"validation {KEY}": snapshot.score,
                "cpu_seconds": snapshot.cpu_seconds,
            }
            for settings, snapshot in zip(candidates, found, strict=True)
        ],
        "runs": [
            {"seed": seed, "epochs": run.epoch, f"validation {KEY}": run.score, "cpu_seconds": run.cpu_seconds}
            | measured(dataset, run, seed)
            for seed, run in zip(options.seeds, runs, strict=True)
        ],
    }
    old = json.loads(options.output.read_text(encoding="utf-8"))["data"] if options.output.is_file() else {}
    write_result(options.output, "sasrec", {"data": {**old, options.name or data_name(options): entry}})


def export(dataset: Dataset, path: Path) -> None:
    """Write training rows and the histories of validation and test queries; no target is written."""
    rows = {
        "training": dataset.training(),
        "validation": dataset.queries(Part.VALIDATION).histories,
        "test": dataset.queries(Part.TEST).histories,
    }
    arrays = {f"{part}_items": row.values for part, row in rows.items()}
    save(path, **arrays, **{f"{part}_offsets": row.offsets for part, row in rows.items()})


def fixed(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that are not chosen."""
    return {"n_blocks": 2, "n_heads": 2, "session_max_len": options.length, "lr": 1e-3, "batch_size": 128}


def best(dataset: Dataset, settings: dict[str, Any], seed: int, options: argparse.Namespace) -> Snapshot:
    """Return the snapshot of one training with the best NDCG@10 on validation."""
    limits = options.length, options.epochs_at_once, options.patience, options.max_epochs
    data = file_digest(options.work / "split.npz")[:12]
    name = "-".join(str(value) for value in (data, *settings.values(), *limits, seed))
    path = options.work / f"best-{name}.npz"
    if path.is_file():
        return Snapshot.load(path)
    queries, items = dataset.queries(Part.VALIDATION), len(dataset.catalogue)
    chosen: Snapshot | None = None
    waited = 0
    training = snapshots(
        {**fixed(options), **settings, "seed": seed, "epochs_at_once": options.epochs_at_once}, options
    )
    for progress, arrays in training:
        scorer = DotProducts(queries, arrays, "validation", items)
        score = evaluate(scorer, queries, items, (10,)).overall()[KEY]
        print(settings, seed, progress, f"{KEY} {score:.4f}", time.strftime("%H:%M:%S"), flush=True)
        if chosen is None or score > chosen.score:
            chosen, waited = Snapshot(progress["epoch"], score, progress["cpu_seconds"], arrays), 0
        else:
            waited += 1
        if waited >= options.patience or progress["epoch"] >= options.max_epochs:
            break
    training.close()
    if chosen is None:
        raise SystemExit("sasrec_fit.py wrote no vectors. Look at its message above.")
    chosen.save(path)
    return chosen


def snapshots(
    settings: dict[str, Any], options: argparse.Namespace
) -> Generator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield progress and vectors of a training that goes on for as long as they are asked for."""
    script, path = Path(__file__).with_name("sasrec_fit.py"), options.work / "snapshot.npz"
    words = [str(options.python), str(script), str(options.work / "split.npz"), str(path), json.dumps(settings)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in process.stdout:
                with np.load(path) as arrays:
                    yield json.loads(line), dict(arrays)
                process.stdin.write("on\n")
                process.stdin.flush()
        finally:
            process.kill()  # Lightning would catch a gentler signal


def measured(dataset: Dataset, run: Snapshot, seed: int) -> dict[str, Any]:
    """Return the test figures overall, by client (5 by k-means, as in a run with this seed), and their balance."""
    queries, items = dataset.queries(Part.TEST), len(dataset.catalogue)
    users = evaluate(DotProducts(queries, run.arrays, "test", items), queries, items)
    assignment = assign_clients(dataset, KMeansClients(), seed)
    return figures_by_client(users, assignment.client_of_user, assignment.names)


def requirements() -> list[str]:
    """Return the versions that the environment was made from."""
    lines = Path(__file__).with_name("sasrec_requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


if __name__ == "__main__":
    main()
