"""What becomes of dynamic balance if rows are mixed in place, as in the code that the method's authors released.

    python benchmarks/in_place.py --work FOLDER [--order forwards backwards neither] [--seeds 1]

There a client mixes with rows some of which are mixed already, so that the result depends on the order of the clients, which
means nothing. Mixing in place is one matrix too: row c is D_c with the new rows in the place of the old ones before it. The
runs are those of `studies/balance.toml`, similarity of parameters, items averaged. Runs that are in FOLDER already are not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pplr.config import parse_config
from pplr.federation.strategies import Cohort, Mixing, Pplr
from pplr.report.folder import read_metrics
from pplr.runner import run
from result_file import settings_of, write_result
from study_runs import KEY, best_round

HERE = Path(__file__).parent
Floats = NDArray[np.float64]


def in_place(matrix: Floats, order: list[int]) -> Floats:
    """Return what mixing by `matrix` [clients, clients] amounts to, if clients take their new rows in that order."""
    rows = np.eye(len(matrix))
    for client in order:
        rows[client] = matrix[client] @ rows
    return rows


class Forwards(Pplr):
    """Mixes in place, by name."""

    step: ClassVar[int] = 1

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return the matrix that mixing in place amounts to."""
        right = super().mixing(cohort)
        if right.matrix is None:
            raise TypeError("pplr always has a matrix.")
        return Mixing(in_place(right.matrix, list(range(len(right.matrix)))[:: self.step]), right.details)


class Backwards(Forwards):
    """Mixes in place, by name from the last one on."""

    step: ClassVar[int] = -1


ORDERS: dict[str, type[Pplr]] = {"neither": Pplr, "forwards": Forwards, "backwards": Backwards}


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and write the figures after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the run folders")
    parser.add_argument("--order", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "in_place.json")
    options = parser.parse_args(arguments)
    for seed in options.seeds:
        for order in options.order:
            old = json.loads(options.output.read_text(encoding="utf-8"))["runs"] if options.output.is_file() else {}
            found = measured(options, order, seed)
            write_result(options.output, "in_place", {"runs": {**old, f"{order}, seed {seed}": found}})


def measured(options: argparse.Namespace, order: str, seed: int) -> dict[str, Any]:
    """Return the figures of one run, which is made where it is not there yet."""
    values = {
        "seed": seed,
        "threads": options.threads,
        "data": {"demo": "movietweetings"},
        "federation": {"rounds": options.rounds, "patience": 4},
        "training": {"moments": "fresh"},  # as in that study, like the next
        "backbone": {"contrast": "catalogue"},
        "evaluation": {"baselines": False},
    }
    config = parse_config(values, Path())
    config = config.model_copy(update={"strategy": ORDERS[order](similarity="parameters", items="mean")})
    folder = options.work / f"{order}-{seed}"
    if not (folder / "metrics.json").is_file():
        run(config, folder, resume=(folder / "checkpoints").is_dir())
    metrics = read_metrics(folder)
    figures = metrics.model_dump(mode="json", by_alias=True)
    matrix = np.array(metrics.rounds[-1].mixing)
    best = best_round(metrics)
    if best is None:
        raise SystemExit(f"The run in {folder} has no validation figures.")
    score, worst, rounds = best
    return {
        "order": order,
        "seed": seed,
        "configuration": settings_of(config),
        "validation": score,
        "validation_worst": worst,
        "rounds": rounds,
        "overall": figures["overall"][KEY],
        "clients": {name: client[KEY] for name, client in figures["clients"].items()},
        "own_weight": dict(zip(sorted(figures["clients"]), np.diag(matrix).tolist(), strict=True)),
        "largest_weight": matrix.max(axis=1).tolist(),
    }


if __name__ == "__main__":
    main()
