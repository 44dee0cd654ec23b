"""Values of a configuration that are changed on the command line: `--set training.epochs=3`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic.fields import FieldInfo

from pplr.config_schema import Model, default_kind, kinds_of


@dataclass(frozen=True)
class Change:
    """A key's new value.

    Attributes:
        path: names of the sections it lies in, then its own.
        value: the value.
        written: how its author wrote it, for messages.
    """

    path: tuple[str, ...]
    value: Any
    written: str


def apply_overrides(data: dict[str, Any], overrides: Sequence[str], root: Model) -> list[str]:
    """Change `data` as the overrides say, and return a sentence for each that cannot be applied.

    A value is TOML, or else a text. Where an override changes the kind of a section, the section's keys that only its
    former kind has are left out: `strategy.kind=fedavg` works on a file that sets `strategy.alpha`. Kinds are changed
    before anything else, so that an override for a key of the former kind is found to be wrong.

    Args:
        data: the configuration as a nested mapping; it is changed.
        overrides: NAME=VALUE, NAME being the dotted name of a key.
        root: the model of the configuration.
    """
    problems: list[str] = []
    changes: list[Change] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        parts = tuple(part.strip() for part in name.split("."))
        if equals and all(parts):
            changes.append(Change(parts, _value(text), f"--set {override}"))
        else:
            problems.append(f"--set needs NAME=VALUE, for example training.epochs=3; got {override!r}.")
    return [*problems, *apply_changes(data, changes, root)]


def apply_changes(data: dict[str, Any], changes: Iterable[Change], root: Model) -> list[str]:
    """Do what `apply_overrides` does with values that need no parsing."""
    problems: list[str] = []
    for change in sorted(changes, key=lambda change: change.path[-1] != "kind"):
        *sections, key = change.path
        place = _place(data, sections)
        if isinstance(place, str):
            problems.append(f"{change.written}: {place} is a value, not a section.")
            continue
        if key == "kind":
            _leave_former_kind(place, change.value, _field(root, sections))
        place[key] = change.value
    return problems


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()  # a bare word is a text


def _place(data: dict[str, Any], sections: Sequence[str]) -> dict[str, Any] | str:
    """Return the section, made where it is missing; or the dotted name of what is a value on the way to it."""
    place: Any = data
    for depth, section in enumerate(sections):
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            return ".".join(sections[: depth + 1])
    return cast("dict[str, Any]", place)


def _field(root: Model, sections: Sequence[str]) -> FieldInfo | None:
    """Return the field of what lies at the end of sections without kinds, or None."""
    model: Model | None = root
    field = None
    for section in sections:
        field = model.model_fields.get(section) if model is not None else None
        model = kinds_of(field).get("") if field is not None else None
    return field


def _leave_former_kind(place: dict[str, Any], kind: Any, field: FieldInfo | None) -> None:
    kinds: Mapping[str, Model] = {} if field is None else kinds_of(field)
    former = place.get("kind", default_kind(field)) if field is not None else ""
    if former not in kinds or kind == former:
        return
    kept = kinds[kind].model_fields if kind in kinds else {}
    for key in kinds[former].model_fields:
        if key not in kept:
            place.pop(key, None)
