"""The page docs/benchmarks.md, made from the result files.

python benchmarks/report.py [--results benchmarks/results] [--page docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import silo_sections
import trunk_sections
from page_parts import percent, table, times, with_error

HERE = Path(__file__).parent
Result = dict[str, Any]
INTRODUCTION = """# Benchmarks

What the program costs in time and memory, each figure from a script in `benchmarks/` that anybody can run again. This
page is made from their result files: `make bench` runs them, `python benchmarks/report.py` writes the page.

Two methods that are compared run in turn in one process, on the same data and the same number of threads; a ratio is
one of medians. So what else the machine does hits both, and ratios mean more than seconds do. CPU time counts only what
a process itself used. How good the recommendations are is another question: see [results](results.md).
"""


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of result files")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    options = parser.parse_args(arguments)
    options.page.write_text(page(read_results(options.results)), encoding="utf-8")


def read_results(folder: Path) -> dict[str, Result]:
    """Return the result files in `folder`, by the name of their benchmark."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return {result["benchmark"]: result for result in results}


def page(results: dict[str, Result]) -> str:
    """Return the page; a benchmark without a result is said to have none."""
    parts = [INTRODUCTION, _overview(results)]
    for name, (title, section) in SECTIONS.items():
        parts.append(f"## {title}\n")
        if name in results:
            parts += [section(results[name]), _where(results[name])]
        else:
            parts.append(f"Not measured yet: `benchmarks/{name}.py`.\n")
    return "\n".join(parts)


def _overview(results: dict[str, Result]) -> str:
    rows = []
    for name, what, key, target, least in TARGETS:
        if name in results:
            value = _figure(results[name], key)
            met = value >= target if least else value <= target
            shown = percent if key.endswith("share") else times
            bound = f"{'at least' if least else 'at most'} {shown(target)}"
            rows.append([what, shown(value), bound, "met" if met else "missed"])
    return table(["", "measured", "target", ""], rows) if rows else ""


def _figure(result: Result, key: str) -> float:
    """Return the figure under a key, or under `section.key`."""
    section, _, name = key.rpartition(".")
    return float((result[section] if section else result)[name])


def _training_throughput(r: Result) -> str:
    rows = [
        [
            name,
            f"{r[key]['examples_per_second']:.2f}",
            f"{r[key]['seconds']['median']:.0f} ({r[key]['seconds']['min']:.0f} to {r[key]['seconds']['max']:.0f})",
            f"{r[key]['cpu_seconds']:.0f}",
            percent(r[key]["share_of_matmul_peak"]),
            percent(r[key]["share_of_matmul_peak_in_cpu_time"]),
        ]
        for name, key in (("pplr", "ours"), ("Trainer + PEFT", "theirs"))
    ]
    head = ["", "examples/s", "seconds an epoch (range)", "CPU seconds", "useful share of peak", "in CPU time"]
    measured = table(head, rows)
    return (
        f"{r['model']} with LoRA on queries and values, float32, {r['examples']} examples of {r['data']} "
        f"({r['tokens_per_example']:.0f} tokens each), {r['theirs_examples_per_step']} examples per step "
        f"({r['ours_examples_per_step']:.1f} on average for pplr), {r['repeats']} epochs each in turn after a warm-up. "
        f"The ratio is **{times(r['ratio'])}** in wall time, and {times(r['ratio_of_cpu_seconds'])} in CPU time. "
        f"Before training both measure the same loss: {r['loss_before']['ours']:.5f} and "
        f"{r['loss_before']['theirs']:.5f}.\n\n{measured}\n"
        "Where it comes from: the start that all prompts of a batch share is read once, logits are computed at target "
        "tokens only, batches hold texts of similar length, and attention needs no mask. "
        f"Trainer + PEFT reads {r['theirs_padded_tokens_per_example']:.0f} tokens an example with its padding.\n\n"
        f"The share counts useful operations alone, {r['useful_flops_per_example'] / 1e9:.0f} GFLOP an example for "
        "both: 4 N per token of an example (2 N forward, 2 N backward to the activations; N weights of the blocks' "
        "linear maps), causal attention, the head forward and backward at target positions, no padding. It is over the "
        f"best rate of a float32 matrix product in the same process, {r['matmul_peak_gflops']:.0f} GFLOP/s. Reading a "
        "shared start once saves operations that are counted all the same, so the share could pass 100%.\n"
    )


