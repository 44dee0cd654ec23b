"""`pplr pki`: certificates of a federation's parties."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pplr.cli.options import AsJson
from pplr.cli.terminal import results, say, write_json
from pplr.errors import ConfigError, command

if TYPE_CHECKING:
    from pplr.pki import Identity

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Make certificates, by which the parties of a federation know each other.",
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the certificates.")]
Clients = Annotated[list[str] | None, typer.Option("--client", help="A client's name. Repeat it for more clients.")]
Trunk = Annotated[bool, typer.Option("--trunk", help="The trunk's server.")]
Coordinator = Annotated[bool, typer.Option("--coordinator", help="The coordinator.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", help="A name or address of coordinator or trunk's server, beside localhost. Repeat it."),
]
Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="Days until the certificates expire.")]

FOLDER = Path("certificates")
LOCAL = ("localhost", "127.0.0.1", "::1")


@app.command("init")
def init(folder: Folder = FOLDER, client: Clients = None, host: Hosts = None, days: Days = 365) -> None:
    """Make an authority, and certificates of coordinator, trunk's server and clients.

    FOLDER/authority holds the key that issues certificates: keep it apart. Every
    party needs ca.pem, crl.pem and its own folder, and nothing else; the
    coordinator also clients/NAME/certificate.pem of each silo, without its key.

    Examples:
      pplr pki init certificates --client shop-1 --client shop-2
      pplr pki init certificates --host trunk.example.org
    """
    from pplr.pki import Authority, Identity, Role

    clients = [Identity(Role.CLIENT, name) for name in client or ()]
    authority = Authority.create(folder)
    authority.issue(Identity(Role.TRUNK, "trunk"), [*LOCAL, *(host or ())], days)
    authority.issue(Identity(Role.COORDINATOR, "coordinator"), [*LOCAL, *(host or ())], days)
    for identity in clients:
        authority.issue(identity, (), days)
    say(f"The authority's key is in {folder / 'authority'}: keep it apart from everything else.")
    say(f"Certificates of the coordinator, the trunk's server and {len(clients)} clients are in {folder}.")
    if not clients:
        say(f"Next: {command('pplr', 'pki', 'issue', folder, '--client', 'NAME')}")


@app.command("issue")
def issue(
    folder: Folder = FOLDER,
    client: Clients = None,
    trunk: Trunk = False,
    coordinator: Coordinator = False,
    host: Hosts = None,
    days: Days = 365,
) -> None:
    """Issue certificates to parties.

    A certificate that a party had before stays valid until it is revoked.

    Examples:
      pplr pki issue certificates --client shop-3
      pplr pki issue certificates --trunk --host trunk.example.org
    """
    from pplr.pki import Authority, Role

    authority = Authority(folder)
    for identity in _parties(client, trunk, coordinator):
        hosts = [] if identity.role is Role.CLIENT else [*LOCAL, *(host or ())]
        say(f"Certificate of {identity}: {authority.issue(identity, hosts, days)}")


@app.command("revoke")
def revoke(
    folder: Folder = FOLDER, client: Clients = None, trunk: Trunk = False, coordinator: Coordinator = False
) -> None:
    """Revoke all certificates of a party.

    The trunk's server refuses them as soon as it has the new crl.pem; it need not
    be started again.

    Examples:
      pplr pki revoke certificates --client shop-2
    """
    from pplr.pki import Authority

    authority = Authority(folder)
    for identity in _parties(client, trunk, coordinator):
        count = authority.revoke(identity)
        say(f"Revoked {count} certificate{'s' if count > 1 else ''} of {identity}.")
    say(f"Copy {folder / 'crl.pem'} to the trunk's server.")


@app.command("list")
def show(folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """List all certificates that were issued.

    Examples:
      pplr pki list certificates
      pplr pki list certificates --json
    """
    from dataclasses import asdict

    from pplr.pki import Authority

    issued = Authority(folder).issued()
    if as_json:
        write_json([asdict(one) for one in issued])
        return
    table = Table("party", "name", "valid until", "revoked", "serial", box=box.SIMPLE_HEAD)
    for one in issued:
        revoked = Text((one.revoked or "")[:10], style="red")
        table.add_row(one.role, Text(one.name), one.until[:10], revoked, one.serial[:16])
    results().print(table)


def _parties(clients: list[str] | None, trunk: bool, coordinator: bool) -> list[Identity]:
    from pplr.pki import Identity, Role

    found = [Identity(Role.CLIENT, name) for name in clients or ()]
    found += [Identity(Role.TRUNK, "trunk")] * trunk + [Identity(Role.COORDINATOR, "coordinator")] * coordinator
    if not found:
        raise ConfigError("Say for whom: --client NAME, --trunk or --coordinator.")
    return found
