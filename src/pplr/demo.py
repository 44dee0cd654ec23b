"""What `pplr demo` runs: real data that comes with the package, a real pretrained model, five clients."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pplr.config import Config, parse_config
from pplr.config_template import BackboneName, suited_values
from pplr.data.dataset import Part
from pplr.evaluation import top_items
from pplr.federation import Client, Coordinator
from pplr.federation.engines import InProcessEngine
from pplr.federation.events import Observer, ignore
from pplr.federation.messages import EvaluateTask
from pplr.memory import enough_memory
from pplr.models.generative import GenerativeBackbone
from pplr.models.grounding import write, written_texts
from pplr.runner import RunResult, run
from pplr.wiring import Parts, prepare

StrategyName = Literal["pplr", "fedavg", "local", "centralised"]
_SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "sequence": {"federation": {"rounds": 16}},
    "encoder": {
        "federation": {"rounds": 5},
        "training": {"learning_rate": 3e-3, "batch_tokens": 1024, "max_examples": 1000},
        "evaluation": {"max_users": 100},
    },
    "generative": {
        "federation": {"rounds": 3},
        "training": {"max_examples": 400},
        "evaluation": {"max_users": 40},
    },
}
"""How much of the work each backbone does in the demo: the larger models would take hours for all of it on two cores."""


@dataclass(frozen=True)
class Glimpse:
    """The generative backbone after about a minute of training.

    Attributes:
        before: validation loss of the pretrained model, per target token, over all clients.
        after: the same after training.
        client: whose user is shown.
        history: titles of one validation user, oldest first.
        written: what the model wrote freely.
        known: whether that is a title of the history.
        grounded: the best title that search among the catalogue's found, of those that the user has not chosen yet.
        chosen: what the user really chose.
        seconds: wall time of all this.
    """

    before: float
    after: float
    client: str
    history: tuple[str, ...]
    written: str
    known: bool
    grounded: str
    chosen: str
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo made.

    Attributes:
        federated: the run with the chosen strategy.
        local: the same clients, each alone; None where the chosen strategy is `local`.
        glimpse: the generative backbone learning; None where it was the demo's own backbone.
    """

    federated: RunResult
    local: RunResult | None
    glimpse: Glimpse | None


def demo_config(
    backbone: BackboneName = "sequence", strategy: StrategyName = "pplr", seed: int = 1, *, fusion: bool = True
) -> Config:
    """Return the demo's configuration: MovieTweetings, 5 clients by k-means, settings chosen on validation data.

    Without `fusion` clients count nothing beside their models.
    """
    values: dict[str, Any] = {
        "name": f"demo-{backbone}-{strategy}",
        "seed": seed,
        "data": {"demo": "movietweetings"},
        "backbone": {"kind": backbone},
        "strategy": {"kind": strategy},
    }
    for sections in (suited_values(backbone), _SIZES[backbone]):
        for section, given in sections.items():
            values[section] = values.get(section, {}) | given
    if not fusion:
        del values["fusion"]
    return parse_config(values, Path())


@enough_memory()
def demo(
    backbone: BackboneName = "sequence",
    strategy: StrategyName = "pplr",
    out: Path | None = None,
    observer: Observer = ignore,
    say: Callable[[str], None] = lambda text: None,
) -> DemoResult:
    """Run the demo; folders of an earlier demo below `out` (runs/ by default) are replaced."""
    folder = out or Path("runs")
    config = demo_config(backbone, strategy)
    say(
        f"Five clients fine-tune a recommender together ({strategy}); their interactions stay where they are, and "
        "only adapters travel."
    )
    federated = run(config, folder / config.name, overwrite=True, observer=observer)
    local = None
    if strategy != "local":
        say("The same five clients, each alone (local), for comparison.")
        alone = demo_config(backbone, "local")
        local = run(alone, folder / alone.name, overwrite=True, observer=observer)
    glimpse = None
    if backbone != "generative":
        say("A generative language model learning the same task, for about a minute.")
        glimpse = generative_glimpse(observer)
    return DemoResult(federated, local, glimpse)


def glimpse_config() -> Config:
    """Return the configuration of the generative minute: few examples, two rounds."""
    values = {
        "name": "demo-glimpse",
        "data": {"demo": "movietweetings"},
        "backbone": {"kind": "generative"},
        "training": {"epochs": 1, "learning_rate": 2e-3, "batch_tokens": 400, "max_examples": 30, "warmup_steps": 1},
        "federation": {"rounds": 2},
        "evaluation": {"max_users": 5},
    }
    return parse_config(values, Path())


def generative_glimpse(observer: Observer = ignore) -> Glimpse:
    """Return validation losses before and after a minute of federated training, and one title that was written."""
    started = time.perf_counter()
    config = glimpse_config()
    parts = prepare(config, observer)
    clients = parts.trainers()
    initial = parts.backbone.layout.initial_row(config.seed).to(parts.backbone.device)
    before = _validation_loss(clients, [initial] * len(clients))
    coordinator = Coordinator(
        InProcessEngine(clients),
        config.strategy,
        config.federation,
        initial,
        seed=config.seed,
        select_by="loss",
        observer=observer,
    )
    coordinator.run()
    after = _validation_loss(clients, [client.best_row() for client in clients])
    return _written(parts, clients[0], before, after, started)


def _validation_loss(clients: list[Client], rows: list[Any]) -> float:
    total, users = 0.0, 0
    for client, row in zip(clients, rows, strict=True):
        report = client.evaluate(EvaluateTask(client.info.name, 0, Part.VALIDATION, row, rank=False))
        total, users = total + report.loss * report.users, users + report.users
    return total / users


def _written(parts: Parts, client: Client, before: float, after: float, started: float) -> Glimpse:
    backbone, titles = parts.backbone, parts.dataset.catalogue.titles
    if not isinstance(backbone, GenerativeBackbone):
        raise TypeError("The glimpse needs the generative backbone.")
    queries = client.queries(Part.VALIDATION).select(np.zeros(1, np.int64))
    parameters = backbone.layout.views(client.best_row())
    histories = list(queries.histories)
    free = written_texts(backbone, write(backbone, parameters, histories, free=True))[0].texts[0]
    scorer = backbone.scorer(parameters)
    best = int(top_items(scorer.scores(queries, wanted=1), queries.histories, 1, scorer.nothing)[0, 0])
    return Glimpse(
        before,
        after,
        client.info.name,
        tuple(titles[item] for item in queries.histories[0][-backbone.settings.history_items :]),
        free,
        free in {titles[item] for item in queries.histories[0]},
        titles[best],
        titles[queries.targets[0][0]],
        time.perf_counter() - started,
    )
