"""What two models of one client say together: two finished runs with the same clients, mixed by weights of validation users.

    python benchmarks/late_fusion.py RUN OTHER --output benchmarks/results/late_fusion.json --name "sequence and encoder"
    python benchmarks/late_fusion.py ... --counts    # beside what each client counts on its own events

RUN and OTHER are run folders of `pplr run`, or of a study's cells, on the same data with the same seed and clients. Each
client learns the weights of its two models on its own validation users, as it does with its own counts (docs/fusion.md):
score = w log p + w' log p', none negative, with a pull towards RUN alone. On each half of these users, tried on the other:
where the mix is no better, RUN's model stays alone. Test users decide nothing. With `--counts` there are two mixes more, of
RUN's model with the counts and of all together; items that nobody has chosen have no number of their own in them. The file
keeps an entry per name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pplr.data.dataset import Part, Queries
from pplr.evaluation import UserMetrics, compare, evaluate, fit_baselines, together
from pplr.evaluation.ranking import mask_histories, target_pairs
from pplr.federation import Client
from pplr.fusion.scorer import Given, log_softmax, statistic_feature
from pplr.fusion.settings import Statistic
from pplr.fusion.weights import Evidence, learned_weights
from pplr.runner import open_run
from pplr.wiring import Parts
from result_file import circumstances, settings_of, write_result
from source_data import figures_by_client

KEY = "ndcg@10"
USERS, BATCH = 1000, 256
"""Validation users of a client at most, and those that are scored at once."""
COUNTS: tuple[Statistic, ...] = ("popularity", "recent", "transitions", "item_knn")
FIRST, SECOND = "first", "second"

Feature = Callable[[Queries], Tensor]
"""Queries -> [queries, items] log-scores."""


def main(arguments: list[str] | None = None) -> None:
    """Measure the pair, and write its entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN")
    parser.add_argument("--name", required=True, help="name of the pair in the result")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--counts", action="store_true", help="mix also with what each client counts on its own events")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    old = json.loads(options.output.read_text(encoding="utf-8"))["pairs"] if options.output.is_file() else {}
    entry = {**circumstances(), **measured(*options.runs, counts=options.counts)}
    write_result(options.output, "late_fusion", {"pairs": {**old, options.name: entry}})


def measured(one: Path, other: Path, *, counts: bool) -> dict[str, Any]:
    """Return the test figures of both runs' models and of their mixes, and each client's weights."""
    (parts, rows), (others, other_rows) = open_run(one), open_run(other)
    owners = parts.assignment.client_of_user
    if not np.array_equal(owners, others.assignment.client_of_user):
        raise SystemExit(
            "The runs have other clients. Give two with the same data, the same [clients] and the same seed."
        )
    mixes: dict[str, tuple[str, ...]] = {"mixed": (FIRST, SECOND)}
    if counts:
        mixes |= {"counted": (FIRST, *COUNTS), "all": (FIRST, SECOND, *COUNTS)}
    users: dict[str, list[UserMetrics]] = {name: [] for name in (FIRST, SECOND, *mixes)}
    weights: dict[str, dict[str, dict[str, float]]] = {name: {} for name in mixes}
    pairs = zip(parts.clients(parts.owners), others.clients(others.owners), strict=True)
    with parts.reached(), others.reached():
        for mine, theirs in pairs:
            client = mine.info.name
            mine.best = rows[client].to(parts.backbone.device)
            theirs.best = other_rows[client].to(others.backbone.device)
            with ExitStack() as stack:
                features = {FIRST: _alone(mine, stack), SECOND: _alone(theirs, stack)}
                if counts:
                    features |= _counted(parts, mine)
                evidence, asked = _evidence(features, mine.queries(Part.VALIDATION), parts)
                for name, used in mixes.items():
                    weights[name][client] = learned(evidence, asked, list(features), used, parts)
                chosen = {FIRST: {FIRST: 1.0}, SECOND: {SECOND: 1.0}, **{n: weights[n][client] for n in mixes}}
                for name, found in _tested(features, chosen, mine.queries(Part.TEST), parts).items():
                    users[name].append(found)
    figures = {name: together(each) for name, each in users.items()}
    compared = [("mixed", FIRST), ("mixed", SECOND), *([("all", "counted"), ("all", "mixed")] if counts else [])]
    gains: dict[str, dict[str, Any]] = {}
    for name, reference in compared:
        apart = compare(figures[name], figures[reference], KEY, seed=1, client_of_user=owners)
        gains.setdefault(f"{name}_minus", {})[reference] = {key: asdict(each) for key, each in apart.items()}
    return {
        "runs": [settings_of(run.config) for run in (parts, others)],
        **{name: figures_by_client(each, owners, parts.assignment.names) for name, each in figures.items()},
        **gains,
        "weights": {client: list(each.values()) for client, each in weights.pop("mixed").items()},
        "weights_with_counts": weights,
    }


