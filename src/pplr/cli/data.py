"""`pplr data check`: look at a data set before hours are spent on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pplr.cli.options import AsJson
from pplr.cli.terminal import results, say, write_json
from pplr.errors import DataError

if TYPE_CHECKING:
    from pplr.data.report import DataReport, Quantiles
    from pplr.data.settings import DataSettings

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Look at data before it is used.")


@app.command("check")
def check_data(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Folder of events and items, or a configuration.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Report counts, k-cores, lengths, texts, ties, and what may leak or stop a run.

    A folder is searched for interactions, events or ratings beside items or
    movies (CSV, TSV, Parquet, gzip), RecBole's and MovieLens' own files.
    Name a configuration (.toml) for files with other names or columns.
    The exit code is 3 where a run would stop.

    Examples:
      pplr data check data/shop
      pplr data check pplr.toml
      pplr data check data/shop --json | jq .warnings
    """
    from pplr.data.checks import check

    settings = _settings(path)
    report = check(settings, Path.cwd())
    if as_json:
        write_json(report.model_dump(mode="json"))
    else:
        _print_report(report, results())
    if report.problems:
        raise typer.Exit(DataError.exit_code)


def _settings(path: Path) -> DataSettings:
    if path.suffix == ".toml":
        from pplr.config import load_config

        return load_config(path).data
    from pplr.data.discover import discover

    return discover(path)


def _print_report(report: DataReport, console: Console) -> None:
    console.print(Text(str(report.source), style="bold"))
    console.print(_counts(report))
    if report.cores:
        console.print(_cores(report))
    for title, sentences, style in (
        ("Done to the data", report.notes, ""),
        ("Warnings", report.warnings, "yellow"),
        ("Problems: a run would stop", report.problems, "red"),
    ):
        if sentences:
            console.print(Text(title, style=f"bold {style}"))
            for sentence in sentences:
                say(f"- {sentence}", console)
    if not report.warnings and not report.problems:
        console.print(Text("Nothing to complain about.", style="green"))


def _counts(report: DataReport) -> Table:
    text, order, split = report.text, report.order, report.split
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("users", f"{report.users:,}, events of each: {_spread(report.user_events)}"),
        ("items", f"{report.items:,}, events of each: {_spread(report.item_events)}"),
        ("", f"{report.items_without_events:,} without events"),
        ("events", f"{report.events:,}; of an item the user had before: {order.repeats:,}"),
        ("order", f"by {order.ordered_by}; ties: {order.ties:,} events of {order.users_with_ties:,} users"),
    ]
    if order.first is not None:
        rows.append(("", f"from {order.first} to {order.last}"))
    rows += [
        ("titles", f"{_spread(text.characters)} characters; longer than the limit: {text.longer_than_limit:,}"),
        ("", f"missing: {text.missing:,}; shared: {text.duplicates:,}; all capitals: {text.all_capitals:,}"),
        ("", f"with HTML entities: {text.html_entities:,}"),
    ]
    if split is not None:
        rows += [
            (
                "split",
                f"{split.kind}: events {split.training:,} + {split.validation:,} + {split.test:,} (test)",
            ),
            ("", f"asked: {split.validation_users:,} users in validation, {split.test_users:,} in the test"),
            ("", f"training events of a user: {_spread(split.training_lengths)}"),
            (
                "",
                f"test targets unseen in training: {split.test_unseen:.1%}; had before: {split.test_repeated:.1%}",
            ),
        ]
        if split.training_after_test is not None:
            rows.append(("", f"training events later than the median test event: {split.training_after_test:.1%}"))
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _cores(report: DataReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="Where users and items have at least k events", title_style="bold")
    for name in ("k", "users", "items", "events"):
        table.add_column(name, justify="right")
    for core in report.cores:
        table.add_row(str(core.k), f"{core.users:,}", f"{core.items:,}", f"{core.events:,}")
    return table


def _spread(values: Quantiles) -> str:
    return f"{values.minimum:g} to {values.maximum:g}, median {values.median:g}, 95% at most {values.q95:g}"
