"""The study file: a base configuration and the axes along which it is varied. TOML in, one typed and frozen object out."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pplr.errors import ConfigError, nearest

Changes = Mapping[str, Any]
"""Part of a configuration, as nested tables."""
Axis = list[bool | int | float | str] | dict[str, dict[str, Any]]
"""Values of one key, or named variants of part of the configuration."""

SEED = "seed"
"""The axis whose cells are one variant: figures are means over it."""


class StudySettings(BaseModel):
    """A grid of runs: every combination of one choice per axis, on top of the base configuration.

    An axis is a list of values of the key that it is named after ("seed", "strategy.alpha"), or a table of named
    variants, each of which sets as many keys as it likes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^\w[\w.-]{0,59}$", description="Name of the study, and of its folder below runs/.")
    metric: str = Field("ndcg@10", description="The metric that tables and plots lead with.")
    reference: dict[str, str] = Field(
        default={},
        description="Labels by axis: the variant with them is what others are compared with; absent: the first.",
    )
    base: dict[str, Any] = Field(default={}, description="The configuration of all cells, as `pplr run` takes it.")
    axes: dict[str, Annotated[Axis, Field(min_length=1)]] = Field(
        min_length=1, description="What is varied, the axis that changes most seldom first."
    )
    skip: tuple[dict[str, str], ...] = Field(
        (), description="Combinations that are left out, each as labels by axis; an axis that is not named matches all."
    )

    @field_validator("axes", mode="before")
    @classmethod
    def _values_or_named_variants(cls, axes: Any) -> Any:
        if not isinstance(axes, Mapping):
            raise ValueError("axes is a table of axes: write [axes], and below it such as seed = [1, 2]")  # noqa: TRY004
        for name, axis in axes.items():
            variants = axis.values() if isinstance(axis, Mapping) else ()
            values = axis if isinstance(axis, list) else ()
            if not isinstance(axis, list | Mapping) or not all(isinstance(each, Mapping) for each in variants):
                raise ValueError(
                    f"axes.{name} is neither a list of values nor a table of variants: write {name} = [1, 2] below [axes], or "
                    f"[axes.{name}.NAME] with keys of the configuration below it"
                )
            if not all(isinstance(value, bool | int | float | str) for value in values):
                raise ValueError(
                    f"axes.{name} lists what are no plain values. Give each variant a name: [axes.{name}.NAME], and below it "
                    "keys of the configuration"
                )
        return axes

    @field_validator("axes")
    @classmethod
    def _values_differ(cls, axes: dict[str, Axis]) -> dict[str, Axis]:
        for name, axis in axes.items():
            if isinstance(axis, list) and len({label(value) for value in axis}) < len(axis):
                raise ValueError(f"axes.{name} has a value twice. Write each once")
        return axes

    @model_validator(mode="after")
    def _labels_exist(self) -> Self:
        for where, labels in [("reference", self.reference), *(("skip", entry) for entry in self.skip)]:
            for axis, wanted in labels.items():
                if problem := self._unknown(where, axis, wanted):
                    raise ValueError(problem)
        return self

    def _unknown(self, where: str, axis: str, wanted: str) -> str | None:
        """Return a sentence without its full stop where the study has no such axis, or the axis no such label."""
        if axis not in self.axes:
            return (
                f"{where} names the axis '{axis}', which is not there.{nearest(axis, self.axes)} Axes: "
                f"{', '.join(self.axes)}"
            )
        known = [name for name, _ in self.choices(axis)]
        if wanted not in known:
            names = ", ".join(f"'{name}'" for name in known)  # a label may hold commas
            return f"{where} names '{wanted}' of the axis '{axis}'.{nearest(wanted, known)} There is: {names}"
        return None

    def chosen(self, words: Iterable[str]) -> dict[str, set[str]]:
        """Return what `--only AXIS=LABEL` asks for: labels by axis; several of one axis mean any of them.

        Raises:
            ConfigError: a sentence for each word that is not of this form, or names what the study has not.
        """
        found: dict[str, set[str]] = {}
        problems = []
        for word in words:
            axis, sign, wanted = word.partition("=")
            if not sign:
                problems.append(f"--only takes AXIS=LABEL, such as {self._example()}; '{word}' has no '='.")
            elif problem := self._unknown("--only", axis, wanted):
                problems.append(f"{problem}.")
            found.setdefault(axis, set()).add(wanted)
        if problems:
            raise ConfigError(problems)
        return found

    def _example(self) -> str:
        axis = next(iter(self.axes))
        return shlex.quote(f"{axis}={next(self.choices(axis))[0]}")

    def choices(self, axis: str) -> Iterator[tuple[str, Changes]]:
        """Yield label and changes of every choice along an axis."""
        choices = self.axes[axis]
        if isinstance(choices, dict):
            yield from choices.items()
            return
        for value in choices:
            yield label(value), _nested(axis, value)


def label(value: bool | float | str) -> str:
    """Return a value as labels name it: as TOML writes it, texts without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def load_study(path: Path) -> StudySettings:
    """Return the study in a TOML file.

    Raises:
        ConfigError: one sentence for each thing that is wrong.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise ConfigError(
            f"The study {path} does not exist. Name a TOML file, such as studies/movietweetings.toml."
        ) from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"The study {path} cannot be read: {problem}.") from problem
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"The study {path} is not valid TOML: {problem}.") from problem
    name = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") or "study"
    try:
        return StudySettings.model_validate({"name": name, **data})
    except ValidationError as problem:
        raise ConfigError([_sentence(error) for error in problem.errors()]) from problem


def _sentence(error: Any) -> str:
    """Return what pydantic found, as a sentence about the study file."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        keys = list(StudySettings.model_fields)
        return f"{place}: a study has no such key.{nearest(place, keys)} Keys: {', '.join(keys)}."
    text = str(error["ctx"]["error"]) if error["type"] == "value_error" else str(error["msg"])
    return f"{place}: {text}." if place and error["type"] != "value_error" else f"{text.rstrip('.')}."


def _nested(key: str, value: Any) -> Changes:
    """Return {"strategy": {"alpha": 1}} for "strategy.alpha" and 1."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)
