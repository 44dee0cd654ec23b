"""`pplr plan`: what each choice of k costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pplr.cli.options import AsJson
from pplr.cli.terminal import results, say, write_json

if TYPE_CHECKING:
    from pplr.planning import Plan

WHAT, TEXTS, MACHINES = "What is planned", "Texts and batches", "Machines and line"


def plan(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="A known model, a hub id, or a folder with config.json.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Take model, adapters, placement, batches and data from here.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            min=1,
            help="m: layers before the head that stay; usually 1.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    codec: Annotated[
        Literal["float32", "bfloat16", "int8"] | None,
        typer.Option(
            "--codec", help="How states travel; float32 if not said.", show_default=False, rich_help_panel=WHAT
        ),
    ] = None,
    pieces: Annotated[
        int | None,
        typer.Option(
            "--pieces",
            min=1,
            max=8,
            help="Pieces of a batch under way at once; 2 if not said.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            "--batch-tokens",
            min=1,
            help="Tokens of a training batch; 512 if not said.",
            show_default=False,
            rich_help_panel=TEXTS,
        ),
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "--prompt-tokens",
            min=2,
            help="Tokens of a typical prompt or history; 100 if not said.",
            show_default=False,
            rich_help_panel=TEXTS,
        ),
    ] = None,
    common_tokens: Annotated[
        int | None,
        typer.Option(
            "--common-tokens",
            min=0,
            help="Tokens that all prompts begin with; 20 if not said.",
            show_default=False,
            rich_help_panel=TEXTS,
        ),
    ] = None,
    title_tokens: Annotated[
        int | None,
        typer.Option(
            "--title-tokens",
            min=1,
            help="Tokens of a typical title; 8 if not said.",
            show_default=False,
            rich_help_panel=TEXTS,
        ),
    ] = None,
    clients: Annotated[
        int, typer.Option("--clients", min=1, help="Clients that the server serves at once.", rich_help_panel=MACHINES)
    ] = 1,
    device_memory: Annotated[
        str | None,
        typer.Option(
            "--device-memory",
            metavar="SIZE",
            help="Memory that a client has: 4GB, 512MiB.",
            show_default=False,
            rich_help_panel=MACHINES,
        ),
    ] = None,
    bandwidth: Annotated[
        str, typer.Option("--bandwidth", metavar="SPEED", help="Of the line: 100Mbit, 1Gbit.", rich_help_panel=MACHINES)
    ] = "100Mbit",
    latency: Annotated[
        float,
        typer.Option("--latency", min=0, metavar="MS", help="Milliseconds of a round trip.", rich_help_panel=MACHINES),
    ] = 10.0,
    device_flops: Annotated[
        str | None,
        typer.Option(
            "--device-flops",
            metavar="SPEED",
            help="Of the client: 150GFLOPS; absent: measured here.",
            show_default=False,
            rich_help_panel=MACHINES,
        ),
    ] = None,
    server_flops: Annotated[
        str | None,
        typer.Option(
            "--server-flops",
            metavar="SPEED",
            help="Of the server; absent: as the client.",
            show_default=False,
            rich_help_panel=MACHINES,
        ),
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns; about 180 characters.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what each k, the layers behind the embedding that stay with a client, costs.

    Nothing is loaded: weights are counted from config.json. Memory and time
    are estimates; the page "Choosing k" of the documentation has the formulas,
    and what was measured beside them.

    Examples:
      pplr plan --model smollm2-135m --device-memory 1GB
      pplr plan --config shop.toml --bandwidth 1Gbit --codec bfloat16
      pplr plan --model ./llama-7b --server-flops 50TFLOPS --json
    """
    from pplr.config import load_config
    from pplr.planning import Asked, Speeds, plan_of
    from pplr.planning.quantities import bits_per_second, memory_bytes, operations_per_second
    from pplr.planning.speed import matmul_rate

    room = None if device_memory is None else memory_bytes(device_memory)
    bits = bits_per_second(bandwidth)
    known = [None if text is None else operations_per_second(text) for text in (device_flops, server_flops)]
    loaded = None if config is None else load_config(config)
    client = known[0] or matmul_rate().per_second
    made = plan_of(
        loaded,
        Asked(model, codec, top, pieces, batch_tokens, prompt_tokens, common_tokens, title_tokens, clients, room),
        Speeds(client, known[1] or client, bits, latency / 1000),
        tell=say,
    )
    if as_json:
        write_json(_document(made, measured=known[0] is None))
        return
    console = results()
    if wide and not console.is_terminal:
        console.width = max(console.width, 200)
    _print(made, console, wide=wide, measured=known[0] is None)


def _document(made: Plan, *, measured: bool) -> dict[str, Any]:
    from pplr.planning import advice
    from pplr.planning.document import as_document

    return {**as_document(made), "device_flops_measured": measured, "advice": advice(made)}


def _print(made: Plan, console: Console, *, wide: bool, measured: bool) -> None:
    from pplr.planning import advice
    from pplr.planning.words import assumptions, columns, rows

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns(made, wide=wide):
        table.add_column(name, justify="right", no_wrap=False)
    for row in rows(made, wide=wide):
        style = "dim" if row.fits is False else ""
        table.add_row(*row.cells, style=style)
    console.print(table)
    for text in assumptions(made, measured=measured):
        console.print(Text(text), style="dim")
    console.print(Text(advice(made), style="bold"))
