"""The measures, against brute force and by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplr.audit.answer import Answer, title_recovery, token_recovery
from pplr.audit.hidden_states import estimate
from pplr.audit.rouge import longest_common_subsequence, rouge_l
from pplr.audit.texts import HistoryText, Place

TITLES = ("red ship", "old king", "red ship", "rain")
#              frame |  red ship  |  sep  |  rain  |  frame
TEXT = HistoryText([90, 11, 12, 80, 14, 91], 1, 5, (Place(0, 0, 2), Place(3, 3, 4)))

words = st.lists(st.sampled_from("abc"), max_size=7)


@given(words, words)
def test_the_longest_common_subsequence_is_that_of_all(one, other):
    shared = [
        size
        for size in range(len(one) + 1)
        if {tuple(c) for c in combinations(one, size)} & {tuple(c) for c in combinations(other, size)}
    ]
    assert longest_common_subsequence(one, other) == max(shared)


@given(words, words)
def test_rouge_is_the_harmonic_mean_of_precision_and_recall(one, other):
    value = rouge_l(" ".join(one), " ".join(other))
    common = longest_common_subsequence(one, other)
    if common:
        assert value == pytest.approx(2 / (len(one) / common + len(other) / common))
    else:
        assert value == (0.0 if one or other else 1.0)


def test_rouge_of_a_known_pair():
    # Lin (2004), section 3.1: "police killed the gunman", F of "police kill the gunman" is 3/4 and of "the gunman kill
    # police" 2/4, with beta = 1
    assert rouge_l("police killed the gunman", "Police kill the gunman!") == 0.75
    assert rouge_l("police killed the gunman", "the gunman kill police") == 0.5


def test_only_tokens_of_titles_count():
    assert token_recovery(TEXT, Answer([11, 12, 80, 14])) == 1.0
    assert token_recovery(TEXT, Answer([11, 12, 0, 14])) == 1.0, "a separator is no title"
    assert token_recovery(TEXT, Answer([0, 12, 80, 0])) == pytest.approx(1 / 3)
    assert token_recovery(TEXT, Answer([0, 0, 80, 0])) == 0.0, "what is known to everybody is no recovery"


def test_a_title_is_recovered_whole_or_not():
    assert title_recovery(TEXT, Answer([11, 12, 80, 14]), TITLES) == 1.0
    assert title_recovery(TEXT, Answer([11, 0, 80, 14]), TITLES) == 0.5
    assert title_recovery(TEXT, Answer([0] * 4, items=(3, 1)), TITLES) == 0.5
    assert title_recovery(TEXT, Answer([0] * 4, items=(3, 2)), TITLES) == 1.0, "another item of the same title"
    assert title_recovery(TEXT, Answer([0] * 4, items=(3, 3)), TITLES) == 0.5, "one title counts once"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_the_standard_error_is_numpys(values):
    found = estimate(values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.error == pytest.approx(np.std(values, ddof=1) / np.sqrt(len(values)), abs=1e-12)
