"""What the attacks on hidden states have recovered, as far as it was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Recovery:
    """What an attack recovered from the hidden states that leave a client.

    Attributes:
        attack: its name.
        tokens: share of tokens.
        titles: share of titles recovered exactly.
        rouge_l: ROUGE-L of the recovered texts.
    """

    attack: str
    tokens: float
    titles: float
    rouge_l: float


def best_recovery(model: str, bottom: int) -> Recovery | None:
    """Return what the attack that recovers most tokens has recovered behind `bottom` layers, or None if not measured."""
    found = [
        Recovery(entry["attack"], entry["tokens"], entry["titles"], entry["rouge_l"])
        for entry in _entries()
        if entry["model"] == model and entry["bottom"] == bottom
    ]
    return max(found, key=lambda recovery: recovery.tokens, default=None)


@cache
def _entries() -> list[dict[str, Any]]:
    file = resources.files("pplr.audit") / "hidden_states.json"
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []
