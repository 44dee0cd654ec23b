"""What the best attack recovered behind every k that was measured, as `pplr plan` shows it.

The table comes with the package; `benchmarks/hidden_states.py` makes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from pplr.models.hub.registry import find


@dataclass(frozen=True)
class Recovery:
    """What an attack recovered of held-out histories, as shares from 0 to 1.

    Attributes:
        attack: its name.
        tokens: of the titles' tokens.
        titles: of the titles, exactly.
        rouge_l: ROUGE-L of the recovered titles and the true ones.
    """

    attack: str
    tokens: float
    titles: float
    rouge_l: float


def best_recovery(model: str, bottom: int) -> Recovery | None:
    """Return what the best attack recovers of the states behind `bottom` layers of a model, by name or alias.

    None where it was not measured; `pplr audit hidden-states` measures it.
    """
    known = find(model)
    return _table().get((model if known is None else known.name, bottom))


@cache
def _table() -> dict[tuple[str, int], Recovery]:
    text = resources.files(__package__).joinpath("measured.json").read_text(encoding="utf-8")
    return {
        (model, int(bottom)): Recovery(**values)
        for model, rows in json.loads(text).items()
        for bottom, values in rows.items()
    }
