"""A run folder as a run would leave it, with figures made up but consistent: means are means of per_user.parquet."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pplr.evaluation import balance
from pplr.federation.strategies import Centralised, Cohort, FedAvg, Local, Pplr, Robust

STRATEGIES = {"pplr": Pplr(), "fedavg": FedAvg(), "local": Local(), "centralised": Centralised(), "robust": Robust()}
KS = (5, 10, 20, 50)
METRICS = [f"{name}@{k}" for name in ("recall", "ndcg") for k in KS]
BASELINES = {"popularity": 0.074, "recent": 0.102, "transitions": 0.120, "item_knn": 0.089, "item_knn_recency": 0.107}
TITLES = [
    "Gravity (2013)",
    "The Hunger Games: Catching Fire (2013)",
    "Ender's Game (2013)",
    "12 Years a Slave (2013)",
    "Captain Phillips (2013)",
    "Thor: The Dark World (2013)",
    "Prisoners (2013)",
    "Dallas Buyers Club (2013)",
    "Rush (2013)",
    "Inside Llewyn Davis (2013)",
    "Blue Is the Warmest Colour (2013)",
    "The Hobbit: The Desolation of Smaug (2013)",
    "American Hustle (2013)",
    "Her (2013)",
    "Frozen (2013)",
]


def write_run(
    folder: Path,
    *,
    name: str = "movies-pplr",
    strategy: str = "pplr",
    clients: int = 5,
    rounds: int = 10,
    users: int = 600,
    quality: float = 0.137,
    baselines: bool = True,
    examples: int = 2,
    seed: int = 1,
    titles: list[str] | None = None,
    client_names: list[str] | None = None,
    change: dict[str, Any] | None = None,
) -> Path:
    """Write the run folder `folder` and return it; `change` replaces parts of metrics.json."""
    folder.mkdir(parents=True)
    names = client_names or [f"client-{i}" for i in range(clients)]
    people = np.random.default_rng(5)
    owner = np.sort(people.integers(0, len(names), users)) if len(names) < users else np.arange(users) % len(names)
    luck = people.random(users)
    drawn = np.random.default_rng(seed)
    own = _per_user(drawn, luck, owner, quality)
    shared = {"users": users, "loss": 5.812}
    trained = ["everyone"] if strategy == "centralised" else names
    metrics: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "created": "2026-11-23T22:40:11+00:00",
        "seed": seed,
        "strategy": STRATEGIES[strategy].model_dump(mode="json"),
        "backbone": {"kind": "sequence", "model": "minilm", "width": 128, "layers": 2},
        "model": {"name": "all-MiniLM-L6-v2", "digest": "53aa5117" * 8},
        "data": {
            "users": 4333,
            "items": 2414,
            "events": 68055,
            "test_users": users,
            "split": "leave-one-out",
            "notes": [
                "Split 'leave-one-out': 59,389 training, 4,333 validation, 4,333 test events.",
                "17 HTML entities in titles were replaced by the characters that they stand for.",
            ],
        },
        "overall": {**{key: float(own[key].mean()) for key in METRICS}, **shared},
        **_grouped(own, owner, names, drawn),
        "model_alone": None,
        "baselines": {},
        "rounds": _rounds(strategy, trained, rounds, quality, users, drawn),
        "stopped": {"round": rounds, "best_round": max(0, rounds - 1), "reason": "rounds"},
        "cost": {
            "seconds": {"data": 0.9, "model": 6.2, "train": 171.3, "aggregate": 0.21, "validate": 12.4, "test": 2.1}
            | ({"baselines": 3.4} if baselines else {})
            | {"total": 196.5 + (3.4 if baselines else 0)},
            "peak_memory_bytes": 1_412_000_000,
            "bytes_up": 0 if strategy in ("local", "centralised") else 12_700_000 * rounds,
            "bytes_down": 0 if strategy in ("local", "centralised") else 12_700_000 * rounds,
            "wire": None,
            "parameters": 636_800,
            "shared_parameters": 634_386,
        },
        "versions": {"pplr": "0.1.0", "python": "3.11.2", "torch": "2.13.0+cpu", "transformers": "5.23.0"},
        "device": "cpu",
        "threads": 2,
    }
    for baseline, level in BASELINES.items() if baselines else []:
        values = _per_user(np.random.default_rng(len(baseline)), luck, owner, level)
        grouped = _grouped(values, owner, names, None)
        metrics["baselines"][baseline] = {"overall": {key: float(values[key].mean()) for key in METRICS}, **grouped}
    metrics |= change or {}
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    ids = [f"{10_000 + i}" for i in range(users)]
    pl.DataFrame({"user": ids, "client": [names[i] for i in owner], **own}).write_parquet(folder / "per_user.parquet")
    (folder / "config.toml").write_text(
        f'name = "{name}"\nseed = {seed}\n\n[strategy]\nkind = "{strategy}"\n\n[federation]\nrounds = {rounds}\n'
    )
    shown = [_example(names[c], i, titles or TITLES, drawn) for c in range(len(names)) for i in range(examples)]
    (folder / "examples.json").write_text(json.dumps(shown), encoding="utf-8")
    return folder


def _per_user(drawn: np.random.Generator, luck: np.ndarray, owner: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """Return metrics of single users with one target each: a rank, from which everything follows."""
    ease = 0.6 + 0.8 * ((owner * 7) % 5) / 4
    chance = np.clip(level * 3.1 * ease, 0.01, 0.95)
    noise = 0.7 * luck + 0.3 * drawn.random(len(luck))
    rank = np.maximum(1, np.ceil(10 * (noise / chance) ** 1.4)).astype(int)
    found = {f"recall@{k}": (rank <= k).astype(float) for k in KS}
    return found | {f"ndcg@{k}": np.where(rank <= k, 1 / np.log2(rank + 1), 0.0) for k in KS}


def _grouped(
    values: dict[str, np.ndarray], owner: np.ndarray, names: list[str], drawn: np.random.Generator | None
) -> dict[str, Any]:
    clients: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(names):
        mine = owner == i
        clients[name] = {key: float(column[mine].mean()) if mine.any() else None for key, column in values.items()}
        if drawn is not None:
            clients[name] |= {"users": int(mine.sum()), "examples": int(mine.sum()) * 14, "fusion": None}
            clients[name]["loss"] = float(5.4 + 0.9 * drawn.random()) if mine.any() else None
    known = {name: found for name, found in clients.items() if found["ndcg@10"] is not None}
    spread = {key: asdict(balance({n: found[key] for n, found in known.items()})) for key in METRICS}
    if drawn is not None:
        losses = {name: found["loss"] for name, found in known.items()}
        spread["loss"] = asdict(balance(losses, higher_is_better=False))
    return {"clients": clients, "balance": spread}


def _rounds(
    strategy: str, names: list[str], rounds: int, quality: float, users: int, drawn: np.random.Generator
) -> list[dict[str, Any]]:
    count = len(names)
    basis = drawn.normal(size=(count, 40)) + 0.7 * drawn.normal(size=(1, 40))
    hard = drawn.random(count)
    records = []
    for t in range(1, rounds + 1):
        losses = 5.0 + hard + 2.4 * np.exp(-t / 3) + 0.03 * drawn.normal(size=count)
        cohort = Cohort(t, np.ones(count, bool), np.full(count, 1000.0), losses, basis @ basis.T)
        mixing = STRATEGIES[strategy].mixing(cohort)
        level = quality * (1 - np.exp(-t / 2.5)) * (1.4 - 0.8 * hard) + 0.002 * drawn.normal(size=count)
        records.append(
            {
                "round": t,
                "clients": {
                    name: {
                        "trained": True,
                        "training_loss": float(losses[i]),
                        "tokens": 52_000,
                        "validation_loss": float(losses[i] + 0.25 + 0.004 * t),
                        "validation": {"ndcg@10": float(level[i]), "recall@10": float(level[i] * 1.8)},
                        "users": users // count,
                        "improved": True,
                        "seconds": {"total": 3.4},
                    }
                    for i, name in enumerate(names)
                },
                "score": float(level.mean()),
                "mixing": None if mixing.matrix is None else mixing.matrix.tolist(),
                "details": {key: values.tolist() for key, values in mixing.details.items()},
                "seconds": {"train": 17.1, "aggregate": 0.02, "validate": 1.2, "total": 18.3},
                "bytes_up": 12_700_000,
                "bytes_down": 12_700_000,
                "absent": {},
                "quarantined": [],
                "awaited": [],
            }
        )
    return records


def _example(client: str, number: int, titles: list[str], drawn: np.random.Generator) -> dict[str, Any]:
    order = [titles[i] for i in drawn.permutation(len(titles))]
    history, recommended = order[:-6][-10:], order[-6:-1]
    chosen = [recommended[2]] if number % 2 == 0 else [order[-1]]
    ranked = [
        {"rank": rank, "id": f"{2_000_000 + rank}", "title": title, "score": 9.0 - rank}
        for rank, title in enumerate(recommended, start=1)
    ]
    return {
        "client": client,
        "user": f"{10_000 + number}",
        "history": history,
        "chosen": chosen,
        "recommended": ranked,
        "written": [],
    }
