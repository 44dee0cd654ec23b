from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplr.errors import DataError
from pplr.models.decoding import TitleTrie

EOS = 0
TITLES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=30)


def beginnings(titles):
    """Every beginning of a title with its end, and the tokens that may follow it."""
    following = {}
    for title in titles:
        whole = [*title, EOS]
        for i in range(len(whole)):
            following.setdefault(tuple(whole[:i]), set()).add(whole[i])
        following.setdefault(tuple(whole), set())
    return following


def node_of(trie, tokens):
    node = 0
    for token in tokens:
        children, exist = trie.children(np.array([node]))
        found = [int(c) for c in children[0][exist[0]] if trie.tokens[c] == token]
        assert len(found) == 1
        node = found[0]
    return node


@given(TITLES)
def test_a_trie_knows_what_a_dictionary_of_beginnings_knows(titles):
    trie, following = TitleTrie(titles, EOS), beginnings(titles)
    assert len(trie) == len(following)
    nodes = {beginning: node_of(trie, beginning) for beginning in following}
    assert sorted(nodes.values()) == list(range(len(trie)))
    for beginning, node in nodes.items():
        children, exist = trie.children(np.array([node]))
        tokens = trie.tokens[children[0][exist[0]]].tolist()
        assert tokens == sorted(following[beginning])
        assert trie.depths[node] == len(beginning)
        if beginning:
            assert trie.parents[node] == nodes[beginning[:-1]]
        only = following[beginning]
        expected = nodes[(*beginning, *only)] if len(only) == 1 and only != {EOS} else -1
        assert trie.only_child[node] == expected
        items = [i for i, title in enumerate(titles) if (*title, EOS) == beginning]
        assert trie.items(node).tolist() == items


@given(TITLES, st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_children_of_many_nodes_are_those_of_each(titles, picks):
    trie = TitleTrie(titles, EOS)
    nodes = np.array([[pick % len(trie) for pick in picks]])
    children, exist = trie.children(nodes)
    assert children.shape == exist.shape == (1, len(picks), children.shape[2])
    for column, node in enumerate(nodes[0]):
        alone, there = trie.children(np.array([node]))
        assert children[0, column][exist[0, column]].tolist() == alone[0][there[0]].tolist()
    assert (children[~exist] == 0).all()


@pytest.mark.parametrize(
    ("titles", "eos", "says"),
    [
        ([], 0, "there is none"),
        ([[3], []], 0, "item 1 has no token"),
        ([[3], [4, 0]], 0, "item 1 holds the token 0"),
        ([[3, -1], [4]], 0, "item 0 holds the token -1"),
        ([[3]], -1, "must be 0 or more"),
    ],
)
def test_wrong_titles_are_refused(titles, eos, says):
    with pytest.raises(DataError, match=says):
        TitleTrie(titles, eos)
