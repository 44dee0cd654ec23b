"""`pplr audit`: attacks on what a party of a federation receives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pplr.cli.options import AsJson, Quiet
from pplr.cli.terminal import results, say, shown_path, write_json
from pplr.errors import ConfigError

if TYPE_CHECKING:
    from pplr.audit.client import AdaptedClient
    from pplr.audit.hidden_states import Estimate, Example
    from pplr.audit.run import HiddenStatesReport
    from pplr.data.dataset import Dataset
    from pplr.models.hub import ModelFiles
    from pplr.models.settings import BackboneSettings

    Attacked = tuple[ModelFiles, Dataset, BackboneSettings | None, AdaptedClient | None]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Attack what a party receives, and report what could be read.",
)

CodecName = Literal["float32", "bfloat16", "int8"]

MODEL = "smollm2-135m"
"""The model that is audited where none is named."""

MOST = 0.9
"""Share of titles from which a reader has the texts."""


@app.command("hidden-states")
def hidden_states(
    model: Annotated[
        str | None, typer.Option(help=f"Language model: its name, or a folder; {MODEL} without.", show_default=False)
    ] = None,
    bottom: Annotated[int, typer.Option("--k", help="Layers behind the embedding that stay with the client.")] = 2,
    data: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="Configuration that names the data; the demo without.", show_default=False),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Finished run: take model, data, and a client's adapters from it.", show_default=False
        ),
    ] = None,
    client: Annotated[
        str | None, typer.Option(metavar="NAME", help="Client of the run, whose adapters are used.", show_default=False)
    ] = None,
    histories: Annotated[int, typer.Option(help="Held-out histories that are attacked.")] = 300,
    public: Annotated[int, typer.Option(help="Histories of other users that the attacks learn from.")] = 700,
    codec: Annotated[CodecName, typer.Option(help="How states travel.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Draws the users, and what attacks draw.")] = 1,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report here as JSON.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Read histories from the states that a split model sends to its server.

    Takes the place of whoever holds the trunk behind the first K layers. The
    attacker knows the pretrained model, the catalogue, how histories are written,
    and histories of other people. Two attacks learn from these and then read
    histories of people they never saw; popularity alone is the comparison.
    A few minutes on two cores, more with a larger K.

    Examples:
      pplr audit hidden-states --model smollm2-135m --k 2
      pplr audit hidden-states --model minilm --k 4 --codec int8
      pplr audit hidden-states --k 6 --data shop.toml --json > audit.json
      pplr audit hidden-states --k 2 --run runs/shop --client shop-1
    """
    from pplr.audit.run import AuditSettings, audit_hidden_states
    from pplr.storage import write_text

    settings = AuditSettings(bottom, histories, public, codec, seed)
    tell = _silent if quiet else say
    if run is None and client is None:
        attacked = _pretrained(model or MODEL, data, tell)
    else:
        attacked = _of_run(run, client, model, data)
    report = audit_hidden_states(*attacked[:3], settings, tell, attacked[3])
    if output is not None:
        write_text(output, json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n")
        tell(f"Written: {shown_path(output)}")
    if as_json:
        write_json(report.as_json())
    else:
        _print_report(report, results())


def _pretrained(model: str, config: Path | None, tell: Callable[[str], None]) -> Attacked:
    """Return a model as it was pretrained, and the data that a configuration names, or the demo's."""
    from pplr.data import load
    from pplr.models.hub import resolve

    files = resolve(model, progress=tell, terms=say)
    if config is None:
        from pplr.data.settings import DataSettings

        return files, load(DataSettings(demo="movietweetings"), Path()).dataset, None, None
    from pplr.config import load_config

    found = load_config(config)
    return files, load(found.data, Path()).dataset, found.backbone, None


def _of_run(run: Path | None, client: str | None, model: str | None, data: Path | None) -> Attacked:
    """Return model, data and adapters of a client of a finished run."""
    from pplr.audit.client import load_client

    if run is None or client is None:
        raise ConfigError("--run and --client belong together: a run, and the client of it whose states are attacked.")
    if model is not None or data is not None:
        raise ConfigError("A run has a model and data of its own. Leave --model and --data out, or --run and --client.")
    found = load_client(run, client)
    return found.files, found.dataset, found.config.backbone, found.client


def _print_report(report: HiddenStatesReport, console: Console) -> None:
    for example in report.outcome.examples:
        console.print(_example(example, report.outcome.best.name))
    console.print(_figures(report))
    say(conclusion(report), console)


def _figures(report: HiddenStatesReport) -> Table:
    settings = report.settings
    adapters = "" if report.client is None else f" with the adapters of {report.client}"
    title = (
        f"{report.model}{adapters}, k = {settings.bottom} of {report.layers} layers, {settings.codec}: what is read of "
        f"{settings.histories:,} held-out histories"
    )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_style="bold", title_justify="left")
    table.add_column("attack")
    for name in ("tokens of titles", "titles exactly", "ROUGE-L"):
        table.add_column(name, justify="right")
    for figures in report.outcome.figures:
        style = "bold" if figures is report.outcome.best else ""
        table.add_row(
            Text(figures.name, style=style), _share(figures.tokens), _share(figures.titles), _share(figures.rouge_l)
        )
    return table


def _example(example: Example, best: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("true", f"read ({best})"):
        table.add_column(name, overflow="fold")
    read = example.recovered[best]
    for i in range(max(len(example.true), len(read))):
        true, other = (titles[i] if i < len(titles) else "" for titles in (example.true, read))
        table.add_row(Text(true), Text(other, style="" if true == other else "yellow"))
    return table


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ± {estimate.error:.1%}"


def conclusion(report: HiddenStatesReport) -> str:
    """Return in plain sentences what the report means."""
    best, without = report.outcome.best, report.outcome.popularity
    found = (
        f"Whoever holds the trunk behind k = {report.settings.bottom} layers of {report.model} reads "
        f"{best.titles.value:.1%} of the titles in people's histories exactly ({best.name}); without states, popularity "
        f"guesses {without.titles.value:.1%}."
    )
    if best.titles.value - without.titles.value <= 2 * (best.titles.error + without.titles.error):
        return f"{found} These attacks gain nothing from the states; that is no proof that others would not."
    if best.titles.value >= MOST:
        return f"{found} These layers hide nothing: send states only to a server that may read the texts."
    return f"{found} A part of the texts can be read from the states, and other attacks may read more."


def _silent(_: str) -> None:
    """Say nothing."""
