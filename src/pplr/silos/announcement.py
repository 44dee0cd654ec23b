"""What a silo says of itself before the first round, and what all silos of a run must have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pplr.config import Config
from pplr.config_schema import written
from pplr.errors import ConfigError
from pplr.federation.client import SelectBy
from pplr.silos.parcel import plain

Count = Annotated[int, Field(ge=0, lt=2**62)]
Text = Annotated[str, Field(max_length=1_000), AfterValidator(plain)]

SECTIONS = {"seed", "backbone", "placement", "training", "strategy", "evaluation"}
"""Sections of a configuration that decide what a silo computes."""
OF_EACH = {
    "backbone.model",
    "placement.server",
    "placement.certificates",
    "placement.wait_seconds",
    "evaluation.baselines",
    "evaluation.references",
    "evaluation.examples",
}
"""Keys of these that may differ: places and names on one's own machine, and what only one machine does."""


class Announcement(BaseModel):
    """A silo before the first round.

    Attributes:
        name: of the silo.
        version: of its program.
        examples: training examples that it has.
        users, events: counts of its own data.
        items: those of the item table.
        catalogue: digest of the item table, whose order decides the numbers of items.
        model: name of the language model.
        weights: digest of its weights.
        layout: digest of names and shapes of all trained parameters.
        parameters, shared: P and S.
        initial: digest of the shared row before the first round.
        select_by: the validation measure by which rows are kept.
        split: kind of the split into training, validation and test.
        settings: the values of its configuration that must be the same everywhere.
        device: where it computes, such as "cpu".
        notes: what was done to its data, in sentences.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=100)]
    version: Text
    examples: Count
    users: Count
    items: Count
    events: Count
    catalogue: Text
    model: Text
    weights: Text
    layout: Text
    parameters: Count
    shared: Count
    initial: Text
    select_by: SelectBy
    split: Text
    settings: Annotated[dict[Text, Text], Field(max_length=1_000)]
    device: Text
    notes: Annotated[list[Text], Field(max_length=1_000)]


@dataclass(frozen=True)
class Agreement:
    """What all silos of a run have in common.

    Attributes:
        by: the name of the silo that said so first.
        values: words for it -> value.
    """

    by: str
    values: Mapping[str, str]

    def differences(self, other: Announcement) -> list[str]:
        """Return a sentence for each thing in which a silo differs."""
        theirs = agreement(other).values
        return [
            f"The {what} of {other.name} is {theirs[what]}, that of {self.by} is {value}. {_ADVICE[what]}"
            for what, value in self.values.items()
            if theirs[what] != value
        ]


_ADVICE = {
    "version of pplr": "Install the same version everywhere.",
    "catalogue's digest": "Give every silo the same item table; a k-core (data.cleaning) makes it depend on the events.",
    "digest of the model's weights": "Pull the same model everywhere: `pplr models pull` verifies it.",
    "layout of the parameters": "Use the same [backbone], [placement] and [strategy] everywhere.",
    "number of shared parameters": "Use the same [backbone] and [strategy] everywhere.",
    "first row": "Use the same seed and the same version of torch everywhere.",
    "measure that keeps rows": "Use the same evaluation.select_by everywhere.",
}


def agreement(announced: Announcement) -> Agreement:
    """Return what others must have in common with a silo."""
    values = (
        announced.version,
        announced.catalogue,
        announced.weights,
        announced.layout,
        str(announced.shared),
        announced.initial,
        announced.select_by,
    )
    return Agreement(announced.name, dict(zip(_ADVICE, values, strict=True)))


def agreed(config: Config, announced: Iterable[Announcement]) -> Agreement:
    """Return what all silos have in common.

    Raises:
        ConfigError: a sentence for each thing in which silos differ from each other, or from the coordinator's
            configuration.
    """
    silos = sorted(announced, key=lambda one: one.name)
    common = agreement(silos[0])
    problems = [sentence for silo in silos[1:] for sentence in common.differences(silo)]
    problems += [sentence for silo in silos for sentence in other_settings(config, silo)]
    if problems:
        raise ConfigError(problems)
    return common


def other_settings(config: Config, announced: Announcement) -> list[str]:
    """Return a sentence for each value of a silo's configuration that is not the coordinator's."""
    ours, theirs = settings_of(config), announced.settings
    names = sorted({*ours, *theirs})
    return [
        f"{name} is {theirs.get(name, 'absent')} at {announced.name} and {ours.get(name, 'absent')} at the coordinator. "
        "Give both the same configuration."
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


def settings_of(config: Config) -> dict[str, str]:
    """Return the values of a configuration that must be the same everywhere, by their dotted names."""
    return {
        name: written(value)[:1_000]
        for name, value in _flat(config.model_dump(mode="json", include=SECTIONS))
        if name not in OF_EACH and value is not None
    }


def row_digest(content: bytes) -> str:
    """Return SHA-256 of a row's bytes."""
    return hashlib.sha256(content).hexdigest()


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
