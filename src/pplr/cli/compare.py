"""`pplr compare`: is one run better than another, or only luckier?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pplr.cli.comparison_table import comparison_table
from pplr.cli.options import AsJson
from pplr.cli.terminal import results, say, shown_path, write_json

Format = Literal["terminal", "markdown", "latex", "csv"]


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Two or more run folders or records.", show_default=False)
    ],
    metric: Annotated[str, typer.Option(metavar="NAME", help="Which metric, such as recall@20.")] = "ndcg@10",
    over_seeds: Annotated[
        bool,
        typer.Option("--over-seeds", help="Runs that differ in nothing but seed and name are one: means over seeds."),
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How the table is written.")] = "terminal",
    plots: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw plots into an HTML file.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Resamples of the bootstrap.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the bootstrap.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Put runs on the same users beside the first of them, overall and at the worst client.

    Differences are to the first run, with 95% intervals of a paired
    bootstrap over users; where an interval does not hold 0 the difference
    is more than the luck of the users. One run each says nothing about
    the luck of the seed: give several and --over-seeds.

    Examples:
      pplr compare runs/local runs/fedavg runs/pplr
      pplr compare runs/fedavg runs/pplr --metric recall@20
      pplr compare runs/fedavg-* runs/pplr-* --over-seeds --format latex
      pplr compare runs/movietweetings/records/* --over-seeds
      pplr compare runs/local runs/pplr --json | jq '.runs[1].difference'
    """
    from pplr.report.comparison import compare_runs, compare_variants
    from pplr.report.comparison_page import write_page
    from pplr.report.comparison_text import WRITERS
    from pplr.report.variants import by_configuration

    if over_seeds:
        comparison = compare_variants(by_configuration(runs), metric, samples, seed)
    else:
        comparison = compare_runs(runs, metric, samples, seed)
    if plots is not None:
        write_page(plots, "Comparison", [("", comparison)])
        say(f"Plots: {shown_path(plots.resolve())}")
    if as_json:
        write_json(comparison.as_dict())
    elif form != "terminal":
        sys.stdout.write(WRITERS[form](comparison))
    else:
        console = results()
        console.print(comparison_table(comparison))
        for note in comparison.notes:
            say(note, console)
