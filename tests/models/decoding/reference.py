"""Beam search by transformers' own `generate`, and the search of everything by plain passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

EOS = 0
PAD = 2


def prompts(kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left. `kind`: "ragged", "equal", "common" (30 tokens in common) or "one" user."""
    generator = torch.Generator().manual_seed(seed)
    lengths = {"ragged": [9, 25, 1, 14], "equal": [12, 12, 12], "common": [33, 31, 47, 40], "one": [20]}[kind]
    shared = torch.randint(4, 260, (30 if kind == "common" else 0,), generator=generator)
    ids, mask = torch.full((len(lengths), max(lengths)), PAD), torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        own = torch.randint(4, 260, (length - len(shared),), generator=generator)
        ids[row, -length:] = torch.cat([shared, own])
        mask[row, -length:] = 1
    return ids, mask


def generated(
    model: Any, ids: Tensor, mask: Tensor, beams: int, longest: int, titles: list[list[int]] | None, penalty: float
) -> tuple[Tensor, Tensor]:
    """Return transformers' tokens [users, beams, length] and scores [users, beams]; `beams` are at least 2."""
    output = _generate(
        model, ids, mask, longest, titles,
        num_beams=beams, num_return_sequences=beams, early_stopping=False, length_penalty=penalty,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    tokens = output.sequences[:, ids.shape[1] :].view(len(ids), beams, -1)
    return tokens, output.sequences_scores.view(len(ids), beams)


def greedy(model: Any, ids: Tensor, mask: Tensor, longest: int, titles: list[list[int]] | None) -> Tensor:
    """Return the tokens [users, length] that transformers finds by taking the best token each time."""
    return _generate(model, ids, mask, longest, titles)[:, ids.shape[1] :]


def _generate(model: Any, ids: Tensor, mask: Tensor, longest: int, titles: Any, **options: Any) -> Any:
    prompt = ids.shape[1]
    following: dict[tuple[int, ...], set[int]] = {}
    for title in titles or ():
        for i, token in enumerate([*title, EOS]):
            following.setdefault(tuple(title[:i]), set()).add(token)

    def follow(_: int, tokens: Tensor) -> list[int]:
        return sorted(following.get(tuple(tokens[prompt:].tolist()), {EOS}))

    return model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=longest,
        prefix_allowed_tokens_fn=follow if titles else None,
        pad_token_id=EOS,
        eos_token_id=EOS,
        **options,
    )


@torch.no_grad()
def log_probability(model: Any, prompt: list[int], text: list[int]) -> float:
    """Return the log-probability of `text` behind `prompt` by one plain pass without cache or padding."""
    logits = model(input_ids=torch.tensor([prompt + text]), use_cache=False).logits[0]
    chances = torch.log_softmax(logits[len(prompt) - 1 : -1].float(), dim=-1)
    return float(chances.gather(1, torch.tensor(text)[:, None]).sum())


def unpadded(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """Return the prompts without padding."""
    return [row[seen.bool()].tolist() for row, seen in zip(ids, mask, strict=True)]
