"""`pplr deploy`: a federation over a network, ready to be copied to its machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pplr.cli.silo import ConfigFile, Overrides
from pplr.cli.terminal import say

if TYPE_CHECKING:
    from pplr.deployment import Deployment

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Set up a federation over a network: a folder for each party.",
)


@app.command("init")
def init(
    config: ConfigFile,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; it must not be there yet.")],
    coordinator_address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where silos reach the coordinator.", show_default=False)
    ],
    trunk_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where all reach the trunk's server of a split model.", show_default=False
        ),
    ] = None,
    catalogue_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where silos reach the server of item vectors.", show_default=False),
    ] = None,
    silos: Annotated[
        list[str] | None,
        typer.Option("--silo", metavar="NAME", help="A silo that takes part; repeat it. federation.silos without."),
    ] = None,
    home: Annotated[
        str, typer.Option(metavar="DIR", help="Where a party's folder will lie on its machine, for the systemd units.")
    ] = "/srv/pplr",
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days until the certificates expire.")] = 365,
    overrides: Overrides = None,
) -> None:
    """Write a folder for each party: configuration, certificates, and commands to check and to start.

    Copy FOLDER/coordinator, FOLDER/trunk (of a split model) or FOLDER/catalogue
    (of item vectors), and FOLDER/silos/NAME to their machines. In each, ./check finds out whether the party can take part,
    and ./start does. FOLDER/authority has the key that issues certificates: keep
    it where none of them runs.

    Examples:
      pplr deploy init shop.toml shops --silo shop-1 --silo shop-2
          --coordinator-address rounds.example.org:8000
      pplr deploy init shop.toml shops --trunk-address trunk.example.org:7443
          --coordinator-address rounds.example.org:8000
    """
    from pathlib import PurePosixPath

    from pplr.address import Address
    from pplr.config import load_config
    from pplr.deployment import planned, write_deployment

    settings = load_config(config, overrides or ())
    deployment = planned(
        settings,
        Address.parse(coordinator_address),
        None if trunk_address is None else Address.parse(trunk_address),
        silos or (),
        catalogue=None if catalogue_address is None else Address.parse(catalogue_address),
        home=PurePosixPath(home),
        days=days,
    )
    authority, *parties = write_deployment(deployment, folder)
    _tell(deployment, authority, parties)


def _tell(deployment: Deployment, authority: Path, parties: list[Path]) -> None:
    from pplr.deployment.plan import places_on_this_machine

    say("Copy each folder to the machine of its party, and nothing else of it:")
    for party in parties:
        say(f"  {party}")
    say(f"The authority's key stays in {authority}: keep it where none of them runs.")
    events = deployment.config.data.events
    if events is not None:
        say(f"Each silo puts its own events into data/{events.name} of its folder.")
    for sentence in places_on_this_machine(deployment.config):
        say(sentence)
    say("In each: ./check, then ./start; the coordinator and the model's server first.")
