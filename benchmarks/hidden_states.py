"""How much of the histories the trunk's server can read, for every number k of layers that stay with the client.

    python benchmarks/hidden_states.py --output benchmarks/results/hidden_states.json

Runs the attacks of `pplr audit hidden-states` on the demo data, writes the result after every k, and skips what the
result file has already; about two minutes per k on one core. `pplr plan` shows what `--measured` is given.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pplr.audit.observed import behind
from pplr.audit.run import Auditor, AuditSettings, check_bottom
from pplr.data.dataset import Dataset
from pplr.models.hub import ModelFiles, resolve
from pplr.models.hub.parts import load_parts
from pplr.models.parts import Cut, Which
from pplr.models.parts.passing import PartModel
from result_file import write_result
from source_data import add_data_options, data_name, load_data

PLAN = {"smollm2-135m": (0, 1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28), "minilm": (0, 1, 2, 3, 4)}
MEASURED = Path(__file__).parent.parent / "src" / "pplr" / "audit" / "measured.json"


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and write the result file and the table of the best attacks."""
    options = _options(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    plan = {model: tuple(options.k or PLAN.get(model, (0, 1, 2))) for model in options.model or PLAN}
    data = load_data(options)
    fixed = {"histories": options.histories, "public": options.public, "codec": options.codec, "seed": options.seed}
    runs = _earlier(options.output, {"data": data_name(options), **fixed})
    for model, ks in plan.items():
        missing = sorted(set(ks) - {run["bottom"] for run in runs if run["model"] == model})
        for run in _measured(resolve(model), data, missing, fixed):
            runs = sorted([*runs, run], key=lambda r: (r["model"], r["bottom"]))
            write_result(options.output, "hidden_states", {"data": data_name(options), **fixed, "runs": runs})
    options.measured.write_text(json.dumps(best_attacks(runs), indent=1) + "\n", encoding="utf-8")


def best_attacks(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return model -> k -> what the best attack recovered: the table that comes with the package."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        best = run["figures"][run["best"]]
        values = {key: round(best[key]["value"], 4) for key in ("tokens", "titles", "rouge_l")}
        table.setdefault(run["model"], {})[str(run["bottom"])] = {"attack": run["best"], **values}
    return table


def _measured(files: ModelFiles, data: Dataset, ks: list[int], fixed: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the report of each k; every layer is passed once, since states behind k layers lead to those behind more."""
    if not ks:
        return
    for k in ks:
        check_bottom(files, k)
    auditor = Auditor(files, data, None, AuditSettings(bottom=ks[0], **fixed))
    held: list[Tensor] = auditor.held_ids
    public: list[Tensor] = auditor.public_ids
    at = None
    for k in ks:
        started = time.perf_counter()
        if at is None:
            (part,) = load_parts(files, Cut(k), Which.BOTTOM)
        else:
            (part,) = load_parts(files, Cut(at, auditor.layers - k), Which.TRUNK)
        held, public, at = behind(PartModel(part), held), behind(PartModel(part), public), k
        report = auditor.report(held, public, AuditSettings(bottom=k, **fixed), _tell).as_json()
        del report["examples"]
        figures = {figures.pop("name"): figures for figures in report.pop("figures")}
        yield {**report, "figures": figures, "seconds": round(time.perf_counter() - started, 1)}


def _earlier(path: Path, same: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs in a result file that was made with the same settings."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return list(found["runs"]) if all(found[key] == value for key, value in same.items()) else []


def _tell(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--model", action="append", help="a model; repeat it for more; absent: those of the plan")
    parser.add_argument("--k", type=int, action="append", help="a k; repeat it for more; absent: those of the plan")
    parser.add_argument("--histories", type=int, default=300, help="held-out histories")
    parser.add_argument("--public", type=int, default=700, help="histories of others that attacks learn from")
    parser.add_argument("--codec", default="float32", help="how states travel")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="CPU threads; absent: torch's choice")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="table of the best attacks to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
