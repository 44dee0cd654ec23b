"""`pplr trunk`: the server that holds a split model's middle layers."""

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
    help="Serve the middle layers of a split model to clients.",
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
    ] = "127.0.0.1:7443",
    state: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the clients' rows; a server goes on from what is in it.")
    ] = Path("trunk-state"),
    certificates: Certificates = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Loopback port for Prometheus; 0 is any that is free.", show_default=False),
    ] = None,
    joint_tokens: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Tokens of different clients computed as one batch, at most; 0: one by one. [default: 1024 on a CPU, 8192 on a GPU]",
            show_default=False,
        ),
    ] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=N", help="What a client may ask for, such as sessions=64. Repeat it."),
    ] = None,
) -> None:
    """Hold a split model's middle layers, and train each client's adapters in them.

    Clients are known by their certificates (`pplr pki`). The server sees hidden
    states and their gradients; texts, items and labels stay with the clients.
    SIGTERM or Ctrl-C ends it after the steps under way; a server that was killed
    goes on where it was when it is started again with the same --state.

    Examples:
      pplr trunk serve shop.toml
      pplr trunk serve shop.toml --listen 0.0.0.0:7443 --state /var/lib/pplr
      pplr trunk serve shop.toml --metrics-port 9100 --limit sessions=64
    """
    import asyncio
    import logging

    share_cores()
    from pplr.config import load_config
    from pplr.trunk.serving import open_server

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    settings = load_config(config, overrides or ())
    server = open_server(settings, state, certificates, _numbers(limits or ()), joint_tokens, tell=say)
    if metrics_port is not None:
        say(f"Metrics: http://127.0.0.1:{server.figures.publish(metrics_port)}/metrics")
    host = listen.rpartition(":")[0]
    asyncio.run(server.serve(listen, lambda port: say(f"Serving the trunk at {host}:{port}")))


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
    state: Annotated[Path, typer.Option(metavar="DIR", help="With --listen: folder for the clients' rows.")] = Path(
        "trunk-state"
    ),
    certificates: Certificates = None,
) -> None:
    """Ask the trunk's server whether it is there and lets this party in; or, with --listen, look before one is started.

    Examples:
      pplr trunk check shop.toml
      pplr trunk check shop.toml --client shop-1
      pplr trunk check shop.toml --listen 0.0.0.0:7443 --state /var/lib/pplr
    """
    from pplr.config import load_config

    settings = load_config(config, overrides or ())
    if listen is not None:
        from pplr.address import Address
        from pplr.trunk.check import check_server

        if client is not None:
            raise ConfigError("--client asks a server, and --listen looks before one is started: use one of them.")
        found = check_server(settings, Address.parse(listen), state, certificates, tell=say)
        show_findings(found, "The trunk's server")
        return
    from pplr.trunk.health import answer_seconds

    address, seconds = answer_seconds(settings, client, certificates)
    say(f"The trunk's server at {address} is there: {seconds * 1000:.0f} ms.")


def _numbers(limits: list[str] | tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in limits:
        name, equals, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"--limit {text} is not NAME=N. Write for example --limit sessions=64.")
    return found