def _aggregation(r: Result) -> str:
    rows = [
        [name, f"{r['seconds'][key]['median']:.1f}", f"{r['extra_bytes'][key] / 1e6:,.0f}"]
        for name, key in (
            ("theta @ theta.T", "bare gram"),
            ("`gram`", "gram"),
            ("D @ theta", "bare mix"),
            ("`mix_`", "mix"),
        )
    ]
    return (
        f"{r['clients']:,} clients of {r['parameters']:,} parameters, a bank of {r['bank_bytes'] / 1e9:.1f} GB. "
        f"Comparing and mixing all rows takes **{times(r['ratio'])}** the time of the two bare products "
        f"({times(r['ratio_of_cpu_seconds'])} in CPU time). The bank's own memory is reused: the bare product needs "
        "a second bank.\n\n" + table(["", "seconds", "extra memory (MB)"], rows)
    )


def _memory(r: Result) -> str:
    rows = [[clients, f"{peak / 1e6:,.0f}"] for clients, peak in r["peak_bytes"].items()]
    row = r["runs"]["5"][0]["row_bytes"]
    return (
        f"Peak resident memory of a whole federation in one process, {r['model']} as generative backbone, "
        f"{r['examples_per_client']} training examples per client. Five clients take **{times(r['ratio'])}** the "
        f"memory of one: the model is there once, and a client is a row of {row / 1e6:.1f} MB and some copies.\n\n"
        + table(["clients", "peak (MB)"], rows)
    )


def _engine_overhead(r: Result) -> str:
    phases = ("encode", "forward", "backward", "optimiser", "evaluation", "overhead", "total")
    rows = [
        [name, *(f"{figures[phase]:.2f}" for phase in phases), percent(figures["overhead_share"])]
        for name, figures in r["backbones"].items()
    ]
    return (
        f"Five clients, {r['rounds']} rounds, {r['data']}. Overhead is what is left of the rounds' wall time without "
        "the clients' training and evaluation: coordinator, engine, mixing, and a checkpoint after each round.\n\n"
        + table(["backbone", *(f"{phase} (s)" for phase in phases), "overhead"], rows)
    )


def _sequence_speed(r: Result) -> str:
    seconds = r["seconds_per_epoch"]
    phases = {name: value for name, value in r["phases"].items() if name != "total"}
    rows = [[name, f"{value:.2f}", percent(value / r["phases"]["total"])] for name, value in phases.items()]
    return (
        f"One client with all of {r['data']}: {r['events']:,} events, {r['items']:,} items, {r['steps']} steps. "
        f"An epoch takes **{seconds['median']:.1f} s** ({seconds['min']:.1f} to {seconds['max']:.1f}), "
        f"{r['events_per_second']:,.0f} events a second, {percent(r['share_of_matmul_peak'])} of the best rate of "
        f"a matrix product ({r['matmul_peak_gflops']:.0f} GFLOP/s), "
        f"{percent(r['share_of_matmul_peak_in_cpu_time'])} in CPU time. Forward includes the gradients of the logits, which are "
        "not kept.\n\n" + table(["phase", "seconds", "share"], rows)
    )


