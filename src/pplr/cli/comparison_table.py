"""A comparison on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from pplr.cli.measures import shown
from pplr.wording import baseline_name

if TYPE_CHECKING:
    from pplr.evaluation import Difference
    from pplr.report.comparison import ComparedRun, Comparison


def comparison_table(comparison: Comparison, title: str = "") -> Table:
    """Return a table with a row per variant: figures, and differences to the first."""
    first, metric = comparison.runs[0], shown(comparison.metric)
    start = f"{title}: " if title else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{start}{metric} of {first.users:,} users; differences to {first.label}",
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
        seeds = f"seed{'s' if len(run.seeds) > 1 else ''} {', '.join(map(str, run.seeds))}"
        table.add_row(
            Text(run.label).append(f"\n{run.strategy}, {seeds}", style="dim"),
            _figure(run.overall, run.overall_std),
            _interval(run.difference),
            _worst(run),
            _interval(run.worst_difference),
        )
    for each in comparison.baselines:
        table.add_row(baseline_name(each.name), f"{each.overall:.4f}", "-", f"{each.worst:.4f}", "-")
    return table


def _figure(value: float, deviation: float | None) -> Text:
    return Text(f"{value:.4f}" if deviation is None else f"{value:.4f}\n± {deviation:.4f}")


def _worst(run: ComparedRun) -> Text:
    if run.balance is None:
        return Text("-")
    if run.worst_std is not None:
        return _figure(run.balance.worst, run.worst_std)
    return Text(f"{run.balance.worst:.4f}\n{run.balance.worst_client}")


def _interval(difference: Difference | None) -> Text:
    if difference is None:
        return Text("-")
    style = "" if not difference.clear else "bold green" if difference.estimate > 0 else "bold red"
    return Text(f"{difference.estimate:+.4f}\n{difference.low:+.4f} to {difference.high:+.4f}", style=style)
