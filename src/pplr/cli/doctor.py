"""`pplr doctor`: look at this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pplr.cli.options import AsJson
from pplr.cli.terminal import results, say, write_json

if TYPE_CHECKING:
    from pplr.doctor import Health


def doctor(as_json: AsJson = False) -> None:
    """Report versions, processor, memory, disk, GPUs and models, with advice.

    The exit code is 1 where a run would fail on this machine.

    Examples:
      pplr doctor
      pplr doctor --json > doctor.json         to go with a bug report
    """
    from pplr.doctor import advise, examine

    health = examine()
    advice = advise(health)
    if as_json:
        write_json({**asdict(health), "advice": [asdict(entry) for entry in advice]})
    else:
        console = results()
        _print_health(health, console)
        for entry in advice:
            console.print("!" if entry.serious else "-", style="bold red" if entry.serious else "yellow", end=" ")
            say(entry.text, console)
        if not advice:
            console.print("All is well.", style="green")
    if any(entry.serious for entry in advice):
        raise typer.Exit(1)


def _print_health(health: Health, console: Console) -> None:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, found in health.versions.items():
        table.add_row(name, found or Text("not installed", style="yellow"))
    table.add_section()
    rows = [
        ("Python", health.python),
        ("system", health.system),
        ("processor", f"{health.processor}, {health.cores} cores, torch uses {health.threads} threads"),
        ("bfloat16", f"matrix products {health.bfloat16_times:.1f} times as fast as in float32"),
        ("memory", f"{_gigabytes(health.memory_bytes)}, {_gigabytes(health.available_bytes)} free"),
    ]
    rows += [
        (f"GPU {index}", f"{gpu.name}, {_gigabytes(gpu.memory_bytes)}, {_gigabytes(gpu.free_bytes)} free")
        for index, gpu in enumerate(health.gpus)
    ] or [("GPU", "none" if health.cuda is None else f"none (torch is built for CUDA {health.cuda})")]
    rows += [
        ("cache", f"{health.cache}, {_gigabytes(health.cache_bytes)}, room for {_gigabytes(health.cache_free_bytes)}"),
        ("this folder", f"room for {_gigabytes(health.here_free_bytes)}"),
        ("models", ", ".join(f"{m.name} ({m.kind}, {_gigabytes(m.stored_bytes)})" for m in health.models) or "none"),
    ]
    for name, value in rows:
        table.add_row(name, Text(value))
    console.print(table)


def _gigabytes(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 1e9:,.1f} GB"
