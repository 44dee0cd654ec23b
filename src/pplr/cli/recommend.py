"""`pplr recommend`: what a client's model would show to a user next."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pplr.cli.options import AsJson, Quiet, RunFolder
from pplr.cli.progress import watching
from pplr.cli.terminal import results, write_json
from pplr.errors import ConfigError

if TYPE_CHECKING:
    from pplr.recommender import Recommendations

HISTORY_SHOWN = 15
"""Last items of a history that are printed."""


def recommend(
    run: RunFolder,
    client: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose model; a user's own where it is left out.", show_default=False),
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="ID", help="A user of the client's data.", show_default=False)
    ] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(metavar="TITLES", help="Instead of a user: titles or item ids, oldest first, separated by ';'."),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--top", min=1, metavar="N", help="How many items.")] = 10,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Recommend items to a user of the data, or to whoever has a given history.

    A title that contains a semicolon is given by its item id.

    Examples:
      pplr recommend runs/games --user 1234
      pplr recommend runs/demo-sequence-pplr --client client-3 --history "Alien (1979); Heat (1995)" -k 5
      pplr recommend runs/games --client client-0 --user 1234 --quiet --json
    """
    if (user is None) == (not history):
        raise ConfigError("Say for whom: give either --user ID or --history 'Title; Title'.")
    with watching(quiet=quiet) as observer:
        from pplr.recommender import Recommender

        recommender = Recommender.load(run, observer)
        if client is None:
            client = recommender.owner(user) if user is not None else _only(recommender.clients)
        found = recommender.recommend(
            client,
            user=user,
            history=_titles(history) if history else None,
            k=k,
        )
    if as_json:
        write_json(asdict(found))
    else:
        print_recommendations(found, results())


def print_recommendations(found: Recommendations, console: Console) -> None:
    """Print the end of a history, and below it what is recommended."""
    console.print(Text(f"{found.client}: history, oldest first", style="bold"))
    left_out = len(found.history) - HISTORY_SHOWN
    if left_out > 0:
        console.print(f"  ... {left_out:,} earlier", style="dim", highlight=False)
    for item in found.history[-HISTORY_SHOWN:]:
        console.print(Text(f"  {item.title}"))
    table = Table(box=box.SIMPLE_HEAD, title="Recommended", title_style="bold", title_justify="left")
    table.add_column("", justify="right")
    table.add_column("title", overflow="fold")
    table.add_column("id", style="dim", overflow="fold")
    table.add_column("score", justify="right")
    for entry in found.items:
        table.add_row(str(entry.rank), Text(entry.title), Text(entry.id), f"{entry.score:.3f}")
    console.print(table)


def _only(clients: tuple[str, ...]) -> str:
    if len(clients) == 1:
        return clients[0]
    raise ConfigError(f"Say with --client whose model is asked about this history. This run has {', '.join(clients)}.")


def _titles(history: list[str]) -> list[str]:
    return [title.strip() for entry in history for title in entry.split(";") if title.strip()]
