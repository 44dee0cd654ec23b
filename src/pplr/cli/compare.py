"""`pplr compare`: is one run better than another, or only luckier?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pplr.cli.measures import shown
from pplr.cli.options import AsJson
from pplr.cli.terminal import results, say, write_json

if TYPE_CHECKING:
    from pplr.evaluation import Difference
    from pplr.report.comparison import ComparedRun, Comparison


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Two or more run folders.", show_default=False)],
    metric: Annotated[str, typer.Option(metavar="NAME", help="Which metric, such as recall@20.")] = "ndcg@10",
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Resamples of the bootstrap.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the bootstrap.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Put runs on the same users beside the first of them, overall and at the worst client.

    Differences are to the first run, with 95% intervals of a paired
    bootstrap over users; where an interval does not hold 0 the difference
    is more than the luck of the users. One run each says nothing about
    the luck of the seed: compare several.

    Examples:
      pplr compare runs/local runs/fedavg runs/pplr
      pplr compare runs/fedavg runs/pplr --metric recall@20
      pplr compare runs/local runs/pplr --json | jq '.runs[1].difference'
    """
    from pplr.report.comparison import compare_runs

    comparison = compare_runs(runs, metric=metric, samples=samples, seed=seed)
    if as_json:
        write_json(comparison.as_dict())
        return
    console = results()
    console.print(_table(comparison))
    for note in comparison.notes:
        say(note, console)


def _table(comparison: Comparison) -> Table:
    first, metric = comparison.runs[0], shown(comparison.metric)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{metric} of {first.users:,} users; differences to {first.label}",
        title_style="bold",
        title_justify="left",
        caption=f"{comparison.level:.0%} intervals, paired bootstrap, {comparison.samples:,} samples; clear: in colour",
        caption_justify="left",
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", overflow="fold")
    for name in (metric, "difference", "worst client", "difference of the worst"):
        table.add_column(name, justify="right")
    for run in comparison.runs:
        table.add_row(
            Text(run.label).append(f"\n{run.strategy}, seed {run.seed}", style="dim"),
            f"{run.overall:.4f}",
            _interval(run.difference),
            _worst(run),
            _interval(run.worst_difference),
        )
    return table


def _worst(run: ComparedRun) -> Text:
    return Text("-") if run.balance is None else Text(f"{run.balance.worst:.4f}\n{run.balance.worst_client}")


def _interval(difference: Difference | None) -> Text:
    if difference is None:
        return Text("-")
    style = "" if not difference.clear else "bold green" if difference.estimate > 0 else "bold red"
    return Text(f"{difference.estimate:+.4f}\n{difference.low:+.4f} to {difference.high:+.4f}", style=style)
