"""Running what is missing of a study, one cell after another in this process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import fmean

from pplr import run_folder
from pplr.config import load_config
from pplr.errors import CannotResume, ConfigError, InUse, Occupied, PplrError, RunError, StorageError
from pplr.federation.events import Event, Observer, ignore
from pplr.report.folder import read_metrics, read_per_user
from pplr.report.record import is_record
from pplr.runner import run
from pplr.shelf import Shelf
from pplr.study.grid import Cell
from pplr.study.records import RECORDS, record_cell, recorded, recorded_meanwhile

CELLS = "cells"
"""The folder of a study's run folders."""


class State(StrEnum):
    """How far a cell is."""

    MISSING = "missing"
    BEGUN = "begun"
    DONE = "done"


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run, and why."""

    cell: Cell
    error: PplrError


def find_folder(study_folder: Path, cell: Cell) -> Path:
    """Return the run folder of a cell: one with its digest, whatever it was called when it ran, or a new one's path."""
    found = sorted((study_folder / CELLS).glob(f"*-{cell.digest}"))
    return found[0] if found else study_folder / CELLS / cell.folder


def find_result(study_folder: Path, cell: Cell, records: Mapping[str, Path]) -> Path:
    """Return where a cell's results are: its run folder where the run is done, or else its record, if there is one."""
    folder = find_folder(study_folder, cell)
    return folder if cell.digest not in records or state_of(folder) is State.DONE else records[cell.digest]


def state_of(folder: Path) -> State:
    """Return how far the run in a cell's folder is; one whose results are missing or damaged is only begun.

    What has a record is done.
    """
    if is_record(folder):
        return State.DONE
    if not folder.is_dir() or not (folder / run_folder.MARK).is_file():
        return State.MISSING
    try:
        read_metrics(folder)
        read_per_user(folder)
        load_config(folder / run_folder.CONFIG)
    except (RunError, ConfigError):
        return State.BEGUN
    return State.DONE


def run_cells(
    cells: Sequence[Cell], study_folder: Path, observer: Observer = ignore, records: Path | None = None
) -> list[Failure]:
    """Run the cells that are not done, and return those that failed; they do not keep the others from running.

    A cell is done when its run is, or when it has a record in the folder `records`, by default that of the study's
    folder. There each run leaves its record.

    A cell that was begun goes on after its newest checkpoint; where that cannot be, it is run anew. Cells next to each
    other share data and model where these are the same. What another process runs in the study's folder right now, or has
    recorded meanwhile, is left to it.

    Raises:
        RunError: a record is damaged.
        StorageError: the disk is full or not writable, so that no cell can be run.
    """
    failures: list[Failure] = []
    keep = study_folder / RECORDS if records is None else records
    known = recorded(keep)
    shelf, clock = Shelf(), _Clock(cells, study_folder, known)
    for place, cell in enumerate(cells, start=1):
        folder = find_result(study_folder, cell, known)
        if state_of(folder) is State.DONE:
            if cell.digest not in known:
                record_cell(cell, folder, keep)
            continue
        if recorded_meanwhile(keep, cell):
            continue
        data = {
            "title": cell.title,
            "place": place,
            "cells": len(cells),
            "seconds_left": clock.left(cells[place - 1 :]),
        }
        observer(Event("cell_started", data=data))
        started = time.perf_counter()
        try:
            _run_cell(cell, folder, shelf, observer)
            record_cell(cell, folder, keep)
        except StorageError:
            raise
        except (InUse, Occupied):  # or it has come to its end since this process has looked
            observer(Event("cell_elsewhere", data={"title": cell.title}))
        except PplrError as error:
            failures.append(Failure(cell, error))
            observer(Event("cell_failed", data={"title": cell.title, "error": str(error)}))
        else:
            clock.took(cell, time.perf_counter() - started)
    return failures


def _run_cell(cell: Cell, folder: Path, shelf: Shelf, observer: Observer) -> None:
    """Run one cell, after its newest checkpoint where it has one."""
    if state_of(folder) is State.BEGUN:
        try:  # the folder keeps the name that it was begun with, and so do its checkpoints
            config = cell.config.model_copy(update={"name": _begun_as(folder)})
            run(config, folder, resume=True, observer=observer, shelf=shelf)
        except CannotResume as problem:  # and nothing else: a server that is away does not make checkpoints worthless
            observer(Event("cell_anew", data={"title": cell.title, "reason": str(problem)}))
            run(cell.config, folder, overwrite=True, observer=observer, shelf=shelf)
    else:
        run(cell.config, folder, observer=observer, shelf=shelf)


def _begun_as(folder: Path) -> str:
    try:
        return load_config(folder / run_folder.CONFIG).name
    except ConfigError as problem:
        raise CannotResume(str(problem)) from problem


class _Clock:
    """Foretells how long cells take, by those that are done."""

    def __init__(self, cells: Iterable[Cell], study_folder: Path, records: Mapping[str, Path]) -> None:
        self._folder = study_folder
        self._records = records
        self._seconds: dict[str, list[float]] = {}
        for cell in cells:
            folder = find_result(study_folder, cell, records)
            if state_of(folder) is State.DONE:
                self.took(cell, read_metrics(folder).cost.seconds.get("total", 0.0))

    def took(self, cell: Cell, seconds: float) -> None:
        """Take in how long a cell took."""
        self._seconds.setdefault(_alike(cell), []).append(seconds)

    def left(self, cells: Iterable[Cell]) -> float | None:
        """Return the seconds that those of `cells` that are not done will take, or None while nothing is known."""
        every = [seconds for known in self._seconds.values() for seconds in known]
        if not every:
            return None
        places = [(cell, find_result(self._folder, cell, self._records)) for cell in cells]
        waiting = [cell for cell, place in places if state_of(place) is not State.DONE]
        return sum(fmean(self._seconds.get(_alike(cell), every)) for cell in waiting)


def _alike(cell: Cell) -> str:
    """Return what says most about how long a cell takes: its data and its backbone."""
    return cell.config.data.model_dump_json() + cell.config.backbone.model_dump_json()
