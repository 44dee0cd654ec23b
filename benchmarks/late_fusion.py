"""What two models of one client say together: two finished runs with the same clients, mixed by weights of validation users.

    python benchmarks/late_fusion.py RUN OTHER --output benchmarks/results/late_fusion.json --name "sequence and encoder"

RUN and OTHER are run folders of `pplr run`, or of a study's cells, on the same data with the same seed and clients. Each
client learns the weights of its two models on its own validation users, as it does with its own counts (docs/fusion.md):
score = w log p + w' log p', none negative, with a pull towards RUN alone. On each half of these users, tried on the other:
where the mix is no better, RUN's model stays alone. Test users decide nothing. The file keeps an entry per name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pplr.data.dataset import Part, Queries
from pplr.evaluation import UserMetrics, compare, evaluate, together
from pplr.evaluation.ranking import Floats, mask_histories, target_pairs
from pplr.federation import Client
from pplr.fusion.scorer import log_softmax
from pplr.fusion.weights import Evidence, learned_weights
from pplr.models.backbone import CatalogueScorer
from pplr.runner import open_run
from pplr.wiring import Parts
from result_file import circumstances, settings_of, write_result
from source_data import figures_by_client

KEY = "ndcg@10"
USERS, BATCH = 1000, 256
"""Validation users of a client at most, and those that are scored at once."""


def main(arguments: list[str] | None = None) -> None:
    """Measure the pair, and write its entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN")
    parser.add_argument("--name", required=True, help="name of the pair in the result")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    old = json.loads(options.output.read_text(encoding="utf-8"))["pairs"] if options.output.is_file() else {}
    entry = {**circumstances(), **measured(*options.runs)}
    write_result(options.output, "late_fusion", {"pairs": {**old, options.name: entry}})


def measured(one: Path, other: Path) -> dict[str, Any]:
    """Return the test figures of both runs' models and of their mix, and each client's weights."""
    (parts, rows), (others, other_rows) = open_run(one), open_run(other)
    owners = parts.assignment.client_of_user
    if not np.array_equal(owners, others.assignment.client_of_user):
        raise SystemExit(
            "The runs have other clients. Give two with the same data, the same [clients] and the same seed."
        )
    users: dict[str, list[UserMetrics]] = {"first": [], "second": [], "mixed": []}
    weights = {}
    pairs = zip(parts.clients(parts.owners), others.clients(others.owners), strict=True)
    with parts.reached(), others.reached():
        for mine, theirs in pairs:
            mine.best = rows[mine.info.name].to(parts.backbone.device)
            theirs.best = other_rows[theirs.info.name].to(others.backbone.device)
            with ExitStack() as stack:
                pair = [_alone(client, stack) for client in (mine, theirs)]
                found = learned(pair, mine.queries(Part.VALIDATION), parts)
                weights[mine.info.name] = found.tolist()
                chosen = {"first": (1.0, 0.0), "second": (0.0, 1.0), "mixed": tuple(found)}
                for name, each in chosen.items():
                    users[name].append(_ranked(Mixed(pair, each), mine.queries(Part.TEST), parts))
    figures = {name: together(each) for name, each in users.items()}
    gains = {
        name: compare(figures["mixed"], figures[name], KEY, seed=1, client_of_user=owners)
        for name in ("first", "second")
    }
    return {
        "runs": [settings_of(run.config) for run in (parts, others)],
        **{name: figures_by_client(each, owners, parts.assignment.names) for name, each in figures.items()},
        "mixed_minus": {name: {key: asdict(each) for key, each in found.items()} for name, found in gains.items()},
        "weights": weights,
    }


class Mixed(CatalogueScorer):
    """Scores items by the weighted sum of two models' log-probabilities."""

    def __init__(self, pair: Sequence[CatalogueScorer], weights: Sequence[float]) -> None:
        """Mix the two of `pair` by `weights`."""
        asked = [(scorer, weight) for scorer, weight in zip(pair, weights, strict=True) if weight > 0]
        self._pair = asked or [(pair[0], 0.0)]

    def scores(self, queries: Queries, wanted: int = 0) -> Tensor:
        """Return [len(queries), items]."""
        return torch.stack([weight * log_softmax(scorer.scores(queries)).cpu() for scorer, weight in self._pair]).sum(0)


def learned(pair: Sequence[CatalogueScorer], queries: Queries, parts: Parts) -> Floats:
    """Return the two weights: those of all these queries, or the first model alone where the mix ranks no better on halves
    that it was not learned from.
    """
    count = min(len(queries), USERS)
    queries = queries.select(np.linspace(0, max(len(queries) - 1, 0), count).astype(np.int64))
    evidence = _evidence(pair, queries, parts)
    halves = [np.arange(start, count, 2, dtype=np.int64) for start in (0, 1)]
    alone, mixed = [], []
    for learning, trying in (halves, halves[::-1]):
        asked = queries.select(trying)
        alone.append(_ranked(Mixed(pair, (1.0, 0.0)), asked, parts))
        mixed.append(_ranked(Mixed(pair, learned_weights(evidence.select(learning)).tolist()), asked, parts))
    better = together(mixed).overall()[KEY] > together(alone).overall()[KEY]
    return learned_weights(evidence) if better else np.array([1.0, 0.0])


def _evidence(pair: Sequence[CatalogueScorer], queries: Queries, parts: Parts) -> Evidence:
    items = len(parts.dataset.catalogue)
    features = torch.stack(
        [
            torch.cat([log_softmax(scorer.scores(part)).cpu() for part in queries.asked().batches(BATCH)])
            for scorer in pair
        ]
    )
    masked = torch.zeros(len(queries), items, dtype=torch.bool)
    if parts.config.evaluation.mask_history:
        masked = torch.isinf(mask_histories(torch.zeros(len(queries), items), queries.histories))
    rows, targets = target_pairs(queries.targets, items)
    possible = ~masked[torch.from_numpy(rows), torch.from_numpy(targets)].numpy()
    return Evidence(features, masked, rows[possible], targets[possible])


def _alone(client: Client, stack: ExitStack) -> CatalogueScorer:
    """Return the scorer of a client's model, without its counts, for as long as `stack` is open."""
    backbone, row = stack.enter_context(client.with_best())
    return client.scorer(backbone, row, None)


def _ranked(scorer: CatalogueScorer, queries: Queries, parts: Parts) -> UserMetrics:
    evaluation = parts.config.evaluation
    items = len(parts.dataset.catalogue)
    return evaluate(scorer, queries, items, (10,), mask_history=evaluation.mask_history, batch=BATCH)


if __name__ == "__main__":
    main()
