"""What codecs cost in quality: the same federated runs through a trunk's server, with each codec.

    python benchmarks/codec_quality.py --output benchmarks/results/codec_quality.json --work FOLDER --retail FOLDER

Encoder backbone (MiniLM), k = 2, on MovieTweetings and on UCI Online Retail (`--retail`, a folder with
`interactions.csv.gz` and `items.csv.gz`). States and gradients travel in the codec in training, validation and test. The
relative difference of test NDCG@10 to float32 comes with a paired bootstrap interval over users. Runs that are in `--work`
already are not repeated; about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pplr.config import Config, config_toml, parse_config
from pplr.runner import run
from result_file import write_result
from trunk_server import Server, make_certificates

CODECS = ("float32", "bfloat16", "int8")
CLIENTS = tuple(f"client-{number}" for number in range(5))


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing and write the result file."""
    options = _options(arguments)
    data: dict[str, dict[str, Any]] = {"movietweetings (demo)": {"demo": "movietweetings"}}
    if options.retail is not None:
        data["uci-online-retail"] = {
            "events": str(options.retail / "interactions.csv.gz"),
            "items": str(options.retail / "items.csv.gz"),
        }
    results = {name: _compared(options, name, section) for name, section in data.items()}
    write_result(options.output, "codec_quality", {"bottom": 2, "target": 0.01, "data": results})


def _compared(options: argparse.Namespace, name: str, section: dict[str, Any]) -> dict[str, Any]:
    tables, wires = {}, {}
    for codec in CODECS:
        folder = options.work / f"{name.split(maxsplit=1)[0]}-{codec}"
        if not (folder / "metrics.json").is_file():
            _run(_config(options, section, codec), folder)
        tables[codec] = pl.read_parquet(folder / "per_user.parquet").sort("user")
        wires[codec] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["cost"]["wire"]
    reference = tables["float32"]["ndcg@10"].to_numpy()
    found: dict[str, Any] = {"users": len(reference), "codecs": {}}
    for codec, table in tables.items():
        values = table["ndcg@10"].to_numpy()
        traffic = {way: sum(kind["bytes"] for kind in kinds.values()) for way, kinds in wires[codec].items()}
        found["codecs"][codec] = {
            "ndcg@10": float(values.mean()),
            "relative_difference": float(values.mean() / reference.mean() - 1),
            "interval_95": _interval(values, reference),
            "gigabytes": sum(traffic.values()) / 1e9,
        }
    return found


def _interval(values: Any, reference: Any) -> list[float]:
    draws = np.random.default_rng(1).integers(len(values), size=(2000, len(values)))
    ratios = values[draws].mean(1) / reference[draws].mean(1) - 1
    return [float(bound) for bound in np.quantile(ratios, (0.025, 0.975))]


def _config(options: argparse.Namespace, section: dict[str, Any], codec: str) -> Config:
    values = {
        "name": "codec",
        "data": section,
        "backbone": {"kind": "encoder", "model": options.model},
        "federation": {"rounds": options.rounds},
        "training": {"learning_rate": 3e-3, "batch_tokens": 1024, "max_examples": options.examples},
        "evaluation": {"max_users": options.users, "baselines": False, "examples": 0},
        "placement": {"kind": "split", "bottom": 2, "server": "127.0.0.1:1", "codec": codec},
    }
    return parse_config(values, Path())


def _run(config: Config, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make_certificates(work / "certificates", CLIENTS)
        placement = config.placement.model_copy(update={"certificates": str(work / "certificates")})
        config = config.model_copy(update={"placement": placement})
        (work / "trunk.toml").write_text(config_toml(config), encoding="utf-8")
        with Server(work) as server:
            placement = placement.model_copy(update={"server": server.address})
            run(config.model_copy(update={"placement": placement}), folder, overwrite=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--work", type=Path, required=True, help="folder for the run folders")
    parser.add_argument("--retail", type=Path, help="folder of UCI Online Retail")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--users", type=int, default=300, help="held-out users per client")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
