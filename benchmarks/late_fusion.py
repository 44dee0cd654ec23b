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
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pplr.data.dataset import Part, Queries
from pplr.evaluation import UserMetrics, compare, evaluate, together
from pplr.federation import Client
from pplr.fusion import Fusion, FusionSettings, Given
from pplr.fusion.own import Feature, gathered, tried_on_halves
from pplr.fusion.scorer import MODEL
from pplr.fusion.settings import Statistic
from pplr.models.backbone import CatalogueScorer
from pplr.runner import open_run
from pplr.wiring import Parts
from result_file import circumstances, settings_of, write_result
from source_data import figures_by_client

KEY = "ndcg@10"
USERS, BATCH = 1000, 256
"""Validation users of a client at most, and those that are scored at once."""
COUNTS: tuple[Statistic, ...] = ("popularity", "recent", "transitions", "item_knn")
FIRST, SECOND = "first", "second"


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
    users: dict[str, list[UserMetrics]] = {}
    weights: dict[str, dict[str, dict[str, float]]] = {}
    pairs = zip(parts.clients(parts.owners), others.clients(others.owners), strict=True)
    with parts.reached(), others.reached():
        for mine, theirs in pairs:
            client = mine.info.name
            mine.best = rows[client].to(parts.backbone.device)
            theirs.best = other_rows[client].to(others.backbone.device)
            with ExitStack() as stack:
                first, second = (_scorer(each, stack) for each in (mine, theirs))
                known, chosen = mixes(parts, mine, first, second, counts=counts)
                for name, found in tested(known, chosen, mine.queries(Part.TEST), parts).items():
                    users.setdefault(name, []).append(found)
            for name in chosen:
                weights.setdefault(name, {})[client] = dict(chosen[name])
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
        "weights": {client: list(each.values()) for client, each in weights["mixed"].items()},
        **({"weights_with_counts": {name: weights[name] for name in ("counted", "all")}} if counts else {}),
    }


def mixes(
    parts: Parts, client: Client, first: CatalogueScorer, second: CatalogueScorer, *, counts: bool
) -> tuple[dict[str, Feature], dict[str, dict[str, float]]]:
    """Return all features by name, and the weights of each mix of them, learned on the client's validation users."""
    statistics = COUNTS if counts else ()
    own = Fusion(FusionSettings(statistics=statistics, users=USERS), parts.dataset, client.users)
    counted = {FIRST if name == MODEL else name: feature for name, feature in own.features(first).items()}
    features = {FIRST: counted.pop(FIRST), SECOND: own.features(second)[MODEL], **counted}
    used: dict[str, tuple[str, ...]] = {"mixed": (FIRST, SECOND)}
    if counts:
        used |= {"counted": (FIRST, *counted), "all": tuple(features)}
    masked = parts.config.evaluation.mask_history
    evidence, queries = gathered(
        list(features.values()),
        client.queries(Part.VALIDATION),
        len(parts.dataset.catalogue),
        users=USERS,
        mask_history=masked,
        batch=BATCH,
    )
    chosen = {FIRST: {FIRST: 1.0}, SECOND: {SECOND: 1.0}}
    for name, names in used.items():
        places = [list(features).index(each) for each in names]
        weights, _, _ = tried_on_halves(
            replace(evidence, features=evidence.features[places]), queries, mask_history=masked
        )
        chosen[name] = dict(zip(names, weights.tolist(), strict=True))
    return features, chosen


def tested(
    features: Mapping[str, Feature], chosen: Mapping[str, Mapping[str, float]], queries: Queries, parts: Parts
) -> dict[str, UserMetrics]:
    """Return the figures of each mix; every feature is computed once."""
    found: dict[str, list[UserMetrics]] = {name: [] for name in chosen}
    masked = parts.config.evaluation.mask_history
    for part in queries.batches(BATCH):
        values = {name: each(part.asked()).cpu() for name, each in features.items()}
        for name, weights in chosen.items():
            scores = torch.stack([weight * values[used] for used, weight in weights.items()]).sum(0)
            found[name].append(evaluate(Given(scores), part, scores.shape[1], (10,), mask_history=masked, batch=BATCH))
    return {name: together(each) for name, each in found.items()}


def _scorer(client: Client, stack: ExitStack) -> CatalogueScorer:
    """Return a client's model, without its counts, for as long as `stack` is open."""
    _, row = stack.enter_context(client.with_best())
    return client.scorer(row, None)


if __name__ == "__main__":
    main()
