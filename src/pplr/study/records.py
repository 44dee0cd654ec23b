"""Records of a study's cells: what is done, known by configuration, wherever it was run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

from pplr.config import parse_config
from pplr.config_history import as_meant
from pplr.errors import ConfigError
from pplr.report.folder import held_out_digest, read_metrics, read_per_user
from pplr.report.record import ENDING, make_record, read_record, write_record
from pplr.storage import alone, make_folder
from pplr.study.grid import Cell, digest_of

RECORDS = "records"
"""The folder of a study's records, where no other one is named."""


def recorded(folder: Path) -> Mapping[str, Path]:
    """Return the records in a folder by the digest of the cell that they are of.

    The digest is taken anew, from the configuration that a record holds: keys that came later stand for what was done before
    them, so that a record stays good, and a default that has changed is another cell. A record whose configuration is no longer one
    belongs to no cell.

    Raises:
        RunError: a record is damaged.
    """
    found = {}
    for path in sorted(folder.glob(f"*{ENDING}")):
        content = as_meant(read_record(path).configuration)
        try:
            found[digest_of(parse_config(deepcopy(content), folder), content)] = path
        except ConfigError:
            continue
    return found


def recorded_meanwhile(folder: Path, cell: Cell) -> bool:
    """Return whether a record with the name that this cell's will have is there: of another process at the same study."""
    return (folder / f"{cell.folder}{ENDING}").is_file()


def record_cell(cell: Cell, run: Path, folder: Path) -> Path:
    """Write the record of a cell from its finished run's folder, and return where it is.

    Raises:
        RunError: the run is not finished, or damaged.
        StorageError: the disk is full or not writable.
    """
    path = folder / f"{cell.folder}{ENDING}"
    configuration = json.loads(json.dumps(cell.content))
    record = make_record(configuration, held_out_digest(run), read_metrics(run), read_per_user(run))
    make_folder(folder)
    with alone(folder):
        write_record(path, record)
    return path
