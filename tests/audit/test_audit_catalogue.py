"""The likeliest list of items, against all lists; and the attacker who has no states."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from pplr.audit.answer import Answer
from pplr.audit.catalogue import FLOOR, CatalogueReader
from pplr.audit.popularity import popular_answer
from pplr.audit.texts import Writing


def writing(separator):
    pieces = [[1, 2], [1], [3, 2, 1], [2], [1, 9]]
    return Writing([50], pieces, [(0, len(p)) for p in pieces], separator, [51], 10, 100, newest_first=False)


def listed(w, items):
    ids = []
    for item in items:
        ids += [*(w.separator if ids else []), *w.pieces[item]]
    return ids


@pytest.mark.parametrize("separator", [[], [4]])
@pytest.mark.parametrize("length", range(1, 7))
def test_it_is_the_likeliest_of_all_lists(separator, length):
    w = writing(separator)
    tokens, popularity = torch.tensor([1, 2, 3, 4]), torch.tensor([5.0, 0, 2, 9, 1])  # 9 is no token that is known
    scores = (3 * torch.randn(length, 4, generator=torch.Generator().manual_seed(length))).log_softmax(1)

    def value(items):
        column = {1: 0, 2: 1, 3: 2, 4: 3}
        read = [scores[i, column[t]].item() if t in column else FLOOR for i, t in enumerate(listed(w, items))]
        return sum(read) + sum(((popularity[i] + 1) / (popularity + 1).sum()).log().item() for i in items)

    lists = [
        items for n in range(1, length + 1) for items in product(range(5), repeat=n) if len(listed(w, items)) == length
    ]
    answer = CatalogueReader(w, tokens, popularity).answer(scores, [0] * length)
    best = max(lists, key=value)
    assert value(answer.items) == pytest.approx(value(best))
    assert answer.ids == listed(w, answer.items)


def test_without_a_list_of_that_length_it_is_what_was_read():
    w = Writing([], [[1, 2]], [(0, 2)], [4], [], 10, 100, newest_first=False)
    reader = CatalogueReader(w, torch.tensor([1, 2]), torch.ones(1))
    assert reader.answer(torch.zeros(4, 2), [7, 7, 7, 7]) == Answer([7, 7, 7, 7])


def test_popularity_lists_the_most_popular_items_that_have_room():
    w = writing([4])
    popularity = torch.tensor([5.0, 0, 2, 9, 1])
    assert popular_answer(w, popularity, 4) == Answer([2, 4, 1, 2], (3, 0))
    assert popular_answer(w, popularity, 6) == Answer([2, 4, 1, 2, 4, 3], (3, 0, 2))
    assert len(popular_answer(w, popularity, 40).ids) == 40
