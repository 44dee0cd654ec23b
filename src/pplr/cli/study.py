"""`pplr study`: a grid of runs, and all of them side by side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from pplr.cli import INTERRUPTED
from pplr.cli.comparison_table import comparison_table
from pplr.cli.options import AsJson, Quiet
from pplr.cli.progress import watching
from pplr.cli.terminal import results, say, shown_path, write_json
from pplr.errors import command
from pplr.wording import plural

if TYPE_CHECKING:
    from pplr.study.grid import Cell
    from pplr.study.run import Failure, State

Status = tuple["Cell", Path, "State"]


def study(
    path: Annotated[Path, typer.Argument(metavar="STUDY", help="Study file, TOML.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the study; runs/NAME without.", show_default=False)
    ] = None,
    data_folder: Annotated[
        Path | None,
        typer.Option(
            envvar="PPLR_DATA",
            metavar="DIR",
            help="Where relative paths in the study start; its own folder without.",
            show_default=False,
        ),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where each finished cell leaves its record, and what has one is not run; records in the study's folder without.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=LABEL",
            help="Run only the cells with this choice along an axis; may be given several times. Tables show all that are done.",
            show_default=False,
        ),
    ] = None,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Write tables and plots of what is done; run nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells and how far each is; run nothing.")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Resamples of the bootstrap.")] = 2000,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run what is missing of a study, and write its tables and plots.

    A study is a base configuration and axes along which it is varied: data,
    strategies, backbones, seeds, any key. Every combination is a cell, with
    a run folder below DIR/cells. Give the same command again after an
    interruption: what is done stays, what was begun goes on. A cell that
    fails does not keep the others from running. Of each finished cell a
    record is kept, a small file that replaces its run folder in tables,
    plots and resuming.

    Examples:
      pplr study studies/movietweetings.toml --dry-run
      pplr study studies/movietweetings.toml
      pplr study studies/movietweetings.toml --only strategy=pplr --only seed=1
      pplr study studies/beauty.toml --data-folder data --out runs/beauty
      pplr study studies/movietweetings.toml --records results --no-run
      pplr study studies/movietweetings.toml --json > study.json
    """
    from pplr.study.grid import cells
    from pplr.study.records import RECORDS
    from pplr.study.run import State, run_cells
    from pplr.study.settings import load_study
    from pplr.study.tables import write_tables

    settings = load_study(path)
    place, chosen = (data_folder or path.parent).resolve(), settings.chosen(only or ())
    every, grid = cells(settings, place), cells(settings, place, chosen)
    folder = (out or Path("runs") / settings.name).resolve()
    keep = folder / RECORDS if records is None else records.resolve()
    if dry_run:
        _list(_states(grid, folder, keep), as_json=as_json)
        return
    failures: list[Failure] = []
    try:
        if not no_run:
            with watching(quiet=quiet) as observer:
                failures = run_cells(grid, folder, observer, keep)
    except KeyboardInterrupt as interrupt:
        say(f"Interrupted. Go on with: {command(*_again(path, out, data_folder, records, only or []))}")
        raise typer.Exit(INTERRUPTED) from interrupt
    done = [(cell, place) for cell, place, state in _states(every, folder, keep) if state is State.DONE]
    groups = write_tables(settings, done, folder, samples=samples)
    if as_json:
        cell_states = _listed(_states(grid, folder, keep))
        write_json({"folder": str(folder), "cells": cell_states, "groups": [group.as_dict() for group in groups]})
    else:
        for group in groups:
            results().print(comparison_table(group.comparison, group.title))
        say(f"Tables and plots: {shown_path(folder)}")
    _report(failures, len(grid))


def _states(grid: tuple[Cell, ...], folder: Path, records: Path) -> list[Status]:
    from pplr.study.records import recorded
    from pplr.study.run import find_result, state_of

    known = recorded(records)
    places = [(cell, find_result(folder, cell, known)) for cell in grid]
    return [(cell, place, state_of(place)) for cell, place in places]


def _listed(states: list[Status]) -> list[dict[str, Any]]:
    return [
        {"labels": dict(cell.labels), "digest": cell.digest, "folder": str(place), "state": state.value}
        for cell, place, state in states
    ]


def _list(states: list[Status], *, as_json: bool) -> None:
    """Print the cells and how far each is."""
    if as_json:
        write_json(_listed(states))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for axis in states[0][0].labels:
        table.add_column(axis, overflow="fold")
    for name in ("digest", "state"):
        table.add_column(name)
    for cell, _, state in states:
        table.add_row(*cell.labels.values(), cell.digest, state.value)
    results().print(table)
    counts = Counter(state.value for _, _, state in states)
    say(f"{plural(len(states), 'cell')}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}", results())


def _report(failures: list[Failure], cells: int) -> None:
    """Say which cells failed, and end with the exit code of the first one's error."""
    if not failures:
        return
    say(f"{len(failures):,} of {cells:,} cells failed; the same command tries them again:")
    for failure in failures:
        for line in str(failure.error).splitlines():
            say(f"- {failure.cell.title}: {line}")
    raise typer.Exit(failures[0].error.exit_code)


def _again(path: Path, out: Path | None, data_folder: Path | None, records: Path | None, only: list[str]) -> list[str]:
    words = ["pplr", "study", str(path)]
    for option, value in (("--out", out), ("--data-folder", data_folder), ("--records", records)):
        if value is not None:
            words += [option, str(value)]
    for choice in only:
        words += ["--only", choice]
    return words
