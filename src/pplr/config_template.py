"""The commented configuration that `pplr init` writes: every key with its meaning, defaults commented out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pplr.config import Config
from pplr.data.settings import DataSettings
from pplr.models.encoder import EncoderSettings
from pplr.models.generative import GenerativeSettings
from pplr.models.sequence import SequenceSettings

BackboneName = Literal["sequence", "encoder", "generative"]
_BACKBONES: dict[str, type[BaseModel]] = {
    "sequence": SequenceSettings,
    "encoder": EncoderSettings,
    "generative": GenerativeSettings,
}
_SUITED: dict[str, dict[str, dict[str, Any]]] = {
    "sequence": {},
    "encoder": {"training": {"epochs": 1, "learning_rate": 1e-3, "batch_tokens": 4096}},
    "generative": {
        "training": {"epochs": 1, "learning_rate": 5e-4, "batch_tokens": 1024, "max_examples": 1024},
        "evaluation": {"max_users": 50},
    },
}


def suited_values(backbone: str) -> dict[str, dict[str, Any]]:
    """Return the values that suit a backbone where the defaults do not, by section."""
    return _SUITED[backbone]


def template_toml(backbone: BackboneName = "sequence", *, events: Path | None = None, items: Path | None = None) -> str:
    """Return a configuration with every key: those one wants to look at as they are, defaults behind a `#`.

    Without `events` and `items` it describes the demo data.
    """
    lines = [
        "# pplr: federated fine-tuning of a language-model recommender.",
        "# Run it with `pplr run THIS_FILE`. A key behind `#` has the value that is meant without it.",
        "",
    ]
    lines += _keys(Config, {"name": "run", "seed": 1}, skip=_sections())
    given: dict[str, Any] = {"demo": "movietweetings"}
    if events is not None and items is not None:
        given = {"events": str(events), "items": str(items)}
    lines += ["", "[data]", *_keys(DataSettings, given, skip=_nested(DataSettings))]
    lines += ["", "[data.split]", 'kind = "leave-one-out"  # or "global-time"']
    for section in ("clients", "backbone", "training", "federation", "strategy", "evaluation"):
        model = _BACKBONES[backbone] if section == "backbone" else _model(section)
        values = dict(_SUITED[backbone].get(section, {}))
        lines += ["", f"# {_first_sentence(model)}", f"[{section}]", *_keys(model, values, skip=_nested(model))]
        for inner in _nested(model):
            nested = model.model_fields[inner].annotation
            if isinstance(nested, type) and issubclass(nested, BaseModel):
                lines += ["", f"[{section}.{inner}]", *_keys(nested, {}, skip=())]
    return "\n".join(lines) + "\n"


def _keys(model: type[BaseModel], given: dict[str, Any], skip: tuple[str, ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        shown = name in given or name == "kind"
        value = given.get(name, _default(field))
        text = f"{name} = {_toml(value)}" if value is not None else f"{name} ="
        yield f"{'' if shown and value is not None else '# '}{text}  # {field.description or ''}".rstrip(" #")


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    return json.dumps(str(value), ensure_ascii=False)


def _sections() -> tuple[str, ...]:
    return ("data", "clients", "backbone", "training", "federation", "strategy", "evaluation")


def _nested(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name, field in model.model_fields.items() if isinstance(_default(field), BaseModel))


def _model(section: str) -> type[BaseModel]:
    default = _default(Config.model_fields[section])
    return type(default)


def _first_sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]
