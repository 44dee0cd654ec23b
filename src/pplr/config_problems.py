"""Everything that is wrong with a configuration, one sentence each, in the words of the person who wrote it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pplr.config_schema import Model, choices_of, default_kind, keys_named, kinds_of, written
from pplr.errors import nearest

_NO_SECTION = ("model_type", "model_attributes_type", "dict_type")


@dataclass(frozen=True)
class _Place:
    """Where in the configuration a location of pydantic's is.

    Attributes:
        name: dotted, without the kinds that pydantic puts between a section and its keys; "" for the top level.
        model: the model of the section, or None where the place is a value.
        field: the field of the place, that of the list for its entries, or None for the top level.
        kind: the section's kind, or "".
    """

    name: str
    model: Model | None
    field: FieldInfo | None = None
    kind: str = ""


def prepared(data: Mapping[str, Any], model: Model, prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return `data` with every section's kind filled in, and a sentence per kind and number that cannot be.

    What cannot be is replaced or left out, so that the rest is checked all the same: an unknown kind by the nearest one.
    """
    filled: dict[str, Any] = dict(data)
    problems: list[str] = []
    for key, field in model.model_fields.items():
        value, kinds = filled.get(key), kinds_of(field)
        if not kinds and key in filled and (problem := _misread(value, field)):
            problems.append(f"{prefix}{key} = {written(value)}: {problem}")
            del filled[key]
        if not isinstance(value, Mapping) or not kinds:
            continue
        kind = value.get("kind", default_kind(field))
        if "" in kinds:
            kind = ""
        elif not isinstance(kind, str) or kind not in kinds:
            hint = nearest(str(kind), kinds)
            problems.append(f"{prefix}{key}.kind: there is no kind {written(kind)}.{hint} Kinds: {', '.join(kinds)}.")
            close = get_close_matches(str(kind), list(kinds), n=1, cutoff=0.6)
            if not close:
                del filled[key]
                continue
            kind = close[0]
        inner, found = prepared(value, kinds[kind], f"{prefix}{key}.")
        filled[key] = inner | ({"kind": kind} if kind else {})
        problems += found
    return filled, problems


def sentences(problem: ValidationError, root: Model) -> Iterator[str]:
    """Yield one sentence for each error that pydantic found in a configuration whose model is `root`."""
    errors = problem.errors()
    for error in errors:
        if error["type"] == "too_short" and any(_inside(other["loc"], error["loc"]) for other in errors):
            continue  # pydantic counts the valid entries only
        place = _place(error["loc"], root)
        given = written(error.get("input")) if not isinstance(error.get("input"), Mapping) else "{...}"
        message = _plain(str(error["msg"]))
        if error["type"] == "extra_forbidden":
            yield _unknown_key(error["loc"], root)
        elif error["type"] == "missing":
            meaning = place.field.description if place.field is not None else ""
            what = "entry" if isinstance(error["loc"][-1], int) else "key"
            yield f"{place.name}: this {what} is missing. {meaning}".rstrip()
        elif error["type"] in _NO_SECTION and place.field is not None:
            yield _no_section(place.name, place.field, error.get("input"))
        elif error["type"] == "value_error":
            text = str(error["ctx"]["error"]).rstrip(".")
            yield f"{text}." if place.model is not None else f"{place.name} = {given}: {text}."
        else:
            choices = choices_of(place.field.annotation) if place.field is not None else []
            hint = nearest(str(error.get("input")), choices)
            yield f"{place.name} = {given}: {message}.{hint}"


def _inside(location: Sequence[int | str], list_location: Sequence[int | str]) -> bool:
    return len(location) > len(list_location) and location[: len(list_location)] == list_location


def _plain(message: str) -> str:
    """Return a message of pydantic's without the words of Python's types, as the end of a sentence."""
    message = f"{message[0].lower()}{message[1:]}"
    for theirs, ours in (("tuple", "list"), (" after validation", ""), (" for <class 'pathlib.Path'>", "")):
        message = message.replace(theirs, ours)
    return message.rstrip(".")


def _misread(value: Any, field: FieldInfo) -> str:
    """Return what is wrong with a number that pydantic would take, "" for nothing: true is no 1, inf is no number."""
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        return "a number must be finite."
    if any(isinstance(number, bool) for number in numbers) and "bool" not in str(field.annotation):
        return "true and false are no values of this key."
    return ""


def _place(location: Sequence[int | str], root: Model) -> _Place:
    place = _Place("", root)
    kinds: dict[str, Model] = {}
    for part in location:
        if isinstance(part, int):
            place = _Place(f"{place.name}[{part}]", None, place.field)
        elif part in kinds:  # the kind, between a section and its keys
            place, kinds = _Place(place.name, kinds[part], place.field, part), {}
        else:
            field = place.model.model_fields.get(part) if place.model is not None else None
            kinds = kinds_of(field) if field is not None else {}
            place = _Place(f"{place.name}.{part}" if place.name else part, kinds.get(""), field)
    return place


def _unknown_key(location: Sequence[int | str], root: Model) -> str:
    section, key = _place(location[:-1], root), str(location[-1])
    name = f"{section.name}.{key}" if section.name else key
    kinds = kinds_of(section.field) if section.field is not None else {}
    owners = [f'"{kind}"' for kind, model in kinds.items() if key in model.model_fields]
    if owners:
        which = f"kind {owners[0]}" if len(owners) == 1 else f"kinds {' and '.join(owners)}"
        chosen = f'{section.name}.kind is "{section.kind}"'
        return (
            f"{name}: this key belongs to {which}, and {chosen}. Remove it, or set {section.name}.kind = {owners[0]}."
        )
    where = f"in [{section.name}]" if section.name else "at the top level"
    elsewhere = list(keys_named(key, root))
    if elsewhere:
        return f"{name}: there is no such key {where}. Write it as {' or '.join(elsewhere)}."
    allowed = list(section.model.model_fields) if section.model is not None else []
    return f"{name}: there is no such key {where}.{nearest(key, allowed)} Keys: {', '.join(allowed)}."


def _no_section(name: str, field: FieldInfo, given: Any) -> str:
    kinds = kinds_of(field)
    kind = given if isinstance(given, str) and given in kinds else default_kind(field)
    advice = f"write {name}.kind = {written(kind)}" if kind else f"write its keys below [{name}]"
    return f"{name} = {written(given)}: this is a section, not a value; {advice}."
