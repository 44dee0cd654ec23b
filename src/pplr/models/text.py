"""The text of an item, as a language model reads it."""

from __future__ import annotations

from collections.abc import Sequence

from pplr.data.dataset import Catalogue
from pplr.errors import ConfigError, nearest

SEPARATORS = str.maketrans({"|": ", ", ">": ", ", "_": " "})


def item_texts(catalogue: Catalogue, attributes: Sequence[str] | None = None) -> list[str]:
    """Return one text per item: the title, then `name: value` for each attribute that it has.

    `attributes` names the columns to use, in order; None uses all of them.

    Raises:
        ConfigError: a name in `attributes` is no column of the items.
    """
    names = list(catalogue.attributes) if attributes is None else list(attributes)
    if unknown := [name for name in names if name not in catalogue.attributes]:
        raise ConfigError(_no_attribute(name, list(catalogue.attributes)) for name in unknown)
    columns = [(name.replace("_", " "), catalogue.attributes[name]) for name in names]
    return [
        "; ".join([title, *(f"{name}: {_spoken(column[i])}" for name, column in columns if column[i])])
        for i, title in enumerate(catalogue.titles)
    ]


def _no_attribute(name: str, known: list[str]) -> str:
    listed = ", ".join(repr(attribute) for attribute in known)
    advice = f"They have: {listed}." if known else "They have none, so leave backbone.attributes out."
    return f"backbone.attributes names {name!r}, which is no attribute of the items.{nearest(name, known)} {advice}"


def _spoken(value: str) -> str:
    """Return `Drama|History` as `Drama, History`: separators of data files mean nothing to a language model."""
    return " ".join(value.translate(SEPARATORS).split()).replace(" ,", ",")
