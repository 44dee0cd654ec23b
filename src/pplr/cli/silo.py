"""`pplr silo`: one organisation's part in a federation over a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pplr.cli.terminal import say, show_findings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Take part in a federation with your own data, which stays with you.",
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration, TOML.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a value of the configuration; may be repeated."),
]
Name = Annotated[str, typer.Option(metavar="NAME", help="The silo's name in the federation.", show_default=False)]
State = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder for what the silo remembers between rounds.", show_default=False)
]
Superlink = Annotated[str, typer.Option("--coordinator", metavar="HOST:PORT", help="Where the coordinator listens.")]
Certificates = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder of certificates: ca.pem and the own part (`pplr pki`).", show_default=False
    ),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Without encryption, on one machine only.")]


@app.command("run")
def run(
    config: ConfigFile,
    name: Name,
    state: State,
    coordinator: Superlink = "127.0.0.1:8000",
    certificates: Certificates = None,
    insecure: Insecure = False,
    overrides: Overrides = None,
) -> None:
    """Answer a coordinator until it is ended: train and measure on the silo's own data.

    Rows travel, data do not. Each message that leaves is logged with its kind,
    bytes and digest. A silo that was killed goes on from --state when it is
    started again; its SuperNode, when that is killed, is started by itself.

    Examples:
      pplr silo run shop.toml --name shop-1 --state state/shop-1 --insecure
      pplr silo run shop.toml --name shop-1 --state /var/lib/pplr
          --coordinator rounds.example.org:8000 --certificates certificates
    """
    import logging
    import signal
    import sys

    from pplr.address import Address
    from pplr.config import load_config
    from pplr.silos.operate import run_silo
    from pplr.silos.processes import security

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    trust = security(certificates, insecure=insecure)
    run_silo(load_config(config, overrides or ()), name, state.resolve(), Address.parse(coordinator), trust, tell=say)


@app.command("check")
def check(
    config: ConfigFile,
    name: Name,
    state: State,
    coordinator: Superlink = "127.0.0.1:8000",
    certificates: Certificates = None,
    insecure: Insecure = False,
    overrides: Overrides = None,
) -> None:
    """Find out whether a silo can take part: data, model, certificate, coordinator, clock.

    The coordinator answers while `pplr coordinator run` is waiting for silos, or
    running. The exit code is 5 where something is wrong.

    Examples:
      pplr silo check shop.toml --name shop-1 --state state/shop-1 --insecure
      pplr silo check shop.toml --name shop-1 --state /var/lib/pplr
          --coordinator rounds.example.org:8000 --certificates certificates
    """
    from pplr.address import Address
    from pplr.config import load_config
    from pplr.silos.check import check_silo
    from pplr.silos.processes import security

    settings = load_config(config, overrides or ())
    trust = security(certificates, insecure=insecure)
    show_findings(check_silo(settings, name, state.resolve(), Address.parse(coordinator), trust), f"Silo {name}")
