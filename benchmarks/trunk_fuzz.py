"""Frames that no client should send, against the parser and against a trunk's server that serves somebody else too.

    python benchmarks/trunk_fuzz.py --output benchmarks/results/trunk_fuzz.json

The parser gets its frames one by one, while Python's allocations for each are traced. The server, a process of its own,
gets sessions with mutual TLS of several clients at once; each says something proper or nothing, then something wrong, and
has to end with an error status before a deadline. Meanwhile another client trains; its row is compared with a
computation without a server.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import torch
from safetensors.torch import load_file

from fuzzed_frames import FrameFuzzer
from fuzzed_sessions import SessionFuzzer
from memory_curve import MemoryCurve
from pplr.config import Config, config_toml
from pplr.data.settings import DataSettings
from pplr.models.hub import ModelFiles, resolve
from pplr.models.parts.settings import SplitPlacement
from pplr.models.settings import GenerativeSettings
from pplr.pki import Identity, Party, Role
from pplr.trunk.build import LoadedTrunk, agreement, run_digest, split_placement
from pplr.trunk.channel import OPTIONS
from pplr.trunk.codecs import CODECS
from pplr.trunk.connection import METHOD
from pplr.trunk.fields import Contract, HelloFields, Limits
from pplr.trunk.remote import RemoteAccess
from result_file import write_result
from small_llama import write_small_llama
from trunk_server import Server, make_certificates
from well_behaved import WellBehaved

WIDTH = 32
LIMITS = Limits(
    frame_bytes=2**20, rows=64, tokens=2000, length=200, passes=4, held_tokens=4000, readings=4, idle_seconds=30
)
ERRORS = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
DEADLINE = 30.0
GOOD = "well-behaved"


def main(arguments: list[str] | None = None) -> None:
    """Run both and write the result file."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    parser = parsed(options.parsed, options.seed)
    print(parser, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        server = served(Path(folder), options)
    write_result(
        options.output,
        "trunk_fuzz",
        {"frames": parser["refused"] + server["refused"], "parser": parser, "server": server},
    )


def parsed(count: int, seed: int) -> dict[str, Any]:
    """Return what the parser does with `count` wrong frames.

    Bytes that were overwritten can leave a proper frame, which does not count. Anything else than a refusal, a frame
    that is wrong and not refused above all, ends the benchmark.
    """
    contract = Contract(WIDTH, True, CODECS["float32"], 1, LIMITS, clients=3)
    fuzzer = FrameFuzzer(seed, contract)
    refused: Counter[str] = Counter()
    proper = most = 0
    slowest = 0.0
    tracemalloc.start()
    while refused.total() < count:
        way, data = fuzzer.draw()
        tracemalloc.reset_peak()
        before, started = tracemalloc.get_traced_memory()[0], time.perf_counter()
        if not fuzzer.accepted(data):
            refused[way] += 1
        elif way == "spoilt":
            proper += 1
        else:
            raise SystemExit(f"A frame that is wrong ({way}) was not refused: {data[:500]!r}")
        slowest = max(slowest, time.perf_counter() - started)
        most = max(most, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    return {
        "refused": refused.total(),
        "ways": dict(sorted(refused.items())),
        "still_proper": proper,
        "most_bytes_allocated": most,
        "frame_bytes_allowed": LIMITS.frame_bytes,
        "slowest_seconds": slowest,
    }


def served(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a server does with sessions in which something is wrong."""
    names = [*(f"fuzzer-{number}" for number in range(options.clients)), GOOD]
    write_small_llama(work / "model", width=WIDTH, layers=4)
    make_certificates(work / "certificates", names)
    placement = SplitPlacement(bottom=1, server="127.0.0.1:1", certificates=str(work / "certificates"))
    config = Config(
        threads=1,
        device="cpu",
        data=DataSettings(demo="movietweetings"),
        backbone=GenerativeSettings(model=str(work / "model"), examples="last"),
        placement=placement,
    )
    (work / "trunk.toml").write_text(config_toml(config), encoding="utf-8")
    limits = [word for name, value in LIMITS.model_dump().items() for word in ("--limit", f"{name}={value}")]
    with Server(work, "--metrics-port", "0", *limits) as server:
        config = config.model_copy(update={"placement": placement.model_copy(update={"server": server.address})})
        files = resolve(str(work / "model"))
        access = RemoteAccess(config, files, names)
        control = access.control(fresh=True)
        control.begin_round(1)
        good = WellBehaved(access.link(GOOD), WIDTH)
        with MemoryCurve(server) as curve, good:
            found = asyncio.run(_attacked(config, files, names[:-1], options))
        control.save(1)
        kept = load_file(work / "state" / "rounds" / "round-0001" / "state.safetensors")[f"row/{GOOD}"]
        work_alone = LoadedTrunk(config, files, torch.device("cpu")).work(names)
        found |= {"well_behaved": good.figures(kept, work_alone, GOOD)}
        access.close()
        memory = curve.figures(warm_up=0)
        found |= {
            "server_alive": server.alive,
            "memory_growth_bytes": memory["highest_bytes"] - memory["curve"][0]["megabytes"] * 1e6,
            "memory_allowed_bytes": len(names) * LIMITS.waiting * LIMITS.frame_bytes,
        }
    return found


async def _attacked(
    config: Config, files: ModelFiles, names: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Begin sessions as all of `names` at once until enough have ended, and return how they did."""
    ended: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    unexpected: list[str] = []
    contract = Contract(WIDTH, True, CODECS["float32"], 1, LIMITS, clients=len(names) + 1)
    hello = HelloFields(agreement=agreement(config, files), run=run_digest(config), codec="float32", bucket=1)
    left, slowest, placement = options.sessions, 0.0, split_placement(config)

    async def one(name: str, number: int) -> None:
        nonlocal left, slowest
        fuzzer = SessionFuzzer(FrameFuzzer(options.seed + 1 + number, contract), hello, options.seed + number)
        party = Party.load(Path(placement.certificates), Identity(Role.CLIENT, name))
        credentials = grpc.ssl_channel_credentials(party.authority, party.key, party.certificate)
        async with grpc.aio.secure_channel(placement.server, credentials, options=OPTIONS) as channel:
            while left > 0:
                left -= 1
                way, frames = fuzzer.draw()
                started = time.monotonic()
                status = await _status(channel, frames)
                slowest = max(slowest, time.monotonic() - started)
                ended[status] += 1
                ways[way] += status in ERRORS
                if status not in ERRORS:
                    unexpected.append(f"{way}: {status}")

    started = time.monotonic()
    await asyncio.gather(*(one(name, number) for number, name in enumerate(names)))
    return {
        "clients_at_once": len(names),
        "refused": sum(count for status, count in ended.items() if status in ERRORS),
        "statuses": dict(sorted(ended.items())),
        "ways": dict(sorted(ways.items())),
        "unexpected": unexpected[:20],
        "slowest_seconds": slowest,
        "seconds": time.monotonic() - started,
    }


async def _status(channel: grpc.aio.Channel, frames: Sequence[bytes]) -> str:
    """Say `frames` in a session, listen to its end, and return the name of its status."""

    async def spoken() -> Any:
        for frame in frames:
            yield frame

    call = channel.stream_stream(METHOD)(spoken(), timeout=DEADLINE)
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    return str((await call.code()).name)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--parsed", type=int, default=100_000, help="wrong frames for the parser")
    parser.add_argument("--sessions", type=int, default=20_000, help="wrong sessions for the server")
    parser.add_argument("--clients", type=int, default=8, help="clients that say wrong things at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
