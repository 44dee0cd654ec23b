"""What the demos of the encoder and the generative backbone reach, beside the simple baselines.

    python benchmarks/demo_backbones.py --work FOLDER

Writes benchmarks/results/demo_backbones.json. FOLDER may be the one that `pplr demo --backbone encoder --out FOLDER` and
`pplr demo --backbone generative --out FOLDER` wrote: runs that are there are not repeated. Else about an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pplr.config_template import BackboneName
from pplr.demo import StrategyName, demo_config
from pplr.runner import run
from result_file import write_result

BACKBONES: tuple[BackboneName, ...] = ("encoder", "generative")
STRATEGIES: tuple[StrategyName, ...] = ("pplr", "local")


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the run folders")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "demo_backbones.json")
    options = parser.parse_args()
    runs = [measured(options.work, backbone, strategy) for backbone in BACKBONES for strategy in STRATEGIES]
    write_result(options.output, "demo_backbones", {"runs": runs})


def measured(work: Path, backbone: BackboneName, strategy: StrategyName) -> dict[str, Any]:
    """Return the figures of one run, from its folder if it is there."""
    config = demo_config(backbone, strategy, fusion=False)
    path = work / config.name / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else run(config, path.parent).metrics
    kept = {name: metrics[name] for name in ("backbone", "strategy", "seed", "overall", "stopped", "cost")}
    rounds = [
        {"score": record["score"], "losses": {name: c["validation_loss"] for name, c in record["clients"].items()}}
        for record in metrics["rounds"]
    ]
    return kept | {"rounds": rounds, "baselines": {n: b["overall"] for n, b in metrics["baselines"].items()}}


if __name__ == "__main__":
    main()
