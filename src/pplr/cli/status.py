"""`pplr status`: where a run stands."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pplr.cli.options import AsJson
from pplr.cli.progress_words import number
from pplr.cli.terminal import results, write_json
from pplr.wording import bytes_text, seconds_text

if TYPE_CHECKING:
    from pplr.run_status import RunStatus, SiloStatus

_STYLES = {"alive": "green", "awaited": "dim"}


def status(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="Run folder; without: run, or the newest in runs.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where a run stands: round, silos, last losses, bytes. Nothing is changed.

    It reads what the coordinator has written, so call it on the coordinator's
    machine, while a run is on or afterwards.

    Examples:
      pplr status
      pplr status runs/shops
      pplr status runs/shops --json
    """
    from pplr.run_status import newest_run, run_status

    found = run_status(newest_run(Path.cwd()) if run is None else run)
    if as_json:
        write_json(asdict(found))
        return
    console = results()
    console.print(Text(headline(found)), soft_wrap=True)
    console.print(_table(found.silos))


def headline(found: RunStatus) -> str:
    """Return a line about the whole run."""
    parts: list[str] = [found.phase if found.running is not False or found.phase == "finished" else "stands still"]
    if found.rounds is not None:
        parts.append(f"round {found.round} of {found.rounds}")
    if found.score is not None:
        parts.append(f"validation score {number(found.score)}")
    if found.bytes_up or found.bytes_down:
        parts.append(f"{bytes_text(found.bytes_up)} up, {bytes_text(found.bytes_down)} down")
    if found.last is not None:
        parts.append(f"last event {seconds_text(max(0.0, time.time() - found.last))} ago")
    return f"{found.folder}: {', '.join(parts)}"


def _table(silos: tuple[SiloStatus, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("silo", "state"):
        table.add_column(name)
    for name in ("last trained", "training loss", "validation loss", "NDCG@10"):
        table.add_column(name, justify="right")
    table.add_column("why")
    for silo in silos:
        table.add_row(
            Text(silo.name),
            Text(silo.state, style=_STYLES.get(silo.state, "red")),
            "-" if silo.trained is None else f"round {silo.trained}",
            number(silo.training_loss),
            number(silo.validation_loss),
            number(silo.ndcg),
            Text(silo.reason or ""),
        )
    return table
