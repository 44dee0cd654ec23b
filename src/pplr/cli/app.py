"""The program `pplr`: its commands, and what happens to errors."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from pplr.cli import (
    INTERRUPTED,
    audit,
    audit_log,
    catalogue,
    compare,
    coordinator,
    data,
    demo,
    deploy,
    doctor,
    evaluate,
    init,
    models,
    pki,
    plan,
    recommend,
    run,
    silo,
    status,
    study,
    trunk,
)
from pplr.cli.terminal import say, show_error, silence
from pplr.errors import PplrError, StorageError


class Commands(TyperGroup):
    """Turns mistakes of the person at the keyboard into sentences and exit codes; other exceptions stay as they are."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PplrError as error:
            show_error(error)
            raise typer.Exit(error.exit_code) from error
        except OSError as problem:
            if problem.filename is not None or isinstance(problem, BrokenPipeError):
                raise
            silence(sys.stdout)  # only streams that are open already fail without a name
            show_error(StorageError(f"The output cannot be written: {problem.strerror}. Send it somewhere else."))
            raise typer.Exit(StorageError.exit_code) from problem
        except KeyboardInterrupt as interrupt:
            say("Interrupted.")
            raise typer.Exit(INTERRUPTED) from interrupt


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FIRST, USE = "First steps", "Runs and what to do with them"
OVER, CARE = "Federations over a network", "Data, models, this machine"

app.command("demo", rich_help_panel=FIRST)(demo.demo)
app.command("init", rich_help_panel=FIRST)(init.init)
app.command("run", rich_help_panel=USE)(run.run)
app.command("evaluate", rich_help_panel=USE)(evaluate.evaluate)
app.command("recommend", rich_help_panel=USE)(recommend.recommend)
app.command("compare", rich_help_panel=USE)(compare.compare)
app.command("study", rich_help_panel=USE)(study.study)
app.add_typer(deploy.app, name="deploy", rich_help_panel=OVER)
app.add_typer(coordinator.app, name="coordinator", rich_help_panel=OVER)
app.add_typer(silo.app, name="silo", rich_help_panel=OVER)
app.add_typer(trunk.app, name="trunk", rich_help_panel=OVER)
app.add_typer(catalogue.app, name="catalogue", rich_help_panel=OVER)
app.add_typer(pki.app, name="pki", rich_help_panel=OVER)
app.command("status", rich_help_panel=OVER)(status.status)
app.command("plan", rich_help_panel=OVER)(plan.plan)
app.add_typer(audit.app, name="audit", rich_help_panel=OVER)
app.add_typer(audit_log.app, name="audit-log", rich_help_panel=OVER)
app.add_typer(data.app, name="data", rich_help_panel=CARE)
app.add_typer(models.app, name="models", rich_help_panel=CARE)
app.command("doctor", rich_help_panel=CARE)(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pplr {version('pplr')}")
        raise typer.Exit


@app.callback()
def pplr(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fine-tune a language-model recommender together with others, without sharing interaction data.

    First steps:
      pplr demo                          see it work on real data
      pplr init --events FILE --items FILE
                                         write a configuration for your data
      pplr run pplr.toml                 train, measure, write a report
      pplr recommend runs/pplr --user 1234

    Exit codes: 0 done, 1 unexpected error, 2 command line or configuration,
    3 data, 4 model, 5 run folder, 6 a number that is not finite, 7 disk,
    130 interrupted.
    """