def _precision(r: Result) -> str:
    rows = [
        [
            name,
            f"{run['items']:,}",
            f"{run['times_as_fast_in_cpu_time']:.1f} ({run['times_as_fast']:.1f})",
            f"{run['matmul_ratio']:.1f}",
            *(f"{run['loss_of_each_epoch'][precision][1]:.4f}" for precision in ("float32", "bfloat16")),
        ]
        for name, run in r["runs"].items()
    ]
    head = ["data, backbone", "items", "times as fast in CPU time (wall)", "a matrix product alone"]
    return (
        "`backbone.precision = 'bfloat16'` against float32: local training of one client, by turns in one process, one thread. "
        "Losses are of the second epoch from the same start.\n\n" + table([*head, "loss, float32", "bfloat16"], rows)
    )


def _item_vectors(r: Result) -> str:
    rows = [
        [
            f"`{strategy}`",
            f"{run['nothing kept']['encodings']}",
            f"{run['kept']['encodings']}",
            f"{run['nothing kept']['cpu_seconds']:.0f}",
            f"{run['kept']['cpu_seconds']:.0f}",
            f"{run['times_as_fast_in_cpu_time']:.1f}",
        ]
        for strategy, run in r["runs"].items()
    ]
    sample = r["sample"]
    head = ["strategy", "encodings, nothing kept", "kept", "CPU seconds, nothing kept", "kept", "times as fast"]
    return (
        "The encoder reads the whole catalogue for each row that it trains from, validates, tests or recommends with. The vectors "
        "of each row that a client of the process asked about last are kept: whoever asks about the same adapters next gets them. "
        f"{sample['rounds']} rounds on MovieTweetings, {sample['examples']} training examples in all and {sample['users']} users of each of "
        "five clients; all figures are equal. With more examples training is a larger part, and what is saved a smaller one.\n\n"
        + table(head, rows)
    )


def _beam_search(r: Result) -> str:
    rows = [
        ["pplr", f"{r['pplr_users_per_second']:.2f}"],
        ["transformers `generate`", f"{r['transformers_users_per_second']:.2f}"],
    ]
    return (
        f"{r['beams']} beams over {r['titles']:,} titles, {r['users']} users, prompts of {r['prompt_tokens_mean']:.0f} "
        "tokens, against `prefix_allowed_tokens_fn` with ready tensors. The beams and their scores are equal. Ratio: "
        f"**{times(r['ratio'])}**.\n\n" + table(["", "users/s"], rows)
    )


def _plan_measured(r: Result) -> str:
    def pair(measured: float, planned: float, form: str) -> str:
        return f"{measured:{form}} ({planned:{form}})"

    whole, usual = r["whole"], r["usual_peak_bytes"]
    rows = []
    for choice in r["choices"]:
        client, server, planned = choice["client"], choice["server"], choice["planned"]
        time = planned["step_seconds"]
        rows.append(
            [
                str(choice["bottom"]),
                pair(client["weights_bytes"] / 1e6, planned["client"]["memory"]["weights"] / 1e6, ",.0f"),
                pair(client["peak_bytes"] / 1e6, planned["client"]["memory"]["total"] / 1e6, ",.0f"),
                pair(server["peak_bytes"] / 1e6, planned["server"]["memory"]["total"] / 1e6, ",.0f"),
                pair(client["step_bytes"] / 1e6, planned["step_bytes"]["total"] / 1e6, ".2f"),
                pair(client["step_seconds"], time["client"], ".2f"),
                pair(server["step_seconds"], time["server"], ".2f"),
            ]
        )
    rows.append(
        [
            "all",
            pair(whole["weights_bytes"] / 1e6, whole["planned"]["memory"]["weights"] / 1e6, ",.0f"),
            pair(whole["peak_bytes"] / 1e6, whole["planned"]["memory"]["total"] / 1e6, ",.0f"),
            "",
            "",
            pair(whole["step_seconds"], whole["planned"]["seconds"], ".2f"),
            "",
        ]
    )
    head = ["k", "client's weights (MB)", "client's peak (MB)", "server's peak (MB)", "bytes a step (MB)"]
    text = (
        f"What `pplr plan` foretells stands in brackets behind what was measured: {r['model']}, {r['codec']}, batches of "
        f"{r['batch_tokens']:,} tokens, {r['examples']} examples of {r['data']}. Each process is a fresh one: a client "
        "with bottom and top, whose frames are written, counted and come back unchanged; a server with the trunk; the "
        f"whole model. A client with k = {r['small_bottom']} takes **{percent(r['client_share'])}** of the memory of the "
        f"whole model's process; {r['runtime_bytes'] / 1e6:,.0f} MB of either are Python and its libraries, so with smaller "
        f"batches the share is larger: {percent(usual['client'] / usual['whole'])} at {r['usual_batch_tokens']:,} tokens "
        f"({usual['client'] / 1e6:,.0f} of {usual['whole'] / 1e6:,.0f} MB). A plan "
        "counts full batches of equal texts, so it foretells more bytes a step than batches of mixed lengths have.\n\n"
        + table([*head, "client (s)", "server (s)"], rows)
    )
    if "large" not in r:
        return text
    large = r["large"]
    return text + (
        f"\nOf a 7B-class Llama ({large['weights_bytes'] / 1e9:.1f} GB in {large['dtype']}) a client with k = "
        f"{r['small_bottom']} loads {large['read_bytes'] / 1e9:.2f} GB, **{percent(r['large_share'])}** of the weights "
        f"(planned: {large['planned_bytes'] / 1e9:.2f} GB); its process grows from {large['runtime_bytes'] / 1e6:,.0f} to "
        f"{large['peak_bytes'] / 1e6:,.0f} MB.\n"
    )


