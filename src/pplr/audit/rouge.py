"""ROUGE-L (Lin 2004): how much of a text's words another text has, in the same order."""

from __future__ import annotations

import re
from collections.abc import Sequence


def rouge_l(reference: str, candidate: str) -> float:
    """Return 2 P R / (P + R), with L the longest common subsequence of words, R = L / |reference|, P = L / |candidate|.

    Words are runs of letters and digits, in lower case. Two texts without words are equal (1); one without is not (0).
    """
    true, other = _words(reference), _words(candidate)
    if not true and not other:
        return 1.0
    common = longest_common_subsequence(true, other)
    return 2 * common / (len(true) + len(other))


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest sequence that both contain in order, gaps allowed."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for i, candidate in enumerate(other, start=1):
            above = row[i]
            row[i] = diagonal + 1 if word == candidate else max(above, row[i - 1])
            diagonal = above
    return row[-1]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
