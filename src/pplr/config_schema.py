"""What the configuration consists of, read off its pydantic models: sections, their kinds, how values are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import tomlkit
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Model = type[BaseModel]


def models_of(annotation: Any) -> list[Model]:
    """Return the models that a value of this type may be, in the order in which they are written."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_of(part)]


def kinds_of(field: FieldInfo) -> dict[str, Model]:
    """Return the models of a section by kind: one under "" where it has no kinds, none where the key is a value."""
    models = models_of(field.annotation)
    return {str(model.model_fields["kind"].default) if "kind" in model.model_fields else "": model for model in models}


def is_value(root: Model, path: Sequence[str]) -> bool:
    """Return whether a key is known below `root`, in some kind of the sections it lies in, and is no section."""
    models, fields = [root], list[FieldInfo]()
    for key in path:
        fields = [model.model_fields[key] for model in models if key in model.model_fields]
        models = [model for field in fields for model in kinds_of(field).values()]
    return bool(fields) and not models


def default_of(field: FieldInfo) -> Any:
    """Return the value that a key has where it is not given; None also for a key that must be given."""
    return None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def default_kind(field: FieldInfo) -> str:
    """Return the kind of a section where none is given, "" for a section without kinds."""
    return str(getattr(default_of(field), "kind", ""))


def keys_named(name: str, model: Model, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys of that name below `model`, each once."""
    found: dict[str, None] = {}
    for key, field in model.model_fields.items():
        if key == name:
            found[f"{prefix}{key}"] = None
        for inner in kinds_of(field).values():
            found |= dict.fromkeys(keys_named(name, inner, f"{prefix}{key}."))
    yield from found


def choices_of(annotation: Any) -> list[str]:
    """Return the texts that a value of this type is chosen from, in order; none where it is free."""
    arguments = get_args(annotation)
    if arguments and all(isinstance(argument, str) for argument in arguments):
        return list(arguments)
    return [choice for argument in arguments for choice in choices_of(argument)]


def meaning_of(field: FieldInfo) -> str:
    """Return what a key means, and its choices where the description does not name them all."""
    meaning, choices = field.description or "", choices_of(field.annotation)
    return meaning if all(choice in meaning for choice in choices) else f"{meaning} One of: {', '.join(choices)}."


def first_paragraph(thing: type) -> str:
    """Return the first paragraph of a class's docstring on one line."""
    return " ".join((thing.__doc__ or "").strip().split("\n\n")[0].split())


def written(value: Any) -> str:
    """Return a value as TOML writes it, or "not set" for None; what TOML cannot say is written as a text."""
    if value is None:
        return "not set"
    try:
        return str(tomlkit.item(value).as_string())
    except (TypeError, ValueError):
        return str(tomlkit.item(str(value)).as_string())
