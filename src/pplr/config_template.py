"""The commented configuration that `pplr init` writes, made from the settings' models, so that it names every key."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic.fields import FieldInfo

from pplr.config import Config
from pplr.config_schema import Model, default_kind, default_of, first_paragraph, kinds_of, meaning_of, written

BackboneName = Literal["sequence", "encoder", "generative"]
Values = Mapping[str, Any]

COUNTED = {"fusion": {"statistics": ["transitions", "recent", "item_knn_recency"]}}
"""What clients count beside their models, in configurations to begin with: more is better for users. Where methods are
compared, and nothing is said, it is the model alone."""
_SUITED: dict[str, dict[str, dict[str, Any]]] = {
    "sequence": COUNTED,
    "encoder": {**COUNTED, "training": {"epochs": 1, "learning_rate": 1e-3, "batch_tokens": 4096}},
    "generative": {
        **COUNTED,
        "training": {"epochs": 1, "learning_rate": 5e-4, "batch_tokens": 1024, "max_examples": 1024},
        "evaluation": {"max_users": 50},
    },
}
_FIRST = ("data", "clients", "strategy", "federation")
"""Sections that everybody looks at; the sections inside them stand at the end."""

_WIDTH = 118
_HEADER = """\
# A configuration of pplr: federated fine-tuning of a language-model recommender.
# With FILE for this file's name: `pplr data check FILE` looks at the data, `pplr run FILE` trains, evaluates, reports.
#
# Keys without a `#` are what one usually sets. A key behind a `#` shows its default; take the `#` away to change it.
# A key with nothing behind `=` has no value until you give it one. Where a section comes in kinds, the keys of each
# kind stand below its name: set `kind`, and use the keys of that kind only.
"""
_REST = """
# ---------------------------------------------------------------------------------------------------------------------
# The rest has defaults that are good to begin with.
# ---------------------------------------------------------------------------------------------------------------------
"""


def suited_values(backbone: str) -> dict[str, dict[str, Any]]:
    """Return the values that suit a backbone where the defaults do not, by section."""
    return _SUITED[backbone]


def template_toml(backbone: BackboneName = "sequence", *, events: Path | None = None, items: Path | None = None) -> str:
    """Return a configuration with every key of every kind, each with its meaning; defaults stand behind a `#`.

    Without `events` and `items` it describes the demo data.
    """
    source = {"demo": "movietweetings"} if events is None or items is None else {"events": events, "items": items}
    given: dict[str, Values] = {
        "data": source,
        "federation": {"rounds": default_of(_field("federation", "rounds"))},
        **suited_values(backbone),
    }
    kinds = {"backbone": str(backbone)}
    lines = [_HEADER, *_aligned([_entry(name, field, {"name": None}) for name, field in _values(Config)])]
    for name in _FIRST:
        lines += _section(name, Config.model_fields[name], given.get(name, {}), kinds.get(name))
    lines.append(_REST.rstrip("\n"))
    for name, field in Config.model_fields.items():
        if kinds_of(field) and name not in _FIRST:
            lines += _section(name, field, given.get(name, {}), kinds.get(name))
            lines += _inner_sections(name, field, kinds.get(name))
    for name in _FIRST:
        lines += _inner_sections(name, Config.model_fields[name], kinds.get(name))
    return "\n".join(lines) + "\n"


def _section(name: str, field: FieldInfo, given: Values, chosen: str | None = None, mark: str = "") -> Iterator[str]:
    """Yield the lines of one section, without the sections inside it; `mark` stands before what would count."""
    kinds = kinds_of(field)
    if "" in kinds:
        yield from ("", *_prose(first_paragraph(kinds[""])), f"{mark}[{name}]")
        entries = [_entry(key, inner, given) for key, inner in _values(kinds[""])]
        yield from _aligned(sorted(entries, key=lambda entry: entry[0].startswith("#")))
        return
    chosen = chosen or default_kind(field)
    yield from ("", *_prose(field.description or ""), f"{mark}[{name}]")
    yield from _aligned([(f"kind = {written(chosen)}", f"One of: {', '.join(kinds)}.")])
    for kind in (chosen, *(other for other in kinds if other != chosen)):
        yield from () if kind == chosen else ("#",)
        yield from _prose(f"kind {written(kind)}: {first_paragraph(kinds[kind])}")
        entries = [_entry(key, inner, given if kind == chosen else {}) for key, inner in _values(kinds[kind])]
        yield from _aligned([(text, why) for text, why in entries if not text.startswith("#kind")])


def _inner_sections(name: str, field: FieldInfo, chosen: str | None) -> Iterator[str]:
    """Yield the sections inside a section, each once; those that only other kinds have behind a `#`."""
    kinds = kinds_of(field)
    first = chosen or default_kind(field)
    seen: set[str] = set()
    for kind in (first, *(other for other in kinds if other != first)):
        for key, inner in kinds[kind].model_fields.items():
            if kinds_of(inner) and key not in seen:
                seen.add(key)
                yield from _section(f"{name}.{key}", inner, {}, mark="" if kind == first else "#")


def _values(model: Model) -> list[tuple[str, FieldInfo]]:
    """Return the keys of a section that are values, not sections."""
    return [(name, field) for name, field in model.model_fields.items() if not kinds_of(field)]


def _field(section: str, key: str) -> FieldInfo:
    return kinds_of(Config.model_fields[section])[""].model_fields[key]


def _entry(name: str, field: FieldInfo, given: Values) -> tuple[str, str]:
    """Return a key with its value, and its meaning."""
    example = next(iter(field.examples or []), None) if field.is_required() else None
    value = given[name] if name in given else default_of(field) if example is None else example
    shown = "" if value is None else f" {written(value)}"
    return f"{'' if given.get(name) is not None else '#'}{name} ={shown}", meaning_of(field)


def _aligned(entries: list[tuple[str, str]]) -> Iterator[str]:
    """Yield a line per key, meanings below each other; a long meaning goes on below."""
    column = min(32, max((len(text) for text, _ in entries), default=0)) + 2
    for text, meaning in entries:
        first = max(column, len(text) + 2)
        room = [_WIDTH - first, _WIDTH - column]
        words = textwrap.wrap(meaning, max(40, min(room)), break_long_words=False)
        yield f"{text:<{first}}# {words[0]}" if words else text
        yield from (f"{'':<{column}}# {more}" for more in words[1:])


def _prose(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH)]
