"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

BackboneName = Literal["sequence", "generative", "encoder"]

AsJson = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to stdout, and everything else to stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a finished run, such as runs/games.", show_default=False)
]