def _paper_scale(r: Result) -> str:
    names = list(r["examples"])
    rows = [["0", "", *(f"{r['validation_loss_before'][name]:.3f}" for name in names)]]
    for record in r["rounds"]:
        losses = [record["clients"][name]["validation_loss"] for name in names]
        shown = ["" if loss is None else f"{loss:.3f}" for loss in losses]
        rows.append([str(record["round"]), f"{record['seconds']['total']:.0f}", *shown])
    return (
        f"The generative backbone at the paper's scale: {len(names)} clients, {sum(r['examples'].values()):,} training "
        "examples. Validation loss per target token, before training and after each round.\n\n"
        + table(["round", "seconds", *names], rows)
    )


def _hidden_states(r: Result) -> str:
    parts = [
        f"`pplr audit hidden-states` on {r['histories']} held-out histories of {r['data']}, attacks having learned from "
        f"{r['public']} histories of other people and the catalogue, {r['codec']} states. What the figures mean, and what "
        "they do not cover: [Audit](audit.md). Shares of the titles that were recovered exactly, with one standard error; in "
        "the last two columns the best attack's share of tokens, and its ROUGE-L.\n"
    ]
    for model in dict.fromkeys(run["model"] for run in r["runs"]):
        runs = [run for run in r["runs"] if run["model"] == model]
        names = list(runs[0]["figures"])
        head = ["k", *names, "tokens", "ROUGE-L"]
        rows = [
            [
                str(run["bottom"]),
                *(with_error(run["figures"][name]["titles"]) for name in names),
                with_error(run["figures"][run["best"]]["tokens"]),
                f"{run['figures'][run['best']]['rouge_l']['value']:.3f}",
            ]
            for run in runs
        ]
        parts.append(f"{model}, {runs[0]['layers']} layers:\n\n{table(head, rows)}")
    return "\n".join(parts)


def _where(r: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in r.get("versions", {}).items())
    facts = [
        r.get("processor", ""),
        f"{r['threads']} threads" if "threads" in r else "",
        versions or f"torch {r.get('torch', '')}",
        f"load of the machine {r['load']}" if "load" in r else "",
        r.get("date", "")[:10],
        f"commit {r['commit']}" if r.get("commit") else "",
    ]
    return "*" + "; ".join(fact for fact in facts if fact) + ".*\n"


