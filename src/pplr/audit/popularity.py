"""The attacker who has no states at all, and only knows which items are popular: what every attack must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from pplr.audit.answer import Answer
from pplr.audit.texts import Writing

NAME = "popularity"


def popular_answer(writing: Writing, popularity: Tensor, length: int) -> Answer:
    """Return the list of the most popular items, as long as a text of `length` tokens has room for them.

    Args:
        writing: how lists are written.
        popularity: [items] how often each item is in public histories.
        length: tokens of the list, which the server sees.
    """
    ids: list[int] = []
    items: list[int] = []
    for item in torch.argsort(popularity, descending=True, stable=True).tolist():
        if len(ids) >= length or len(items) == writing.items:
            break
        ids += [*(writing.separator if ids else []), *writing.pieces[item]]
        items.append(item)
    nothing = -1
    return Answer([*ids[:length], *[nothing] * (length - len(ids))], tuple(items))
