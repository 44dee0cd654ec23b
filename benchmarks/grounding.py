"""Grounding of what a generative backbone writes: quality, titles that do not exist, duplicates, seconds a user.

    pplr run benchmarks/grounding_run.toml --out RUN
    python benchmarks/grounding.py RUN --beams 1 4 10 --output benchmarks/results/grounding.json

RUN is the folder of a finished run with the generative backbone, with what it was made from unchanged in its place. Its clients' test
users are asked twice: with the pretrained model as it is, and with the client's trained row. Free writing is looked at
before it is grounded; then both groundings rank the catalogue, with several widths of the search. The file keeps an entry
per run, by its folder's name. On a CPU: the clock does not wait for a GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from pplr.data.dataset import Part, Queries
from pplr.evaluation import UserMetrics, evaluate, together
from pplr.evaluation.ranking import mask_histories
from pplr.federation import Client
from pplr.fusion import Given
from pplr.models.backbone import Parameters
from pplr.models.generative import GenerativeBackbone
from pplr.models.grounding import CatalogueGrounding, EmbeddingGrounding, write, written_texts
from pplr.runner import open_run
from pplr.wiring import Parts
from result_file import circumstances, write_result

KS = (10,)
BATCH = 10


def main() -> None:
    """Measure every run, and write its entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4, 10], help="widths of the search")
    options = parser.parse_args()
    for folder in options.runs:
        found = measured(folder, options.beams)
        entry = {**circumstances(), **found}  # with the run's threads
        old = json.loads(options.output.read_text(encoding="utf-8"))["runs"] if options.output.is_file() else {}
        write_result(options.output, "grounding", {"runs": {**old, folder.name: entry}})


def measured(folder: Path, beams: list[int]) -> dict[str, Any]:
    """Return the figures of the pretrained model and of the trained rows.

    Raises:
        TypeError: the run has another backbone.
    """
    parts, rows = open_run(folder)
    backbone = parts.backbone
    if not isinstance(backbone, GenerativeBackbone):
        raise TypeError(f"{folder} is no run of the generative backbone.")
    initial = backbone.layout.initial_row(parts.config.seed)
    states = {
        "pretrained": dict.fromkeys(rows, initial),
        "trained": rows,
    }
    _ = backbone.title_states, backbone.trie  # built once, outside of every timing
    return {
        "data": parts.config.data.demo or "",
        "backbone": parts.config.backbone.model_dump(mode="json"),
        "strategy": parts.config.strategy.model_dump(mode="json"),
        "seed": parts.config.seed,
        "items": backbone.items,
        "states": {
            name: {"writing": written(parts, backbone, state), "grounding": grounded(parts, backbone, state, beams)}
            for name, state in states.items()
        },
    }


def written(parts: Parts, backbone: GenerativeBackbone, rows: dict[str, Tensor]) -> dict[str, Any]:
    """Return what is written freely, before it is grounded to items.

    Of users: `best_is_title` is the share whose best beam is a title of the catalogue, word for word, `best_in_history` whose
    best beam is a title of their own history; `distinct_best` is how many different best texts there are. Of all beams: `is_title`
    is the share that are titles. Of all beams but the best: `duplicate` is the share whose nearest item is that of a better beam of
    the same user.
    """
    titles = [text.strip() for text in backbone.tokenizer.batch_decode([ids[:-1] for ids in backbone.titles])]
    known, users, texts = set(titles), [], []
    is_title, duplicate = [], []
    for _, parameters, queries in asked(parts, backbone, rows):
        histories = list(queries.histories)
        beams = write(backbone, parameters, histories, free=True)
        scorer = EmbeddingGrounding(backbone, parameters)
        nearest = torch.stack([scorer.grounded(beams, beam).argmax(dim=1) for beam in range(beams.tokens.shape[1])])
        for user, (history, each) in enumerate(zip(histories, written_texts(backbone, beams), strict=True)):
            best = each.texts[0]
            users.append((best in known, best in {titles[item] for item in history}))
            texts.append(best)
            is_title += [text in known for text in each.texts]
            items = nearest[:, user].tolist()
            duplicate += [item in items[:beam] for beam, item in enumerate(items) if beam]
    return {
        "users": len(users),
        "beams": backbone.settings.beams,
        "best_is_title": mean(valid for valid, _ in users),
        "best_in_history": mean(repeated for _, repeated in users),
        "is_title": mean(is_title),
        "duplicate": mean(duplicate),
        "distinct_best": len(set(texts)),
    }


def grounded(
    parts: Parts, backbone: GenerativeBackbone, rows: dict[str, Tensor], widths: list[int]
) -> list[dict[str, Any]]:
    """Return quality and time of each way to ground, asked in turn for each batch of users, so that noise hits all alike.

    `distinct_first` is how many different items are first in the users' lists, without their histories where the run masks these.
    """
    ways = [(kind, width) for kind in ("embedding", "catalogue") for width in widths]
    ranked: dict[tuple[str, int], list[UserMetrics]] = {way: [] for way in ways}
    seconds = dict.fromkeys(ways, 0.0)
    first: dict[tuple[str, int], set[int]] = {way: set() for way in ways}
    masks = parts.config.evaluation.mask_history
    for number, (_, parameters, queries) in enumerate(asked(parts, backbone, rows)):
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            kind, width = way
            started = time.perf_counter()
            beams = write(backbone, parameters, list(queries.histories), free=kind == "embedding", beams=width)
            scorer = (EmbeddingGrounding if kind == "embedding" else CatalogueGrounding)(backbone, parameters)
            scores = scorer.grounded(beams)
            seconds[way] += time.perf_counter() - started
            ranked[way].append(
                evaluate(Given(scores), queries, backbone.items, KS, mask_history=masks, batch=len(queries))
            )
            best, item = (mask_histories(scores, queries.histories) if masks else scores).max(dim=1)
            first[way] |= set(item[best > scorer.nothing].tolist())
    found = []
    for (kind, width), users in ranked.items():
        every = together(users)
        found.append(
            {"grounding": kind, "beams": width, "users": len(every)}
            | every.overall()
            | {
                "distinct_first": len(first[kind, width]),
                "seconds_per_user": seconds[kind, width] / len(every),
            }
        )
    return found


def asked(
    parts: Parts, backbone: GenerativeBackbone, rows: dict[str, Tensor]
) -> Iterator[tuple[Client, Parameters, Queries]]:
    """Yield the test queries of each client in batches, with its parameters."""
    for client in parts.clients(parts.owners):
        parameters = backbone.layout.views(rows[client.info.name].to(backbone.device))
        for batch in client.queries(Part.TEST).batches(BATCH):
            yield client, parameters, batch


if __name__ == "__main__":
    main()
