"""`pplr run`: train, measure, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pplr.cli import INTERRUPTED
from pplr.cli.measures import print_measures
from pplr.cli.options import AsJson, Quiet
from pplr.cli.progress import watching
from pplr.cli.terminal import results, say, shown_path, write_json
from pplr.errors import StorageError, command

if TYPE_CHECKING:
    from pplr.federation.events import Event

Engine = Literal["in-process", "ray", "flower"]


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration, TOML.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a value of the configuration; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; runs/NAME without.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the newest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run that is in the folder.")] = False,
    engine: Annotated[
        Engine, typer.Option(help="Where clients train: in this process, on Ray's workers, or a process each.")
    ] = "in-process",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train what a configuration describes, measure it, and write a report.

    A run that was interrupted goes on with --resume, and ends with the same
    numbers as if it had not been. --json prints what metrics.json holds,
    with the run folder as "folder".

    Examples:
      pplr run pplr.toml
      pplr run pplr.toml --set strategy.kind=fedavg --out runs/fedavg
      pplr run pplr.toml --set seed=2 --set federation.rounds=5 --overwrite
      pplr run pplr.toml --resume
      pplr run pplr.toml --engine flower
      pplr run pplr.toml --quiet --json > result.json
    """
    begun = False
    try:
        with watching(quiet=quiet) as observer:
            from pplr.config import load_config
            from pplr.runner import run as train

            settings = load_config(config, overrides or ())

            def noting(event: Event) -> None:
                nonlocal begun
                begun = begun or event.name in {"resumed", "round_started"}
                observer(event)

            if engine == "in-process":
                result = train(settings, out, resume=resume, overwrite=overwrite, observer=noting)
            else:
                from pplr.silos.one_machine import run_on_one_machine

                result = run_on_one_machine(settings, engine, out, resume=resume, overwrite=overwrite, observer=noting)
    except StorageError as problem:
        if not begun:
            raise
        raise StorageError(f"{problem} Then go on with `{_again(config, overrides or [], out, engine)}`.") from problem
    except KeyboardInterrupt as interrupt:
        if begun:
            say(f"Interrupted. Go on with: {_again(config, overrides or [], out, engine)}")
        else:
            say("Interrupted before the first round: nothing was trained. Give the same command again.")
        raise typer.Exit(INTERRUPTED) from interrupt
    if as_json:
        write_json({"folder": str(result.folder), **result.metrics})
        return
    print_measures(result.metrics, results())
    _hints(result.folder, next(iter(result.metrics["clients"])), rows=engine == "in-process")


def _hints(folder: Path, client: str, *, rows: bool) -> None:
    """Say where the report of a finished run is, and how to ask its model where its rows are here."""
    say(f"Report: {shown_path(folder / 'report.html')}")
    if not rows:
        return
    say(f"Ask it: {command('pplr', 'recommend', shown_path(folder), '--client', client, '--history', 'Title; Title')}")


def _again(config: Path, overrides: list[str], out: Path | None, engine: Engine) -> str:
    """Return the command that goes on with an interrupted run."""
    words = ["pplr", "run", str(config)]
    for override in overrides:
        words += ["--set", override]
    if out is not None:
        words += ["--out", str(out)]
    if engine != "in-process":
        words += ["--engine", engine]
    return command(*words, "--resume")
