"""`pplr catalogue`: the server that reads the items with the language model, for clients that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pplr.cli.terminal import say, show_findings
from pplr.cores import share_cores
from pplr.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Serve item vectors to clients that have no language model.",
)


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration, TOML.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a value of the configuration; may be repeated."),
]
Certificates = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of certificates; placement.certificates without.", show_default=False),
]


@app.command("serve")
def serve(
    config: ConfigFile,
    overrides: Overrides = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 is any that is free.")
    ] = "127.0.0.1:7444",
    state: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the vectors; what is in it is not computed again.")
    ] = Path("catalogue-state"),
    certificates: Certificates = None,
    chunk_bytes: Annotated[
        int, typer.Option(help="Bytes of vectors that travel at once, before they are compressed.")
    ] = 1_048_576,
    keep: Annotated[
        int, typer.Option(min=1, help="Vectors with trained adapters that are kept; two per client spare work.")
    ] = 32,
) -> None:
    """Read the items' public texts with the language model, and serve the vectors.

    Clients are known by their certificates (`pplr pki`); the server shows that
    of the trunk's server. It needs the item table and the model, and opens no
    events. With backbone.adapters it also trains them, for each client along
    the gradient that it sends once a round. SIGTERM or Ctrl-C ends it.

    Examples:
      pplr catalogue serve shop.toml
      pplr catalogue serve shop.toml --listen 0.0.0.0:7444 --state /var/lib/pplr
    """
    import asyncio
    import logging

    share_cores()
    from pplr.catalogue.serving import open_server
    from pplr.config import load_config

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    server = open_server(load_config(config, overrides or ()), state, certificates, chunk_bytes, keep, tell=say)
    host = listen.rpartition(":")[0]
    asyncio.run(server.serve(listen, lambda port: say(f"Serving the catalogue at {host}:{port}")))


@app.command("check")
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    client: Annotated[
        str | None, typer.Option(help="Ask as this client; as the coordinator without.", show_default=False)
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Ask nobody: look whether a server can be started here, at this address.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[Path, typer.Option(metavar="DIR", help="With --listen: folder for the vectors.")] = Path(
        "catalogue-state"
    ),
    certificates: Certificates = None,
) -> None:
    """Ask the catalogue's server for what it has; or, with --listen, look before one is started.

    Examples:
      pplr catalogue check shop.toml --client shop-1
      pplr catalogue check shop.toml --listen 0.0.0.0:7444 --state /var/lib/pplr
    """
    from pplr.catalogue.check import asked, check_server
    from pplr.config import load_config

    settings = load_config(config, overrides or ())
    if listen is not None:
        from pplr.address import Address

        if client is not None:
            raise ConfigError("--client asks a server, and --listen looks before one is started: use one of them.")
        found = check_server(settings, Address.parse(listen), state, certificates, tell=say)
        show_findings(found, "The catalogue's server")
        return
    address, manifest, seconds = asked(settings, client, certificates)
    say(
        f"The catalogue's server at {address} is there: {seconds * 1000:.0f} ms. It has {manifest.items:,} vectors of "
        f"{manifest.width} numbers, made by {manifest.model} (digest {manifest.weights[:12]})"
        + ("." if manifest.adapters is None else ", and trains adapters.")
    )
