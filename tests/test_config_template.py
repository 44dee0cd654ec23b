"""The template names every key of every kind with its meaning, parses to the defaults, and any kind can be chosen in it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from pplr.config import Config, parse_config
from pplr.config_template import suited_values, template_toml
from pplr.federation.strategies import STRATEGIES
from pplr.models.parts.settings import CataloguePlacement, SplitPlacement

BACKBONES = ["sequence", "encoder", "generative"]


def models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


def every_section(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """All settings models below `model`, with the dotted name of their section; one of each kind."""
    yield path, model
    for name, field in model.model_fields.items():
        for inner in models(field.annotation):
            yield from every_section(inner, f"{path}.{name}".lstrip("."))


SECTIONS = [*dict.fromkeys(every_section(Config))]
KINDS = [(path, model) for path, model in SECTIONS if "kind" in model.model_fields]


def block(text: str, section: str) -> str:
    """The lines of one section, without its header; of the top level for ""."""
    found = re.search(rf"^#?\[{re.escape(section)}\]$(.*?)(?=^#?\[|\Z)", text, re.M | re.S) if section else None
    return found[1] if found else text[: re.search(r"^\[", text, re.M).start()]


def part_of(text: str, section: str, model: type[BaseModel]) -> str:
    """The lines of a section, or those of one kind of it."""
    lines = block(text, section)
    if "kind" not in model.model_fields:
        return lines
    kind = model.model_fields["kind"].default
    return re.search(rf'^# kind "{kind}":.*?(?=^# kind "|\Z)', lines, re.M | re.S)[0]


def uncommented(lines: str) -> str:
    return re.sub(r"^#(\w+ = [^ #])", r"\1", lines, flags=re.M)


def test_the_sections_are_found():
    assert len(KINDS) == len(STRATEGIES) + 4 + 3 + 3 + 2
    assert {"data.columns", "data.cleaning", "data.split", "backbone.adapter"} <= {path for path, _ in SECTIONS}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("section", "model"), SECTIONS, ids=lambda value: getattr(value, "__name__", value))
def test_every_key_stands_in_its_section_with_its_meaning(section, model, backbone):
    part = part_of(template_toml(backbone), section, model)
    prose = " ".join(part.replace("#", " ").split())
    for name, field in model.model_fields.items():
        if list(models(field.annotation)) or name == "kind":
            continue
        assert re.search(rf"^#?{name} =.*#", part, re.M), name
        assert field.description, name
        assert " ".join(field.description.split()) in prose, name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_as_it_is_it_means_the_defaults_and_what_suits_the_backbone(backbone, tmp_path):
    config = parse_config(tomllib.loads(template_toml(backbone)), tmp_path)
    assert config == parse_config({"backbone": {"kind": backbone}, **suited_values(backbone)}, tmp_path)


def test_a_default_that_is_uncommented_changes_nothing(tmp_path):
    text = template_toml()
    for section, model in SECTIONS:
        kind = model.model_fields.get("kind")
        part = part_of(text, section, model)
        if kind is None or f'kind = "{kind.default}"' in block(text, section):
            text = text.replace(part, uncommented(part))
    expected = parse_config(suited_values("sequence"), tmp_path)
    assert parse_config(tomllib.loads(text), tmp_path) == expected, "a default is misquoted"


@pytest.mark.parametrize(("section", "model"), KINDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_kind_can_be_chosen_and_uncommented(section, model, tmp_path):
    # the default backbone has no layers to split
    text, kind = (
        template_toml("generative" if model is SplitPlacement else "sequence"),
        model.model_fields["kind"].default,
    )
    part, lines = part_of(text, section, model), block(text, section)
    chosen = re.sub(r'^kind = "[\w-]+"', f'kind = "{kind}"', lines, flags=re.M).replace(part, uncommented(part))
    config = parse_config(tomllib.loads(text.replace(lines, chosen)), tmp_path)
    value = config
    for name in section.split("."):
        value = getattr(value, name)
    required = {name: field.examples[0] for name, field in model.model_fields.items() if field.is_required()}
    if model is CataloguePlacement:  # it always has a server, whose folder of certificates is found
        required["certificates"] = str(tmp_path / "certificates")
    assert value == model(**required)


def test_own_files_come_first_and_are_what_one_must_set(tmp_path):
    text = template_toml(events=Path("orders.csv"), items=Path('odd "name".csv'))
    data = parse_config(tomllib.loads(text), tmp_path).data
    assert (data.demo, data.events, data.items) == (None, tmp_path / "orders.csv", tmp_path / 'odd "name".csv')
    set_keys = [line.split(" =")[0] for line in text.splitlines() if re.match(r"\w+ =", line)]
    assert set_keys == ["events", "items", "kind", "kind", "rounds", "kind", "kind", "statistics", "kind"]
    headers = re.findall(r"^\[(.+)\]$", text, re.M)
    assert headers[:4] == ["data", "clients", "strategy", "federation"]


def test_lines_fit_a_window():
    assert max(len(line) for line in template_toml("generative").splitlines()) <= 120
