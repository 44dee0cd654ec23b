"""Throughput of catalogue-constrained beam search against transformers' `generate`, with the same results.

    python benchmarks/beam_search.py --output benchmarks/results/beam_search.json \\
        --events interactions.csv.gz --items items.csv.gz

Both sides get the same prompts, those of real test histories, in the same batches. transformers gets
`prefix_allowed_tokens_fn` at its best: a dictionary from each beginning of a title to a ready tensor of the tokens
that may follow. The two alternate in one process, so that whatever else the machine does hits both; the figure is the
median of the ratios of neighbours. Unequal results are an error.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
import transformers
from torch import Tensor

from pplr.data.dataset import Part
from pplr.models.decoding import Beams, TitleTrie, beam_search
from pplr.models.generative import GenerativeBackbone
from pplr.models.hub import load_decoder, resolve
from pplr.models.settings import GenerativeSettings
from result_file import write_result
from source_data import add_data_options, data_name, load_data


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the result file."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    data = load_data(options)
    model, tokenizer = load_decoder(resolve(options.model))
    settings = GenerativeSettings(model=options.model, beams=options.beams)
    backbone = GenerativeBackbone(settings, data.catalogue, model, tokenizer, torch.device("cpu"))
    started = time.perf_counter()
    trie = backbone.trie
    build_seconds = time.perf_counter() - started
    histories = list(data.queries(Part.TEST).histories)[: options.users]
    prompts = [len(backbone.prompts.prompt(history)) for history in histories]
    batches = [
        backbone.prompt_batch(histories[start : start + options.batch])
        for start in range(0, len(histories), options.batch)
    ]
    longest = settings.title_tokens + 1
    allowed = _allowed(backbone.titles)
    runs = []
    for _ in range(options.repeats):
        runs += [_compare(model, batch, trie, allowed, options.beams, longest) for batch in batches]
    figures = {
        "ratio": statistics.median(run["ratio"] for run in runs),
        "pplr_users_per_second": statistics.median(run["users"] / run["pplr_seconds"] for run in runs),
        "transformers_users_per_second": statistics.median(run["users"] / run["transformers_seconds"] for run in runs),
        "model": options.model,
        "data": data_name(options),
        "users": len(histories),
        "titles": len(backbone.titles),
        "trie_nodes": len(trie),
        "trie_build_seconds": build_seconds,
        "beams": options.beams,
        "batch": options.batch,
        "prompt_tokens_mean": sum(prompts) / len(prompts),
        "runs": runs,
    }
    write_result(options.output, "beam_search", figures)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16, help="users per batch")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads; absent: torch's choice")
    return parser.parse_args(arguments)


def _allowed(titles: list[list[int]]) -> dict[tuple[int, ...], Tensor]:
    """Return the tokens that may follow each beginning of a title; a title ends in its end token."""
    following: dict[tuple[int, ...], set[int]] = {}
    for title in titles:
        for position, token in enumerate(title):
            following.setdefault(tuple(title[:position]), set()).add(token)
    return {beginning: torch.tensor(sorted(tokens)) for beginning, tokens in following.items()}


def _compare(
    model: Any,
    batch: tuple[Tensor, Tensor],
    trie: TitleTrie,
    allowed: dict[tuple[int, ...], Tensor],
    beams: int,
    longest: int,
) -> dict[str, float]:
    """Return the seconds of both searches over one batch."""
    ids, mask = batch
    started = time.perf_counter()
    ours = beam_search(
        model, ids, mask, beams=beams, max_new_tokens=longest, eos=trie.eos, trie=trie, same_weights=True
    )
    between = time.perf_counter()
    theirs = _transformers(model, ids, mask, allowed, trie.eos, beams, longest)
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
    longest: int,
) -> tuple[Tensor, Tensor]:
    """Return the tokens [batch, beams, length] and scores [batch, beams] that `generate` finds."""
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
        max_new_tokens=longest,
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
