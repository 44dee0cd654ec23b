"""Values of a configuration that are changed on the command line: `--set training.epochs=3`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic.fields import FieldInfo

from pplr.config_schema import Model, default_kind, kinds_of

Override = tuple[str, list[str], str, Any]


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
    parsed: list[Override] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        parts = [part.strip() for part in name.split(".")]
        if equals and all(parts):
            parsed.append((override, parts[:-1], parts[-1], _value(text)))
        else:
            problems.append(f"--set needs NAME=VALUE, for example training.epochs=3; got {override!r}.")
    for override, sections, key, value in sorted(parsed, key=lambda entry: entry[2] != "kind"):
        place = _place(data, sections)
        if isinstance(place, str):
            problems.append(f"--set {override}: {place} is a value, not a section.")
            continue
        if key == "kind":
            _leave_former_kind(place, value, _field(root, sections))
        place[key] = value
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
    """Return the field of a section that lies in sections without kinds, or None."""
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
