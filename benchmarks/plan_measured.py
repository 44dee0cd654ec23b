"""What `pplr plan` foretells beside what is measured: resident memory, bytes of a step, seconds of client and server.

    python benchmarks/plan_measured.py --output benchmarks/results/plan_measured.json

Each measurement has a fresh process: a client with bottom and top, a server with the trunk, or the whole model. All
train the same examples; clients also search titles for 16 users. There is no network between: a client's frames are
written, counted, and come back unchanged, so that its process is all there is. Memory is what Linux calls resident, at
its highest. The 7B-class model is a folder of weights that are a hole in the disk, in bfloat16, loaded and no more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from framed_link import framed_link
from peak_memory import peak_bytes, resident_bytes
from pplr.config import Config, parse_config
from pplr.data import load
from pplr.data.dataset import Dataset, Part
from pplr.models.causal.split import SplitCausal
from pplr.models.generative import GenerativeBackbone
from pplr.models.hub import Kind, ModelFiles, config_folder, load_decoder, load_tokenizer
from pplr.models.hub.parts import load_parts
from pplr.models.layout import Layout
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts import Cut, Which
from pplr.models.parts.passing import PartModel
from pplr.models.settings import GenerativeSettings
from pplr.planning import Asked, Speeds, outline, plan_of
from pplr.planning.document import as_document
from pplr.planning.memory import USERS
from pplr.planning.speed import matmul_rate
from pplr.training import Place, TrainingSettings, train_locally
from pplr.trunk.codecs import codec
from pplr.trunk.fields import Contract, Limits
from pplr.trunk.rows import ServerRows
from pplr.trunk.stub import StubTrunk, Unassigned
from pplr.trunk.work import Manner, States, TrunkWork
from result_file import write_result
from source_data import add_data_options, data_name, data_settings
from sparse_model import llama_7b, write_sparse

SMALL, MOST = 2, {"client_share": 0.45, "large_share": 0.15}
"""The k of which the targets speak, and what they allow."""


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the result file; with `--worker`, be one of the processes and print what it has measured."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _options(given)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.worker:
        print(json.dumps(_worker(options)))
        return
    config = _config(options)
    peak = matmul_rate().per_second
    plan = as_document(plan_of(config, Asked(codec=options.codec, pieces=1), Speeds(peak, peak, 1e9, 0.0)))
    whole = _measured(given, "whole")
    choices = []
    for bottom in options.ks:
        client, server = _measured(given, f"client:{bottom}"), _measured(given, f"server:{bottom}")
        choices.append({"bottom": bottom, "client": client, "server": server, "planned": plan["choices"][bottom]})
        print(f"k = {bottom}: client {client['peak_bytes'] / 1e6:.0f} MB", flush=True)
    other = [*given, "--batch-tokens", str(TrainingSettings().batch_tokens)]
    usual = {what: _measured(other, what)["peak_bytes"] for what in ("whole", f"client:{SMALL}")}
    small = next((choice for choice in choices if choice["bottom"] == SMALL), choices[0])
    figures: dict[str, Any] = {
        "data": data_name(options),
        "model": options.model,
        "codec": options.codec,
        "batch_tokens": options.batch_tokens,
        "examples": options.examples,
        "matmul_peak_gflops": peak / 1e9,
        "runtime_bytes": whole["runtime_bytes"],
        "whole": {**whole, "planned": plan["whole"]},
        "choices": choices,
        "small_bottom": small["bottom"],
        "client_share": small["client"]["peak_bytes"] / whole["peak_bytes"],
        "usual_batch_tokens": TrainingSettings().batch_tokens,
        "usual_peak_bytes": {what.partition(":")[0]: size for what, size in usual.items()},
        "targets": MOST,
    }
    if not options.no_large:
        figures["large"] = _measured(given, f"large:{SMALL}")
        figures["large_share"] = figures["large"]["read_bytes"] / figures["large"]["weights_bytes"]
    write_result(options.output, "plan_measured", figures)


def _measured(given: list[str], what: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *given, "--worker", what]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def _worker(options: argparse.Namespace) -> dict[str, Any]:
    what, _, bottom = options.worker.partition(":")
    cut = Cut(int(bottom or 0))
    if what == "large":
        return _large(cut)
    return _server(options, cut) if what == "server" else _client(options, None if what == "whole" else cut)


def _client(options: argparse.Namespace, cut: Cut | None) -> dict[str, Any]:
    """Train and search with bottom and top, or with the whole model where `cut` is None."""

    config = _config(options)
    dataset = load(config.data, Path()).dataset
    files = _files(options.model)
    tokenizer, link, meter = load_tokenizer(files), None, None
    runtime = resident_bytes()
    if cut is None:
        model: Any = load_decoder(files)[0]
        read = sum(p.nbytes for p in model.parameters())
    else:
        bottom, top = load_parts(files, cut, Which.BOTTOM, Which.TOP)
        unique = {p.data_ptr(): p.nbytes for part in (bottom, top) for p in part.module.parameters()}
        model, read = SplitCausal(PartModel(bottom), Unassigned(), PartModel(top)), sum(unique.values())
    backbone = GenerativeBackbone(_settings(config), dataset.catalogue, model, tokenizer, torch.device("cpu"))
    loaded = resident_bytes()
    if cut is not None:
        width = int(model.config.hidden_size)
        link, meter = framed_link(Contract(width, True, codec(options.codec), 1, Limits()))
        backbone = backbone.behind(StubTrunk(link))
    examples = backbone.examples(dataset.training())
    examples = examples.select(np.random.default_rng(1).permutation(len(examples))[: options.examples])
    row = backbone.layout.initial_row(1)
    wall = time.perf_counter()
    result = train_locally(backbone, row, examples, config.training, Place(1, "client", 1, 0.0), elsewhere=link)
    seconds = time.perf_counter() - wall
    trained, traffic = peak_bytes(), {} if meter is None else meter.totals()
    if options.users:
        _search(backbone, result.row, dataset, options.users)
    return {
        "runtime_bytes": runtime,
        "loaded_bytes": loaded,
        "trained_bytes": trained,
        "peak_bytes": peak_bytes(),
        "weights_bytes": read,
        "steps": result.steps,
        "tokens": result.tokens,
        "step_seconds": seconds / result.steps,
        "traffic": traffic,
        "step_bytes": sum(kind["bytes"] for way in traffic.values() for kind in way.values()) / result.steps,
    }


def _search(backbone: GenerativeBackbone, row: torch.Tensor, dataset: Dataset, users: int) -> None:
    queries = dataset.queries(Part.TEST)
    scorer = backbone.scorer(backbone.layout.views(row))
    scorer.scores(queries.select(np.arange(min(users, len(queries)))))


def _server(options: argparse.Namespace, cut: Cut) -> dict[str, Any]:
    """Pass batches of a typical size through the trunk, forward and backward, and take steps."""
    config = _config(options)
    files = _files(options.model)
    runtime = resident_bytes()
    (part,) = load_parts(files, cut, Which.TRUNK)
    lora = Lora([part], AdapterSettings())
    layout = Layout(lora.specs)
    work = TrunkWork(PartModel(part), lora, ServerRows(layout, ["client"], layout.initial_row(1)))
    loaded = resident_bytes()
    plan = plan_of(config, Asked(codec=options.codec, pieces=1), Speeds(1e9, 1e9, 1e9, 0.0))
    batch, width = plan.batch, plan.outline.width
    work.rows.begin_round(1)
    work.rows.start("client", 1)
    present = torch.ones(batch.rows, batch.length, dtype=torch.bool)
    seconds = []
    for step in range(1, options.server_steps + 1):
        rows, start = torch.randn(batch.rows, batch.length, width), torch.randn(1, batch.start, width)
        given = States(rows, present, start if batch.start else None)
        wall = time.perf_counter()
        behind = work.forward("client", step, given, Manner(causal=True, dropout=step, gradients=True))
        work.backward("client", step, behind)
        work.rows.step("client", step, 1e-4, 1.0)
        seconds.append(time.perf_counter() - wall)
    return {
        "runtime_bytes": runtime,
        "loaded_bytes": loaded,
        "peak_bytes": peak_bytes(),
        "step_seconds": float(np.median(seconds)),
        "tokens_per_step": batch.tokens_behind,
    }


def _large(cut: Cut) -> dict[str, Any]:
    """Load bottom and top of the 7B-class model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        total = write_sparse(llama_7b(), folder)
        foretold = outline(folder, Kind.DECODER, AdapterSettings()).client_parameters(cut)
        before = resident_bytes()
        files = ModelFiles("llama-7b", folder, Kind.DECODER, "")
        parts = load_parts(files, cut, Which.BOTTOM, Which.TOP, dtype=torch.bfloat16)
        read = sum(p.nbytes for part in parts for p in part.module.parameters())
        return {
            "dtype": "bfloat16",
            "weights_bytes": total,
            "read_bytes": read,
            "planned_bytes": 2 * foretold,
            "runtime_bytes": before,
            "loaded_bytes": resident_bytes(),
            "peak_bytes": peak_bytes(),
        }


def _config(options: argparse.Namespace) -> Config:
    return parse_config(
        {
            "data": data_settings(options).model_dump(),
            "backbone": {"kind": "generative", "model": options.model, "examples": "last"},
            "training": {"epochs": 1, "learning_rate": 1e-4, "batch_tokens": options.batch_tokens},
        },
        Path(),
    )


def _settings(config: Config) -> GenerativeSettings:
    if not isinstance(config.backbone, GenerativeSettings):
        raise TypeError("The benchmark is about the generative backbone.")
    return config.backbone


def _files(model: str) -> ModelFiles:
    folder, kind = config_folder(model)
    return ModelFiles(model, folder, kind, "")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--ks", type=int, nargs="+", default=[0, SMALL, 8, 16])
    parser.add_argument("--codec", default="bfloat16")
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--examples", type=int, default=64, help="training examples")
    parser.add_argument("--users", type=int, default=USERS, help="users whose titles are searched")
    parser.add_argument("--server-steps", type=int, default=8)
    parser.add_argument("--no-large", action="store_true", help="leave the 7B-class model out")
    parser.add_argument("--threads", type=int, help="CPU threads; absent: torch's choice")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
