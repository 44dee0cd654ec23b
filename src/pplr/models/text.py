"""The text of an item, as a language model reads it."""

from __future__ import annotations

from collections.abc import Sequence

from pplr.data.dataset import Catalogue

SEPARATORS = str.maketrans({"|": ", ", ">": ", ", "_": " "})


def item_texts(catalogue: Catalogue, attributes: Sequence[str] | None = None) -> list[str]:
    """Return one text per item: the title, then `name: value` for each attribute that it has.

    `attributes` names the columns to use, in order; None uses all of them.
    """
    names = list(catalogue.attributes) if attributes is None else list(attributes)
    columns = [(name.replace("_", " "), catalogue.attributes[name]) for name in names]
    return [
        "; ".join([title, *(f"{name}: {_spoken(column[i])}" for name, column in columns if column[i])])
        for i, title in enumerate(catalogue.titles)
    ]


def _spoken(value: str) -> str:
    """Return `Drama|History` as `Drama, History`: separators of data files mean nothing to a language model."""
    return " ".join(value.translate(SEPARATORS).split()).replace(" ,", ",")
