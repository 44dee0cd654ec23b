"""`pplr evaluate`: measure a finished run again."""

from __future__ import annotations

from pplr.cli.measures import print_measures
from pplr.cli.options import AsJson, Quiet, RunFolder
from pplr.cli.progress import watching
from pplr.cli.terminal import results, write_json


def evaluate(run: RunFolder, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Measure a finished run again, from its data and adapters; nothing is written.

    --json prints the figures in the form of metrics.json.

    Examples:
      pplr evaluate runs/games
      pplr evaluate runs/games --quiet --json | jq .overall
    """
    with watching(quiet=quiet) as observer:
        from pplr.runner import evaluate_run

        metrics = evaluate_run(run, observer)
    if as_json:
        write_json(metrics)
    else:
        print_measures(metrics, results())
