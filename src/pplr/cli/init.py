"""`pplr init`: write a commented configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pplr.cli.options import BackboneName
from pplr.cli.terminal import say
from pplr.errors import ConfigError
from pplr.storage import write_text


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File to write.")] = Path("pplr.toml"),
    backbone: Annotated[BackboneName, typer.Option(help="The recommender to configure.")] = "sequence",
    events: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your interactions: one row per event.", show_default=False)
    ] = None,
    items: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your items: one row per item.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite PATH if it exists.")] = False,
) -> None:
    """Write a commented configuration, for your files or for the demo data.

    Every key is in it, with its meaning; defaults stand behind a #.

    Examples:
      pplr init                                            the demo data, in pplr.toml
      pplr init shop.toml --events sales.csv --items products.csv
      pplr init shop.toml --backbone generative --force
    """
    _check(path, events, items, force)
    from pplr.config_template import template_toml

    folder = path.parent.resolve()
    text = template_toml(backbone, events=_from(folder, events), items=_from(folder, items))
    write_text(path, text)
    say(f"Wrote {path}. Next: `pplr data check {path}`, then `pplr run {path}`.")


def _check(path: Path, events: Path | None, items: Path | None, force: bool) -> None:
    """Raise ConfigError for everything that is wrong with the command line."""
    problems = []
    if path.is_dir():
        problems.append(f"{path} is a folder. Name a file in it, such as {path / 'pplr.toml'}.")
    elif path.exists() and not force:
        problems.append(f"{path} exists already. Overwrite it with --force, or name another file.")
    elif not path.parent.is_dir():
        problems.append(f"There is no folder {path.parent}. Create it first, or write the configuration elsewhere.")
    if (events is None) != (items is None):
        missing = "--items" if items is None else "--events"
        problems.append(f"{missing} is missing: your own data needs a file of events and a file of items.")
    problems += [
        f"There is no file {file}. Check --{option}; it starts at the folder that you are in."
        for option, file in (("events", events), ("items", items))
        if file is not None and not file.is_file()
    ]
    if problems:
        raise ConfigError(problems)


def _from(folder: Path, file: Path | None) -> Path | None:
    """Return `file` as the configuration in `folder` should name it: relative where it lies below, else absolute."""
    if file is None:
        return None
    absolute = file.resolve()
    return absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute
