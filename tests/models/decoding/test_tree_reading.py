"""A tree of continuations, read several tokens at a time, against one plain pass per path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import prompts, unpadded

import tiny
from pplr.models.decoding.tree_attention import TreeReader

MODELS = {
    kind: tiny.decoder(kind, **({"sliding_window": 6} if kind.startswith("gemma") else {}))
    for kind in ("llama", "qwen2", "gemma2", "gemma3")
}


@settings(max_examples=30)
@given(st.data())
def test_every_path_reads_like_a_plain_sequence(data):
    model = MODELS[data.draw(st.sampled_from(sorted(MODELS)))]
    ids, mask = prompts(data.draw(st.sampled_from(["ragged", "common", "equal"])), seed=data.draw(st.integers(0, 99)))
    common = data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    texts = unpadded(ids, mask)
    users = len(texts)
    with torch.inference_mode():
        reader = TreeReader(model, ids, mask, room=data.draw(st.integers(1, 8)))
        behind = reader.read_prompts_with_common_start() if common else reader.read_prompts()
        for user, text in enumerate(texts):
            assert_last(model, text, behind[user])
        paths: list[list[list[int] | None]] = [[[]] for _ in range(users)]  # by column; None is filling
        for _ in range(3):
            if common and rng.random() < 0.5 and len(reader.users) > 1:
                reader.keep(np.sort(rng.choice(reader.users, size=len(reader.users) - 1, replace=False)))
            read_some(model, reader, texts, paths, rng)


def read_some(model, reader, texts, paths, rng):
    rows, width = len(reader.users), int(rng.integers(1, 4))
    tokens, parents, depths = (np.zeros((rows, width), np.int64) for _ in range(3))
    wanted = rng.random((rows, width)) < 0.8
    wanted[0, 0] = True
    for row, user in enumerate(reader.users):
        for column in range(width):
            if not wanted[row, column]:
                paths[user].append(None)
                continue
            known = [i for i, path in enumerate(paths[user]) if path is not None]
            parent = int(rng.choice(known))
            token = int(rng.integers(4, 260))
            tokens[row, column], parents[row, column] = token, parent
            paths[user].append([*paths[user][parent], token])
            depths[row, column] = len(paths[user][-1])
    logits = reader.read(tokens, parents, depths, wanted)
    assert len(logits) == wanted.sum()
    before = reader.columns - width
    places = [(row, column) for row in range(rows) for column in range(width) if wanted[row, column]]
    for found, (row, column) in zip(logits, places, strict=True):
        user = reader.users[row]
        assert_last(model, texts[user] + paths[user][1 + before + column], found)
    for user in set(range(len(texts))) - set(reader.users.tolist()):
        paths[user] += [None] * width


def assert_last(model, text, found):
    expected = model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_what_all_prompts_begin_with_is_read_once(kind):
    ids, mask = prompts("common")
    read = []
    model = MODELS[kind]
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda module, given: read.append(given[0].numel()))
    try:
        with torch.inference_mode():
            TreeReader(model, ids, mask, room=4).read_prompts_with_common_start()
    finally:
        hook.remove()
    assert read == [30, 4 * (47 - 30)]
