"""Training of the generative backbone against Hugging Face's Trainer with PEFT: examples per second.

    python benchmarks/training_throughput.py --output benchmarks/results/training_throughput.json \\
        --events interactions.csv.gz --items items.csv.gz --split global-time

Both train the same examples from the same model, in float32, with LoRA of the same rank, scale and dropout, AdamW, and
as many examples per step on average. Theirs: random order, padding to the longest of the batch, logits everywhere. Ours
is `train_locally` as a federation calls it. One epoch of the one and one of the other alternate in the same process,
after a warm-up of each; the ratio is that of the medians.

On a busy machine take `--threads 1` and look at CPU seconds: threads that wait for each other spend time on nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peft_trainer import PeftTraining, tokenised
from pplr.data.dataset import Ints
from pplr.models.batching import shuffled_batches
from pplr.models.generative import GenerativeBackbone, TitleExamples
from pplr.models.hub import load_decoder, resolve
from pplr.models.settings import GenerativeSettings
from pplr.planning.flops import head, together
from pplr.planning.outline import outlined
from pplr.planning.speed import Rate, best, matmul_rate
from pplr.training import Place, TrainingSettings, mean_loss, train_locally
from result_file import summary, write_result
from source_data import add_data_options, data_name, load_data

RATE = 1e-4


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the result file."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    files = resolve(options.model)
    catalogue_data = load_data(options)
    model, tokenizer = load_decoder(files)
    settings = GenerativeSettings(model=options.model, examples="last")
    backbone = GenerativeBackbone(settings, catalogue_data.catalogue, model, tokenizer, torch.device("cpu"))
    examples = _sampled(backbone.examples(catalogue_data.training()), options.examples)
    theirs = PeftTraining(
        load_decoder(files)[0],
        rank=settings.adapter.rank,
        scale=int(settings.adapter.scale),
        dropout=settings.adapter.dropout,
        targets=backbone.lora.settings.targets,
    )
    rows = tokenised(backbone, examples)
    batch_tokens = tokens_per_batch(examples.lengths, options.batch)
    training = TrainingSettings(epochs=1, learning_rate=RATE, batch_tokens=batch_tokens, schedule="constant")
    start = backbone.layout.initial_row(1)
    few = examples.select(np.arange(min(options.batch, len(examples))))
    agreement = _losses(backbone, start, few, theirs, rows[: len(few)])
    peaks, ours_runs, their_runs = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        train_locally(backbone, start, few, training, Place(1, "warm-up", 1, 0.0))
        theirs.epoch(rows[: len(few)], batch=options.batch, rate=RATE, seed=0, work=Path(folder))
        for repeat in range(1, options.repeats + 1):
            peaks.append(matmul_rate())
            their_runs.append(theirs.epoch(rows, batch=options.batch, rate=RATE, seed=repeat, work=Path(folder)))
            wall, cpu = time.perf_counter(), time.process_time()
            steps = train_locally(backbone, start, examples, training, Place(1, "ours", repeat, 0.0)).steps
            ours_runs.append((time.perf_counter() - wall, time.process_time() - cpu, steps))
            print(f"repeat {repeat}: theirs {their_runs[-1][0]:.1f} s, ours {ours_runs[-1][0]:.1f} s", flush=True)
    flops = useful_flops(model, examples.lengths, sum(len(backbone.titles[i]) for i in examples.targets))
    peak = best(peaks)
    count = len(examples)
    figures: dict[str, Any] = {
        "data": data_name(options),
        "model": options.model,
        "examples": count,
        "repeats": options.repeats,
        "tokens_per_example": float(examples.lengths.mean()),
        "loss_before": agreement,
        "matmul_peak_gflops": peak.per_second / 1e9,
        "useful_flops_per_example": flops / count,
        "ours": _figures(count, flops, peak, [run[:2] for run in ours_runs]),
        "theirs": _figures(count, flops, peak, [run[:2] for run in their_runs]),
        "ours_examples_per_step": count / float(np.mean([run[2] for run in ours_runs])),
        "theirs_examples_per_step": options.batch,
        "theirs_padded_tokens_per_example": float(np.mean([run[2] for run in their_runs])) / count,
    }
    figures["ratio"] = figures["ours"]["examples_per_second"] / figures["theirs"]["examples_per_second"]
    figures["ratio_of_cpu_seconds"] = figures["theirs"]["cpu_seconds"] / figures["ours"]["cpu_seconds"]
    figures["target"] = 1.6
    write_result(options.output, "training_throughput", figures)


def useful_flops(model: Any, lengths: Ints, logits: int) -> float:
    """Return the operations of a step over examples of `lengths` tokens, with `logits` positions; no adapters."""
    found = outlined(model)
    shape = together(layer.shape for layer in found.layers)
    tokens, pairs = float(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum()) / 2
    return shape.forward(tokens, pairs) + shape.backward(tokens, pairs) + 2 * head(found.head, logits)


def tokens_per_batch(lengths: Ints, examples: int) -> int:
    """Return the tokens per batch, padding included, at which batches hold `examples` examples on average."""
    steps = -(-len(lengths) // examples)
    tokens = int(lengths.max())
    while len(shuffled_batches(lengths, tokens, None, np.random.default_rng(0))) > steps:
        tokens = int(tokens * 1.01) + 1
    return tokens


def _figures(examples: int, flops: float, peak: Rate, runs: list[tuple[float, float]]) -> dict[str, Any]:
    wall = summary([seconds for seconds, _ in runs])
    cpu = summary([seconds for _, seconds in runs])["median"]
    return {
        "seconds": wall,
        "examples_per_second": examples / wall["median"],
        "cpu_seconds": cpu,
        "share_of_matmul_peak": flops / wall["median"] / peak.per_second,
        "share_of_matmul_peak_in_cpu_time": flops / cpu / peak.per_cpu_second,
    }


def _losses(
    backbone: GenerativeBackbone, row: torch.Tensor, examples: TitleExamples, theirs: PeftTraining, rows: list[Any]
) -> dict[str, float]:
    """Return the loss of the untrained model on the same examples by both ways: proof that the task is the same."""
    ours, _ = mean_loss(backbone, backbone.layout.views(row), None, examples, batch_tokens=10**6)
    return {"ours": ours, "theirs": theirs.loss(rows)}


def _sampled(examples: TitleExamples, count: int) -> TitleExamples:
    chosen = np.random.default_rng(1).permutation(len(examples))[:count]
    return examples.select(np.sort(chosen).astype(np.int64))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8, help="examples per step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads; absent: torch's choice")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
