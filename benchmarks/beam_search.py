"""Throughput of catalogue-constrained beam search against transformers' `generate`, with the same results.

    python benchmarks/beam_search.py --items items.csv.gz --events interactions.csv.gz --model FOLDER \
        --users 16 --output beam_search.json

Both sides get the same prompts, real histories written as titles, in the same batches. transformers gets
`prefix_allowed_tokens_fn` at its best: a dictionary from each beginning of a title to a ready tensor of the tokens
that may follow. The two alternate in one process, so that whatever else the machine does hits both; the figure is the
median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from pplr.models.decoding import Beams, TitleTrie, beam_search

TITLE_TOKENS = 48
INSTRUCTION = "A customer bought these products, the oldest first. Name the product that comes next.\n"


def main() -> None:
    """Run the benchmark and write its result."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    eos = int(tokenizer.eos_token_id)
    items = pl.read_csv(arguments.items, schema_overrides={arguments.item_column: pl.String})
    titles = [" " + " ".join(title.split()) for title in items[arguments.title_column].to_list()]
    tokens = [ids[:TITLE_TOKENS] for ids in tokenizer(titles, add_special_tokens=False)["input_ids"]]
    started = time.perf_counter()
    trie = TitleTrie(tokens, eos)
    build_seconds = time.perf_counter() - started
    prompts = _prompts(arguments, tokenizer, dict(zip(items[arguments.item_column].to_list(), titles, strict=True)))
    batches = [_padded(prompts[i : i + arguments.batch], eos) for i in range(0, len(prompts), arguments.batch)]
    allowed = _allowed(tokens, eos)
    runs = []
    for round_number in range(arguments.rounds):
        for number, batch in enumerate(batches):
            runs.append({"round": round_number, "batch": number, **_compare(model, batch, trie, allowed, arguments)})
            print(json.dumps(runs[-1]), flush=True)
    result = {
        "benchmark": "beam_search",
        "ratio": statistics.median(run["ratio"] for run in runs),
        "users": len(prompts),
        "titles": len(tokens),
        "trie_nodes": len(trie),
        "trie_build_seconds": build_seconds,
        "beams": arguments.beams,
        "prompt_tokens_mean": float(np.mean([len(prompt) for prompt in prompts])),
        "pplr_users_per_second": statistics.median(run["users"] / run["pplr_seconds"] for run in runs),
        "transformers_users_per_second": statistics.median(run["users"] / run["transformers_seconds"] for run in runs),
        "runs": runs,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['ratio']:.2f} times the throughput of transformers, with equal results")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=Path, required=True, help="CSV of items")
    parser.add_argument("--events", type=Path, required=True, help="CSV of events, sorted by user, then time")
    parser.add_argument("--model", type=Path, required=True, help="folder of a causal language model")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=130, help="histories are cut to about this many tokens")
    parser.add_argument("--item-column", default="item_id")
    parser.add_argument("--title-column", default="title")
    parser.add_argument("--user-column", default="user_id")
    return parser.parse_args()


def _prompts(arguments: argparse.Namespace, tokenizer: Any, titles: dict[str, str]) -> list[list[int]]:
    """Return the prompts of the first users with a history long enough: as many last titles as fit."""
    columns = [arguments.user_column, arguments.item_column]
    events = pl.read_csv(arguments.events, columns=columns, schema_overrides=dict.fromkeys(columns, pl.String))
    histories = events.group_by(arguments.user_column, maintain_order=True).agg(arguments.item_column)
    prompts: list[list[int]] = []
    for history in histories[arguments.item_column].to_list():
        best: list[int] = []
        for start in range(len(history) - 2, -1, -1):
            text = INSTRUCTION + ";".join(titles[item] for item in history[start:-1]) + "\nNext:"
            ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) > arguments.prompt_tokens:
                break
            best = ids
        if len(best) > 0.8 * arguments.prompt_tokens:
            prompts.append(best)
        if len(prompts) == arguments.users:
            break
    return prompts


def _padded(prompts: list[list[int]], filling: int) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[filling] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def _allowed(titles: list[list[int]], eos: int) -> dict[tuple[int, ...], Tensor]:
    following: dict[tuple[int, ...], set[int]] = {}
    for title in titles:
        for position, token in enumerate([*title, eos]):
            following.setdefault(tuple(title[:position]), set()).add(token)
    return {beginning: torch.tensor(sorted(tokens)) for beginning, tokens in following.items()}


def _compare(
    model: Any,
    batch: tuple[Tensor, Tensor],
    trie: TitleTrie,
    allowed: dict[tuple[int, ...], Tensor],
    arguments: argparse.Namespace,
) -> dict[str, float]:
    ids, mask = batch
    started = time.perf_counter()
    ours = beam_search(
        model,
        ids,
        mask,
        beams=arguments.beams,
        max_new_tokens=TITLE_TOKENS + 1,
        eos=trie.eos,
        trie=trie,
        same_weights=True,
    )
    between = time.perf_counter()
    theirs = _transformers(model, ids, mask, allowed, trie.eos, arguments.beams)
    ended = time.perf_counter()
    _check_equal(ours, *theirs)
    seconds = {"pplr_seconds": between - started, "transformers_seconds": ended - between}
    return {"users": len(ids), **seconds, "ratio": seconds["transformers_seconds"] / seconds["pplr_seconds"]}


def _transformers(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    allowed: dict[tuple[int, ...], Tensor],
    eos: int,
    beams: int,
) -> tuple[Tensor, Tensor]:
    prompt = ids.shape[1]
    over = torch.tensor([eos])

    def follow(_: int, tokens: Tensor) -> Tensor:
        return allowed.get(tuple(tokens[prompt:].tolist()), over)

    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        early_stopping=False,
        length_penalty=1.0,
        max_new_tokens=TITLE_TOKENS + 1,
        prefix_allowed_tokens_fn=follow,
        pad_token_id=eos,
        eos_token_id=eos,
        return_dict_in_generate=True,
        output_scores=True,
    )
    return output.sequences[:, prompt:].view(len(ids), beams, -1), output.sequences_scores.view(len(ids), beams)


def _check_equal(ours: Beams, sequences: Tensor, scores: Tensor) -> None:
    """Raise unless both found the same titles in the same order with the same scores, to float32 precision."""
    width = ours.tokens.shape[2]
    if not torch.equal(ours.tokens, sequences[:, :, :width]) or not torch.allclose(
        ours.scores, scores, rtol=1e-4, atol=1e-4
    ):
        raise SystemExit(f"The results differ: {ours.tokens} {ours.scores} against {sequences} {scores}.")


if __name__ == "__main__":
    main()
