"""What an attacker says that a text is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pplr.audit.texts import HistoryText


@dataclass(frozen=True)
class Answer:
    """An attacker's reading of a text's list of items.

    Attributes:
        ids: a token id for each token of the list.
        items: codes of the items that the attacker says are listed; None where he names tokens only.
    """

    ids: list[int]
    items: tuple[int, ...] | None = None


def titles_of(text: HistoryText, titles: Sequence[str]) -> list[str]:
    """Return the true titles of a text, in its order."""
    return [titles[place.item] for place in text.titles]


def token_recovery(text: HistoryText, answer: Answer) -> float:
    """Return the share of the titles' tokens that the answer has in their places.

    Tokens between titles, and what every text begins and ends with, do not count.
    """
    listed = text.listed
    places = [i for place in text.titles for i in range(place.start, place.stop)]
    return sum(answer.ids[i] == listed[i] for i in places) / len(places)


def title_recovery(text: HistoryText, answer: Answer, titles: Sequence[str]) -> float:
    """Return the share of the titles that are in the answer exactly.

    An answer of items has a title where it is among theirs, as often as it is there; an answer of tokens has it where
    all its tokens stand in their places.
    """
    if answer.items is None:
        listed = text.listed
        read = sum(answer.ids[p.start : p.stop] == listed[p.start : p.stop] for p in text.titles)
    else:
        read = (Counter(titles_of(text, titles)) & Counter(titles[item] for item in answer.items)).total()
    return read / len(text.titles)