def learned(
    evidence: Evidence, queries: Queries, names: Sequence[str], used: Sequence[str], parts: Parts
) -> dict[str, float]:
    """Return the weights of the features `used`: those of all these queries, or the first model alone where the mix ranks no
    better on halves that it was not learned from.
    """
    known = replace(evidence, features=evidence.features[[names.index(name) for name in used]])
    halves = [np.arange(start, len(queries), 2, dtype=np.int64) for start in (0, 1)]
    alone, mixed = [], []
    for learning, trying in (halves, halves[::-1]):
        asked, tried = queries.select(trying), known.select(trying)
        alone.append(_ranked(tried.mixed(known.only_model()), asked, parts))
        mixed.append(_ranked(tried.mixed(learned_weights(known.select(learning))), asked, parts))
    better = together(mixed).overall()[KEY] > together(alone).overall()[KEY]
    weights = learned_weights(known) if better else known.only_model()
    return dict(zip(used, weights.tolist(), strict=True))


def _evidence(features: Mapping[str, Feature], queries: Queries, parts: Parts) -> tuple[Evidence, Queries]:
    """Return what some of the queries say, evenly spaced over all, and these queries."""
    items, count = len(parts.dataset.catalogue), min(len(queries), USERS)
    queries = queries.select(np.linspace(0, max(len(queries) - 1, 0), count).astype(np.int64))
    values = torch.stack(
        [torch.cat([each(part) for part in queries.asked().batches(BATCH)]) for each in features.values()]
    )
    masked = torch.zeros(len(queries), items, dtype=torch.bool)
    if parts.config.evaluation.mask_history:
        masked = torch.isinf(mask_histories(torch.zeros(len(queries), items), queries.histories))
    rows, targets = target_pairs(queries.targets, items)
    possible = ~masked[torch.from_numpy(rows), torch.from_numpy(targets)].numpy()
    return Evidence(values, masked, rows[possible], targets[possible]), queries


def _tested(
    features: Mapping[str, Feature], chosen: Mapping[str, Mapping[str, float]], queries: Queries, parts: Parts
) -> dict[str, UserMetrics]:
    """Return the figures of each mix; every feature is computed once."""
    found: dict[str, list[UserMetrics]] = {name: [] for name in chosen}
    for part in queries.batches(BATCH):
        values = {name: each(part.asked()) for name, each in features.items()}
        for name, weights in chosen.items():
            terms = [weight * values[used] for used, weight in weights.items()]
            found[name].append(_ranked(torch.stack(terms).sum(0), part, parts))
    return {name: together(each) for name, each in found.items()}


def _alone(client: Client, stack: ExitStack) -> Feature:
    """Return the log-probabilities of a client's model, without its counts, for as long as `stack` is open."""
    backbone, row = stack.enter_context(client.with_best())
    scorer = client.scorer(backbone, row, None)
    return lambda queries: log_softmax(scorer.scores(queries)).cpu()


def _counted(parts: Parts, client: Client) -> dict[str, Feature]:
    """Return what a client counts on its own training events."""
    own = parts.dataset.of(client.users)
    times = own.training_times()
    now = None if times is None or not len(times) else int(times.max()) + 1
    return {
        name: partial(statistic_feature, statistic, now=now)
        for name, statistic in fit_baselines(own, names=COUNTS).items()
    }


def _ranked(scores: Tensor, queries: Queries, parts: Parts) -> UserMetrics:
    evaluation = parts.config.evaluation
    batch = max(1, len(queries))
    return evaluate(Given(scores), queries, scores.shape[1], (10,), mask_history=evaluation.mask_history, batch=batch)


if __name__ == "__main__":
    main()
