"""What a learned model must beat: baselines that count, and references that are trained, on training events alone.

A new one needs its file and its line in `BASELINES` or `REFERENCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pplr.data.dataset import Dataset, Ints, Part
from pplr.errors import ConfigError, nearest
from pplr.evaluation.baselines.federated_mf import FederatedMf
from pplr.evaluation.baselines.item_knn import ItemKnn
from pplr.evaluation.baselines.popularity import Popularity
from pplr.evaluation.baselines.recent import Recent
from pplr.evaluation.baselines.transitions import Transitions
from pplr.evaluation.baselines.validation_window import ValidationWindow
from pplr.evaluation.scorer import Scorer

Fit = Callable[[Dataset, Part], Scorer | None]
"""Fits a baseline for queries of a part, or returns None where the data does not allow it."""

BASELINES: Mapping[str, Fit] = {
    "popularity": lambda dataset, _: Popularity.fit(dataset),
    "recent": lambda dataset, _: None if dataset.times is None else Recent.fit(dataset),
    "validation_window": lambda dataset, part: (
        ValidationWindow.fit(dataset) if ValidationWindow.applies(dataset, part) else None
    ),
    "transitions": lambda dataset, _: Transitions.fit(dataset),
    "item_knn": lambda dataset, _: ItemKnn.fit(dataset),
    "item_knn_recency": lambda dataset, _: ItemKnn.fit(dataset, decay=0.5),
}
"""Name -> how to fit it, in the order of tables."""

FitReference = Callable[[Dataset, Ints, int], Scorer]
"""Trains a reference, given the client of each user code and the run's seed."""

REFERENCES: Mapping[str, FitReference] = {"federated_mf": FederatedMf.fit}
"""Name -> how to train it: models of others, seeded, whose settings are chosen on validation queries."""


def fit_baselines(dataset: Dataset, part: Part = Part.TEST, names: Sequence[str] | None = None) -> dict[str, Scorer]:
    """Return the baselines that suit the data, fitted: name -> scorer.

    Args:
        dataset: its training events are counted; "recent" chooses its window on validation queries, and
            "validation_window" counts validation events. No test event is looked at.
        part: which queries the baselines will be asked; "validation_window" is absent unless it is the test part.
        names: which baselines; all by default. One that the data does not allow is absent ("recent" without time).

    Raises:
        ConfigError: there is no baseline of that name.
    """
    wanted = list(BASELINES) if names is None else list(names)
    if unknown := [name for name in wanted if name not in BASELINES]:
        raise ConfigError(
            [
                f"There is no baseline '{name}'. Choose from {', '.join(BASELINES)}.{nearest(name, BASELINES)}"
                for name in unknown
            ]
        )
    fitted = {name: BASELINES[name](dataset, part) for name in wanted}
    return {name: scorer for name, scorer in fitted.items() if scorer is not None}


__all__ = [
    "BASELINES",
    "REFERENCES",
    "FederatedMf",
    "Fit",
    "FitReference",
    "ItemKnn",
    "Popularity",
    "Recent",
    "Transitions",
    "ValidationWindow",
    "fit_baselines",
]
