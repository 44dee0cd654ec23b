"""`pplr demo`: see it work."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from pplr.cli import INTERRUPTED
from pplr.cli.measures import main_metric, print_measures, shown
from pplr.cli.options import BackboneName, Quiet
from pplr.cli.progress import watching
from pplr.cli.progress_words import number
from pplr.cli.terminal import results, say, shown_path
from pplr.wording import seconds_text

if TYPE_CHECKING:
    from pplr.demo import DemoResult, Glimpse

StrategyName = Literal["pplr", "fedavg", "local", "centralised"]

USERS_SHOWN = 2
"""Users whose recommendations are printed."""


def demo(
    backbone: Annotated[BackboneName, typer.Option(help="The recommender to show.")] = "sequence",
    strategy: Annotated[StrategyName, typer.Option(help="How the clients learn from each other.")] = "pplr",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where run folders go; runs/ without.", show_default=False)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train on data that comes with pplr, and show what it is worth.

    Five clients share MovieTweetings and learn together. The result stands
    beside simple baselines and beside clients that learn alone, followed by
    recommendations for two users, and a generative model learning the task.
    Minutes on two cores; about half an hour with another backbone, which
    then trains on a sample of the events. Earlier demos' folders are replaced.

    Examples:
      pplr demo
      pplr demo --backbone generative
      pplr demo --strategy fedavg --out /tmp/runs
    """
    try:
        with watching(quiet=quiet) as observer:
            from pplr.demo import demo as show

            shown_demo = show(backbone, strategy, out, observer, _silent if quiet else say)
    except KeyboardInterrupt as interrupt:
        say("Interrupted. `pplr demo` starts again from the beginning.")
        raise typer.Exit(INTERRUPTED) from interrupt
    _print_demo(shown_demo, results())


def _print_demo(result: DemoResult, console: Console) -> None:
    metrics = dict(result.federated.metrics)
    if result.local is not None:
        metrics["baselines"] = {"local": result.local.metrics, **metrics["baselines"]}
    print_measures(metrics, console)
    _print_examples(result.federated.folder, console)
    if result.glimpse is not None:
        _print_glimpse(result.glimpse, console)
    key, folder = main_metric(metrics), shown_path(result.federated.folder)
    say(f"{shown(key)} over all users: {number(metrics['overall'][key])}. The report shows more: {folder}/report.html")
    say("Next: your own data. `pplr init --events FILE --items FILE` writes the configuration.")
    say(f"Or ask the model: pplr recommend {shlex.quote(folder)} --client client-0 --history 'Title; Title'")


def _print_examples(folder: Path, console: Console) -> None:
    """Print the recommendations for one user of each of the first clients, from the run folder."""
    examples = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    firsts = {example["client"]: example for example in reversed(examples)}
    for client in sorted(firsts)[:USERS_SHOWN]:
        example = firsts[client]
        console.print(Text(f"User {example['user']} of {client}", style="bold"))
        _print_titles("watched", example["history"][-5:], console)
        _print_titles("recommended", [entry["title"] for entry in example["recommended"][:5]], console)
        _print_titles("chose next", example["chosen"][:5], console)
        console.print()


def _print_glimpse(glimpse: Glimpse, console: Console) -> None:
    console.print(Text(f"A generative model, {seconds_text(glimpse.seconds)}", style="bold"))
    say(f"  validation loss a token: {number(glimpse.before, 3)} before, {number(glimpse.after, 3)} after", console)
    _print_titles("history", list(glimpse.history[-5:]), console)
    watched = " (watched already, so never recommended)" if glimpse.known else ""
    _print_titles("wrote freely", [f"{glimpse.written}{watched}"], console)
    _print_titles("grounded", [glimpse.grounded], console)
    _print_titles("chose next", [glimpse.chosen], console)
    console.print()


def _print_titles(label: str, titles: list[str], console: Console) -> None:
    say(f"  {label:12} {'; '.join(titles)}", console)


def _silent(_: str) -> None:
    """Say nothing."""
