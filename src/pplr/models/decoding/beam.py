"""Beam search with a causal language model, over all texts or over the titles of a catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pplr.models.decoding.continuations import best_continuations
from pplr.models.decoding.reading_plan import Plan, best_width, plan_reading
from pplr.models.decoding.search import BeamSearch
from pplr.models.decoding.token_tree import TokenTree
from pplr.models.decoding.tree_attention import TreeReader
from pplr.models.decoding.trie import TitleTrie

Ints = NDArray[np.int64]

LOGITS_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Beams:
    """The best continuations of each user's prompt, best first.

    Attributes:
        tokens: [batch, beams, longest] generated tokens with the final `eos`, filled up with `eos`.
        lengths: [batch, beams] number of generated tokens; 0 where fewer hypotheses exist than beams.
        log_probs: [batch, beams] float32 sum of the tokens' log-probabilities; -inf where there is no hypothesis.
        scores: [batch, beams] float32 log_probs / lengths ** length_penalty, by which beams are ordered.
        leaves: [batch, beams] node of the trie reached, for `TitleTrie.items`; -1 without a trie or hypothesis.
    """

    tokens: Tensor
    lengths: Tensor
    log_probs: Tensor
    scores: Tensor
    leaves: Tensor


@torch.inference_mode()
def beam_search(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    beams: int,
    max_new_tokens: int,
    eos: int,
    trie: TitleTrie | None = None,
    length_penalty: float = 1.0,
    same_weights: bool = False,
) -> Beams:
    """Return the best `beams` continuations of each prompt, all of them texts that end, or titles of `trie` where given.

    Users advance at their own pace: what the model reads is cut to what searches need next (reading_plan.py), and
    results equal those of transformers' `generate` (search.py).

    Args:
        model: a causal language model, of transformers or a `CausalModel`, with adapters bound to it or not.
        input_ids: [users, prompt] prompts, padded on the left.
        attention_mask: [users, prompt], 0 at padding.
        beams: width of the search, and number of continuations returned.
        max_new_tokens: longest continuation, the end token included; longer ones are cut there.
        eos: token that ends a text.
        trie: titles to choose among; None searches freely.
        length_penalty: exponent of the length by which a sum of log-probabilities is divided; 0 compares sums.
        same_weights: say True where every user is read by the same weights. Then what all prompts begin with is read
            once, and users who are done leave the batch. Adapters of a row per sample need False: rows keep their places.

    Raises:
        DataError: a prompt is empty or not padded on the left.
        ModelError: the model's kind of attention cannot take a mask of its own.
        NumericalError: a log-probability is not a number.
    """
    users, k = len(input_ids), 2 * beams
    tree = TokenTree(users, k)
    search = BeamSearch(tree, users, beams, max_new_tokens, eos, length_penalty)
    reader = TreeReader(model, input_ids, attention_mask, room=8 * beams)
    everyone = np.arange(users)
    logits = reader.read_prompts_with_common_start() if same_weights else reader.read_prompts()
    tree.expect(everyone, np.zeros_like(everyone), best_continuations(logits, k, trie, np.zeros_like(everyone)))
    most = max(1, LOGITS_BYTES // (8 * logits.shape[1] * users))
    search.advance()
    while not search.done.all():
        plan = plan_reading(search, tree, trie, max_new_tokens)
        if same_weights:
            reader.keep(np.flatnonzero(~search.done))
        _read(reader, tree, trie, plan.cut(best_width(plan, len(reader.users), most)), k)
        search.advance()
    return _collect(search, tree, eos)


def _read(reader: TreeReader, tree: TokenTree, trie: TitleTrie | None, plan: Plan, k: int) -> None:
    width = int(plan.columns.max()) + 1
    slots = tree.size + plan.columns
    tree.append(width)
    tree.link(plan.users, slots, plan.tokens, plan.parents, plan.ranks)
    row_of = np.zeros(int(reader.users.max()) + 1, np.int64)
    row_of[reader.users] = np.arange(len(reader.users))
    place = (row_of[plan.users], plan.columns)
    shape = (len(reader.users), width)
    wanted = np.zeros(shape, np.bool_)
    wanted[place] = True
    tokens, parents, depths, nodes, which = (np.zeros(shape, np.int64) for _ in range(5))
    which[place] = np.arange(len(plan.users))
    tokens[place], parents[place], depths[place], nodes[place] = plan.tokens, plan.parents, plan.depths, plan.nodes
    logits = reader.read(tokens, parents, depths, wanted)
    order = which[wanted]
    tree.expect(plan.users[order], slots[order], best_continuations(logits, k, trie, plan.nodes[order]))


def _collect(search: BeamSearch, tree: TokenTree, eos: int) -> Beams:
    found = search.finished
    exist = np.isfinite(search.scores)
    lengths = np.where(exist, found.lengths, 0)
    tokens = np.full((*exist.shape, max(1, int(lengths.max()))), eos)
    for user, beam in zip(*np.nonzero(exist), strict=True):
        path = [*tree.path(int(user), int(found.parents[user, beam])), int(found.tokens[user, beam])]
        tokens[user, beam, : len(path)] = path
    return Beams(
        tokens=torch.from_numpy(tokens),
        lengths=torch.from_numpy(lengths),
        log_probs=torch.from_numpy(np.where(exist, found.log_probs, -np.inf).astype(np.float32)),
        scores=torch.from_numpy(search.scores.copy()),
        leaves=torch.from_numpy(np.where(exist, found.nodes, -1)),
    )
