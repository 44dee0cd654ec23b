"""`pplr audit-log`: what a run has written of its rounds, and whether somebody has changed it since."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pplr.cli.options import AsJson
from pplr.cli.terminal import say, write_json
from pplr.errors import RunError, command

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Check what a run has noted of its rounds.",
)


@app.command("verify")
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, finished or not.", show_default=False)],
    head: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST",
            help="A digest that this command printed before, noted elsewhere: the log must still go on from there.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find any change in a run's audit log: an edited byte, a line that is missing, added, moved or cut.

    The log names the digest of every row that was sent, admitted or refused, and
    every mixing matrix. Its lines are chained; the end of the chain is in the run
    folder and in the checkpoints. Whoever can write there can write all of it
    anew: note the digest that is printed, and give it to --head later.

    Examples:
      pplr audit-log verify runs/shop
      pplr audit-log verify runs/shop --head 5b6f...
    """
    from pplr.federation.audit_log import verify as verified
    from pplr.federation.checkpoints import CheckpointStore
    from pplr.run_folder import CHECKPOINTS

    if not run.is_dir():
        raise RunError(f"There is no folder {run}. Give the folder that `{command('pplr', 'run')}` printed.")
    found = verified(run, CheckpointStore(run / CHECKPOINTS).audited(), noted=head)
    if as_json:
        write_json(
            {
                "entries": found.head.entries,
                "head": found.head.digest,
                "rounds": list(found.rounds),
                "repeated": list(found.repeated),
            }
        )
        return
    again = f", {len(found.repeated)} of them done again after an interruption" if found.repeated else ""
    say(f"The audit log is as it was written: {found.head.entries} entries, {len(found.rounds)} rounds{again}.")
    say(f"Its end has the digest {found.head.digest}.")
