"""`pplr coordinator`: the rounds of a federation over a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pplr.cli.measures import print_measures
from pplr.cli.options import AsJson, Quiet
from pplr.cli.progress import watching
from pplr.cli.silo import Certificates, ConfigFile, Insecure, Overrides
from pplr.cli.terminal import results, say, show_findings, shown_path, write_json

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Run the rounds of a federation whose silos are elsewhere.",
)


@app.command("run")
def run(
    config: ConfigFile,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where silos connect.")] = "127.0.0.1:8000",
    certificates: Certificates = None,
    insecure: Insecure = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; runs/NAME without.", show_default=False)
    ] = None,
    silos: Annotated[
        list[str] | None,
        typer.Option("--silo", metavar="NAME", help="A silo that takes part; repeat it. federation.silos without."),
    ] = None,
    wait: Annotated[float, typer.Option(min=1, help="Seconds that silos may take to connect.")] = 600.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the newest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run that is in the folder.")] = False,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Wait for the silos, run the rounds, have the result measured by them, and write a report.

    The coordinator needs no data, no model and no tokenizer. It sees rows,
    means and counts. Silos connect with `pplr silo run`.

    Examples:
      pplr coordinator run shop.toml --silo shop-1 --silo shop-2 --insecure
      pplr coordinator run shop.toml --listen 0.0.0.0:8000
          --certificates certificates --out runs/shops
      pplr coordinator run shop.toml --certificates certificates --resume
    """
    import signal
    import sys

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    with watching(quiet=quiet) as observer:
        from pplr.address import Address
        from pplr.config import load_config
        from pplr.silos.operate import run_coordinator
        from pplr.silos.processes import security

        settings = load_config(config, overrides or ())
        result = run_coordinator(
            settings,
            out or Path("runs") / settings.name,
            Address.parse(listen),
            security(certificates, insecure=insecure),
            silos=tuple(silos or ()),
            resume=resume,
            overwrite=overwrite,
            meet_seconds=wait,
            observer=observer,
        )
    if as_json:
        write_json({"folder": str(result.folder), **result.metrics})
        return
    print_measures(result.metrics, results())
    say(f"Report: {shown_path(result.folder / 'report.html')}")


@app.command("check")
def check(
    config: ConfigFile,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where silos are to connect.")] = "127.0.0.1:8000",
    certificates: Certificates = None,
    insecure: Insecure = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; runs/NAME without.", show_default=False)
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Find out whether a coordinator can begin: silos, certificates, address, trunk's server.

    The exit code is 5 where something is wrong.

    Examples:
      pplr coordinator check shop.toml --insecure
      pplr coordinator check shop.toml --listen 0.0.0.0:8000
          --certificates certificates
    """
    from pplr.address import Address
    from pplr.config import load_config
    from pplr.silos.check import check_coordinator
    from pplr.silos.processes import security

    settings = load_config(config, overrides or ())
    trust = security(certificates, insecure=insecure)
    folder = out or Path("runs") / settings.name
    show_findings(check_coordinator(settings, folder, Address.parse(listen), trust), "The coordinator")


@app.command("forget")
def forget(
    silo: Annotated[str, typer.Argument(metavar="SILO", help="Its name in the run.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Run folder.", show_default=False)],
) -> None:
    """Take a silo out of a run for good, while the run stands still.

    Its row goes from the checkpoints, it is asked no more, and a quorum is one
    of the silos that are left. Go on with `pplr coordinator run --resume`. What
    the others' rows have learned from it stays in them, and past rounds keep its
    figures. A trunk's server deletes what it has of it when the run goes on.
    Revoke its certificate too: `pplr pki revoke`.

    Examples:
      pplr coordinator forget shop-3 --out runs/shops
    """
    from pplr.silos.forget import forget as forget_silo
    from pplr.silos.forget import trunk_server
    from pplr.silos.processes import LETTING_GO

    def waiting() -> None:
        say(f"Another process is training in {out}: {LETTING_GO:.0f} seconds are given to it to end.")

    left = forget_silo(out, silo, waiting)
    say(f"{silo} is forgotten; {left} silos are left. Go on with `pplr coordinator run ... --out {out} --resume`.")
    if trunk_server(out) is not None:
        say(f"The trunk's server at {trunk_server(out)} deletes its rows of {silo} when the run goes on, not before.")
