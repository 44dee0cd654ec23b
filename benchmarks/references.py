"""What a learned model must beat: baselines that count and references that are trained, by client, on any data.

    python benchmarks/references.py --output benchmarks/results/references.json
    python benchmarks/references.py ... --name amazon-games --events interactions.csv.gz --items items.csv.gz

Clients are 5 by k-means, as in a run of the same seed. The file keeps one entry per data set and split; others stay.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from pplr.data import assign_clients
from pplr.data.clients import KMeansClients
from pplr.data.dataset import Dataset, Part
from pplr.evaluation import REFERENCES, Scorer, evaluate, fit_baselines
from pplr.evaluation.baselines import FederatedMf
from pplr.evaluation.metrics import DEFAULT_KS
from result_file import circumstances, write_result
from source_data import add_data_options, data_name, figures_by_client, load_data


def main() -> None:
    """Measure all of them and write the entry of this data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--name", help="name of the data set in the result; absent: its folder's")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    options = parser.parse_args()
    dataset = load_data(options)
    entry = {
        **circumstances(),
        "split": options.split,
        "seeds": {str(seed): of_seed(dataset, seed) for seed in options.seeds},
    }
    name = f"{options.name or data_name(options)}, {options.split}"
    old = json.loads(options.output.read_text(encoding="utf-8"))["data"] if options.output.is_file() else {}
    write_result(options.output, "references", {"data": {**old, name: entry}})


def of_seed(dataset: Dataset, seed: int) -> dict[str, Any]:
    """Return the figures of each, by name, with the clients of a seed."""
    assignment = assign_clients(dataset, KMeansClients(), seed)
    found = {name: measured(dataset, scorer, assignment) for name, scorer in fit_baselines(dataset).items()}
    for name, train in REFERENCES.items():
        started = time.perf_counter()
        scorer = train(dataset, assignment.client_of_user, seed)
        seconds = time.perf_counter() - started
        found[name] = measured(dataset, scorer, assignment) | {"seconds": seconds}
        if isinstance(scorer, FederatedMf):
            found[name] |= {**scorer.penalties._asdict(), "rounds": scorer.rounds}
    return found


def measured(dataset: Dataset, scorer: Scorer, assignment: Any) -> dict[str, Any]:
    """Return test figures overall and by client."""
    users = evaluate(scorer, dataset.queries(Part.TEST), len(dataset.catalogue), DEFAULT_KS)
    return figures_by_client(users, assignment.client_of_user, assignment.names)


if __name__ == "__main__":
    main()