def _catalogue_vectors(r: Result) -> str:
    rows = [
        [
            name,
            f"{r[key]['bytes'] / 1e6:.2f}",
            f"{r[key]['packed_bytes'] / 1e6:.2f} ({percent(r[key]['share'])})",
            f"{r[key]['pack_seconds']:.2f}",
            f"{r[key]['unpack_seconds']:.2f}",
        ]
        for key, name in (
            ("vectors", "vectors of all items, down"),
            ("gradient", "gradient by all vectors, up"),
            ("adapters", "adapters, up and down"),
        )
    ]
    return (
        f"{r['items']:,} items of {r['data']}, read by {r['model']} ({r['width']} numbers an item). Without adapters a client fetches the "
        "vectors once; with adapters that learn once a round, all of the table travels in each round. Nothing is rounded. The server reads "
        f"all items in {r['encode_seconds']['median']:.0f} s, and trains one client's adapters along its gradient in "
        f"{r['learn_seconds']['median']:.0f} s.\n\n"
        + table(["", "MB", "MB as it travels", "seconds to pack", "to unpack"], rows)
    )


SECTIONS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "training_throughput": ("Training the generative backbone", _training_throughput),
    "sequence_speed": ("Training the sequence backbone", _sequence_speed),
    "precision": ("Training with products in bfloat16", _precision),
    "item_vectors": ("Item vectors that are not encoded again", _item_vectors),
    "memory": ("Memory of more clients", _memory),
    "engine_overhead": ("Overhead of the engine", _engine_overhead),
    "aggregation": ("Comparing and mixing many clients", _aggregation),
    "beam_search": ("Catalogue-constrained beam search", _beam_search),
    "plan_measured": ("What a plan foretells, and what was measured", _plan_measured),
    "trunk_training": ("Training through a trunk's server", trunk_sections.training),
    "codec_quality": ("What codecs cost in quality", trunk_sections.codecs),
    "split_costs": ("What each k and codec costs", trunk_sections.costs),
    "trunk_soak": ("A trunk's server among clients that are killed", trunk_sections.soak),
    "trunk_fuzz": ("A trunk's server among frames that are wrong", trunk_sections.fuzz),
    "flower_round": ("A round over the network", silo_sections.network_round),
    "many_silos": ("A thousand silos through the coordinator", silo_sections.many_silos),
    "ray_silos": ("Two hundred silos on Ray's workers", silo_sections.ray_silos),
    "fuzzed_messages": ("A coordinator among messages that are spoilt", silo_sections.fuzzed_messages),
    "killed_processes": ("Processes of a federation that are killed", silo_sections.killed_processes),
    "catalogue_vectors": ("Item vectors from a server", _catalogue_vectors),
    "paper_scale": ("Training at the paper's scale", _paper_scale),
    "hidden_states": ("Reading histories from hidden states", _hidden_states),
}
TARGETS: tuple[tuple[str, str, str, float, bool], ...] = (
    ("training_throughput", "training throughput against Trainer + PEFT", "ratio", 1.6, True),
    ("memory", "memory of five clients against one", "ratio", 1.25, False),
    ("engine_overhead", "share of a round outside training and evaluation", "overhead_share", 0.03, False),
    ("aggregation", "time of aggregation against two bare products", "ratio", 1.3, False),
    ("beam_search", "beam search against transformers", "ratio", 4.0, True),
    ("plan_measured", "memory of a client with k = 2 against the whole model's process", "client_share", 0.45, False),
    (
        "trunk_training",
        "time of one client through the trunk's server against the whole model",
        "split_over_whole",
        1.15,
        False,
    ),
    (
        "trunk_training",
        "samples per second of clients at once against one after another, CPU",
        "at_once_speedup",
        1.0,
        True,
    ),
    ("flower_round", "time of a network round against bare Flower", "ratio", 1.3, False),
    ("trunk_soak", "growth of the trunk's server among clients that are killed", "memory.growth_share", 0.05, False),
)
"""Benchmark, what it says, its key in the result file (or section.key), the target, and whether that is the least (else the most)."""


if __name__ == "__main__":
    main()
