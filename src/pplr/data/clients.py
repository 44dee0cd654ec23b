"""Clients: which user belongs to which silo. In production the silos are given; for experiments they are made.

Only training events, the item table and the silo column are looked at, never validation or test events.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pplr.data.clustering import cluster_users
from pplr.data.dataset import Catalogue, Dataset, Ints, Ragged
from pplr.data.label_skew import deal_by_dirichlet, user_labels
from pplr.data.partition import ClientAssignment
from pplr.errors import ConfigError, DataError, nearest
from pplr.seeds import derive, numpy_generator

_Count = Annotated[int, Field(ge=1, le=100_000)]
_Share = Annotated[float, Field(ge=0, le=1)]
_SHARE_TEXT = "Least size of a client, as a share of users / count; 0 allows a single user, 1 makes all sizes equal."
_FOLDER_NAME = re.compile(r"[^\x00-\x1f/\\:*?\"<>|]{1,100}")


class KMeansClients(BaseModel):
    """Users of similar taste form a client: k-means on the user vectors of a matrix factorisation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["kmeans"] = Field(default="kmeans", description="The name of this way to make clients.")
    count: _Count = Field(default=5, description="Number of clients.")
    factors: int = Field(default=16, ge=1, le=1_024, description="Length of the user vectors.")
    iterations: int = Field(default=15, ge=1, le=1_000, description="Rounds of alternating least squares.")
    minimum_share: _Share = Field(default=0.2, description=_SHARE_TEXT)


class ColumnClients(BaseModel):
    """Each value of the silo column (data.columns.silo) is a client, named after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["column"] = Field(default="column", description="The name of this way to make clients.")


class DirichletClients(BaseModel):
    """Clients differ in what their users like: users of one label are dealt to clients by a Dirichlet draw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dirichlet"] = Field(default="dirichlet", description="The name of this way to make clients.")
    count: _Count = Field(default=5, description="Number of clients.")
    attribute: str = Field(
        min_length=1, description="Item attribute that gives the labels, such as 'genres'.", examples=["genres"]
    )
    separator: str = Field(
        default="|", description="What separates several labels of one item; '' takes the whole text."
    )
    alpha: float = Field(
        default=0.5,
        gt=0,
        le=1e6,
        allow_inf_nan=False,
        description="Concentration: small means that each label goes to few clients, 1000 or more that all are alike.",
    )
    minimum_share: _Share = Field(default=0.2, description=_SHARE_TEXT)


class RandomClients(BaseModel):
    """Users are dealt at random: clients that do not differ but in size, as a control."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["random"] = Field(default="random", description="The name of this way to make clients.")
    count: _Count = Field(default=5, description="Number of clients.")
    sizes: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        default=(), description="Sizes of the clients in any scale, such as [1, 2, 4, 8, 16]; absent: all are equal."
    )

    @model_validator(mode="after")
    def _a_size_for_each(self) -> Self:
        if self.sizes and len(self.sizes) != self.count:
            raise ValueError(
                f"clients.sizes has {len(self.sizes)} sizes, and clients.count is {self.count}. Give as many as there are "
                "clients"
            )
        return self


ClientSettings = Annotated[
    KMeansClients | ColumnClients | DirichletClients | RandomClients, Field(discriminator="kind")
]


def assign_clients(
    dataset: Dataset, settings: KMeansClients | ColumnClients | DirichletClients | RandomClients, seed: int
) -> ClientAssignment:
    """Return the client of each user; every client has training events.

    Users without training events (they appear after the cut of 'global-time') tell nothing about their taste: they
    are dealt by a hash of seed and user id, each independently of all others.

    Args:
        dataset: the data set.
        settings: how clients are made.
        seed: the run's seed.

    Raises:
        ConfigError: there are fewer users than clients, or no such attribute.
        DataError: there is no silo column, or a silo without training events, or a silo's name cannot name a folder.
    """
    if isinstance(settings, ColumnClients):
        return _by_column(dataset)
    training = dataset.training()
    trained = np.flatnonzero(training.lengths > 0).astype(np.int64)
    if len(trained) < settings.count:
        raise ConfigError(
            f"clients.count is {settings.count}, but only {len(trained)} users have training events: lower it."
        )
    clients = _untrained(dataset, settings.count, seed)
    clients[trained] = _groups(dataset.catalogue, training.select(trained), settings, seed)
    return ClientAssignment(made_names(settings.count), clients)


def made_names(count: int) -> tuple[str, ...]:
    """Return the names of `count` clients that are made, in order."""
    width = len(str(count - 1))
    return tuple(f"client-{number:0{width}}" for number in range(count))


def _dealt(users: int, settings: RandomClients) -> Ints:
    """Return a client for each of so many users, in proportion to the sizes; everybody gets one at least."""
    if not settings.sizes:
        return np.arange(users, dtype=np.int64) % settings.count
    ends = np.cumsum(settings.sizes) / sum(settings.sizes) * (users - settings.count)
    counts = np.diff(np.rint(ends), prepend=0).astype(np.int64) + 1
    return np.repeat(np.arange(settings.count, dtype=np.int64), counts)


def _groups(
    catalogue: Catalogue, training: Ragged, settings: KMeansClients | DirichletClients | RandomClients, seed: int
) -> Ints:
    """Return the client of each row of `training`, none of which is empty."""
    if isinstance(settings, KMeansClients):
        return cluster_users(
            training,
            settings.count,
            factors=settings.factors,
            iterations=settings.iterations,
            minimum_share=settings.minimum_share,
            seed=seed,
        )
    generator = numpy_generator(seed, "clients", settings.kind)
    if isinstance(settings, RandomClients):
        return generator.permutation(_dealt(len(training), settings))
    if settings.attribute not in catalogue.attributes:
        allowed = ", ".join(f"'{name}'" for name in catalogue.attributes) or "none"
        raise ConfigError(
            f"clients.attribute is '{settings.attribute}', which is no attribute of the items."
            f"{nearest(settings.attribute, catalogue.attributes)} They have: {allowed}."
        )
    labels = user_labels(training, catalogue.attributes[settings.attribute], settings.separator)
    return deal_by_dirichlet(labels, settings.count, settings.alpha, settings.minimum_share, generator)


def _untrained(dataset: Dataset, count: int, seed: int) -> Ints:
    codes = (derive(seed, "clients", "without-training", user) % count for user in dataset.user_ids)
    return np.fromiter(codes, dtype=np.int64, count=len(dataset.user_ids))


def _by_column(dataset: Dataset) -> ClientAssignment:
    if dataset.silos is None:
        raise DataError(
            "clients.kind is 'column', but the events have no silo column: name it in data.columns.silo, or choose "
            "another kind: kmeans, dirichlet, random."
        )
    names, clients = np.unique(np.asarray(dataset.silos, dtype=object), return_inverse=True)
    problems = [
        f"The silo '{name}' cannot name a folder: use up to 100 characters, none of them / \\ : * ? \" < > | or "
        "control characters, and no dot at either end."
        for name in names
        if not _FOLDER_NAME.fullmatch(name) or name.startswith(".") or name.endswith(".")
    ]
    events = np.bincount(clients, weights=dataset.training().lengths, minlength=len(names))
    problems += [
        f"The silo '{name}' has no training events: leave its rows out, or give it more events."
        for name in names[events == 0]
    ]
    if problems:
        raise DataError("\n".join(problems))
    return ClientAssignment(tuple(str(name) for name in names), clients.astype(np.int64))
