"""Records of studies, and what the pages write of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pplr.report.comparison import ComparedRun
from pplr.report.comparison_text import with_interval
from pplr.report.schema import Metrics
from pplr.study.grid import cells
from pplr.study.records import recorded
from pplr.study.settings import SEED, load_study

STUDIES = Path(__file__).parent.parent / "studies"
KEY = "ndcg@10"


def variants(path: Path, axis: str = "strategy") -> dict[str, dict[str, Path]]:
    """Return the records of a study of one axis beside seeds: label -> seed -> record."""
    known = recorded(STUDIES / "results" / path.stem)
    found: dict[str, dict[str, Path]] = {}
    for cell in cells(load_study(path), path.parent):
        if (record := known.get(cell.digest)) is not None:
            found.setdefault(cell.labels[axis], {})[cell.labels[SEED]] = record
    return found


def ahead(run: ComparedRun | None) -> list[str]:
    """Return how far a run is ahead of the reference, overall and at the worst client; where it has not been run, nothing."""
    return (
        [""] * 2 if run is None else [with_interval(each, "**{}**") for each in (run.difference, run.worst_difference)]
    )


def overall_and_worst(run: ComparedRun) -> str:
    """Return a run's figures of all users and of the worst client."""
    return f"{run.overall:.4f} / {run.balance.worst:.4f}" if run.balance is not None else f"{run.overall:.4f}"


def best_round(metrics: Metrics) -> tuple[float, float | None, int] | None:
    """Return the validation NDCG@10 of the best round, the worst client's in it (None of pooled data), and how many rounds there
    were; None where no round was validated by ranking.
    """
    number = 0 if metrics.stopped is None else metrics.stopped.best_round
    best = metrics.rounds[number - 1].clients if number else {}
    clients = [one for one in best.values() if KEY in one.validation and one.users]
    if not clients:
        return None
    scores = [one.validation[KEY] for one in clients]
    overall = float(np.average(scores, weights=[one.users for one in clients]))
    return overall, min(scores) if len(scores) > 1 else None, len(metrics.rounds)


def best_loss(metrics: Metrics) -> float | None:
    """Return the validation loss of the best round, all clients' by users; None where no round was validated."""
    number = 0 if metrics.stopped is None else metrics.stopped.best_round
    best = metrics.rounds[number - 1].clients if number else {}
    clients = [one for one in best.values() if one.validation_loss is not None and one.users]
    if not clients:
        return None
    return float(np.average([one.validation_loss for one in clients], weights=[one.users for one in clients]))
