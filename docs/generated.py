"""Fills pages from the code, so that they cannot go stale: configuration keys, exit codes, schema of metrics.json."""

from __future__ import annotations

import json
from typing import Any, get_args

from pydantic import BaseModel

from pplr import errors
from pplr.config import Config
from pplr.report.schema import metrics_json_schema


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of generated parts."""
    makers = {"configuration": configuration, "exit-codes": exit_codes, "metrics-schema": metrics_schema}
    for name, make in makers.items():
        marker = f"<!-- {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown


def configuration() -> str:
    """Return a section per table of the configuration."""
    parts = ["## Top level", table(Config)]
    for name, field in Config.model_fields.items():
        for model in models_of(field.annotation):
            kind = model.model_fields.get("kind")
            title = f"[{name}]" + (f' kind = "{kind.default}"' if kind is not None else "")
            parts += [f"## `{title}`", first_paragraph(model), table(model)]
            for inner, inner_field in model.model_fields.items():
                for nested in models_of(inner_field.annotation):
                    nested_kind = nested.model_fields.get("kind")
                    suffix = f' kind = "{nested_kind.default}"' if nested_kind is not None else ""
                    parts += [f"### `[{name}.{inner}]{suffix}`", first_paragraph(nested), table(nested)]
    return "\n\n".join(parts)


def exit_codes() -> str:
    """Return the table of errors and their exit codes."""
    rows = ["| error | exit code | what to do |", "|---|---|---|"]
    things = [thing for thing in vars(errors).values() if isinstance(thing, type)]
    kinds = [thing for thing in things if issubclass(thing, errors.PplrError)]
    rows += [f"| `{kind.__name__}` | {kind.exit_code} | {first_paragraph(kind)} |" for kind in kinds]
    return "\n".join([*rows, "| interrupted (Ctrl-C) | 130 | go on with `--resume` |"])


def metrics_schema() -> str:
    """Return the JSON schema of metrics.json as a code block."""
    return f"```json\n{json.dumps(metrics_json_schema(), indent=1)}\n```"


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_of(part)]


def table(model: type[BaseModel]) -> str:
    """Return the keys of a model that are values, with defaults and meanings."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if not models_of(field.annotation):
            default = field.get_default(call_default_factory=True, validated_data={})
            shown = "" if field.is_required() or default is None else f"`{json.dumps(default, default=str)}`"
            rows.append(f"| `{name}` | {shown} | {(field.description or '').replace('|', '&#124;')} |")
    return "\n".join(rows)


def first_paragraph(thing: type) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((thing.__doc__ or "").strip().split("\n\n")[0].split())
