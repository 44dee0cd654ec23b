"""What codecs cost in quality: the same federated runs through a trunk's server, with each codec.

    python benchmarks/codec_quality.py --output benchmarks/results/codec_quality.json --work FOLDER --retail FOLDER

Encoder backbone (MiniLM), k = 2, on MovieTweetings and on UCI Online Retail (`--retail`, a folder with
`interactions.csv.gz` and `items.csv.gz`); every user is tested. States and gradients travel in the codec in training,
validation and test. The relative difference of test NDCG@10 to float32 comes with a paired bootstrap interval over users,
each of whom counts with the mean over the seeds. Runs that are in `--work` already are not repeated, and `--seeds` and
`--codecs` are those that are run now: two processes may share the work. Eight to ten minutes a run on one core.
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
SEEDS = (1, 2, 3)
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
    for seed in options.seeds:
        for name, section in data.items():
            for codec in options.codecs:
                folder = _folder(options.work, name, seed, codec)
                if not (folder / "metrics.json").is_file():
                    through_a_server(_config(options, section, seed, codec), folder)
    results = {name: _compared(options.work, name) for name in data}
    write_result(options.output, "codec_quality", {"bottom": 2, "target": 0.01, "data": results})


def _folder(work: Path, name: str, seed: int, codec: str) -> Path:
    return work / f"{name.split(maxsplit=1)[0]}-{seed}-{codec}"


def _compared(work: Path, name: str) -> dict[str, Any]:
    """Return the figures of each codec beside those of float32, with the seeds that both have been run with."""
    found: dict[str, Any] = {}
    users = 0
    for codec in CODECS:
        pairs = {}
        for seed in SEEDS:
            run_folders = [_folder(work, name, seed, each) for each in ("float32", codec)]
            if all((folder / "metrics.json").is_file() for folder in run_folders):
                pairs[seed] = [per_user(folder) for folder in run_folders]
        if not pairs:
            continue
        reference, values = (np.mean([pair[which] for pair in pairs.values()], axis=0) for which in (0, 1))
        found[codec] = {
            "seeds": list(pairs),
            "ndcg@10": float(values.mean()),
            "relative_difference": float(values.mean() / reference.mean() - 1),
            "of_each_seed": [float(value.mean() / base.mean() - 1) for base, value in pairs.values()],
            "interval_95": relative_interval(values, reference),
            "gigabytes": gigabytes(_folder(work, name, min(pairs), codec)),
        }
        users = len(values)
    return {"users": users, "codecs": found}


def per_user(folder: Path) -> Any:
    """Return NDCG@10 of every user, in the order of their ids."""
    return pl.read_parquet(folder / "per_user.parquet").sort("user")["ndcg@10"].to_numpy()


def gigabytes(folder: Path) -> float:
    """Return what a run's clients and the trunk's server have sent each other."""
    wire = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["cost"]["wire"]
    return float(sum(kind["bytes"] for kinds in wire.values() for kind in kinds.values()) / 1e9)


def relative_interval(values: Any, reference: Any) -> list[float]:
    """Return the paired bootstrap interval of mean(values) / mean(reference) - 1 over users."""
    draws = np.random.default_rng(1).integers(len(values), size=(2000, len(values)))
    ratios = values[draws].mean(1) / reference[draws].mean(1) - 1
    return [float(bound) for bound in np.quantile(ratios, (0.025, 0.975))]


def _config(options: argparse.Namespace, section: dict[str, Any], seed: int, codec: str) -> Config:
    values = {
        "name": "codec",
        "seed": seed,
        "data": section,
        "backbone": {"kind": "encoder", "model": options.model, "history_items": 5, "attributes": ()},
        "federation": {"rounds": options.rounds},
        "training": {"learning_rate": 3e-3, "batch_tokens": 256, "max_examples": options.examples},
        "evaluation": {"validation_users": 100, "select_by": "loss", "baselines": False, "examples": 0},
        "placement": {"kind": "split", "bottom": 2, "server": "127.0.0.1:1", "codec": codec},
    }
    return parse_config(values, Path())


def through_a_server(config: Config, folder: Path) -> None:
    """Run `config` into `folder`, its trunk in a server's process that is started for it."""
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=list(CODECS))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
