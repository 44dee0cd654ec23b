"""What a silo does when it is asked: announce itself, train, measure. Its data and its state stay here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pplr import __version__, run_folder
from pplr.data.dataset import Part
from pplr.errors import PplrError, RunError
from pplr.federation.client import Client
from pplr.federation.messages import Report
from pplr.results import Outcome, assemble, per_user_table
from pplr.run_folder import METRICS, PER_USER
from pplr.runner import save_fusion, save_rows
from pplr.silos.announcement import Announcement, row_digest, settings_of
from pplr.silos.codec import (
    Asked,
    evaluate_task,
    first_row_parcel,
    numbers,
    report_parcel,
    train_task,
    update_parcel,
)
from pplr.silos.parcel import Floats, Parcel, failure, plain
from pplr.silos.resident import LOG
from pplr.silos.state import TRAINED, VALIDATED, Moment, SiloState
from pplr.storage import write_folder, write_text
from pplr.wiring import Parts, owner_called

RESULT = "result"
"""Folder of what a silo has of a finished run, in its state folder."""


class SiloWork:
    """One silo at work, for as long as its process lives.

    Attributes:
        announcement: what it says of itself.
    """

    def __init__(self, parts: Parts, name: str, folder: Path) -> None:
        """Work with the data of the silo `name`, which is one of the owners, and keep its state in `folder`.

        Raises:
            StorageError: the folder cannot be made.
        """
        owner = owner_called(parts.owners, name)
        self._parts = replace(parts, silo=name, owners=(owner,))  # in a simulation others' data is here too
        (self._client,) = self._parts.clients((owner,))
        self._folder = folder
        self._state = SiloState(folder)
        self._initial = self._client.state()
        self.announcement = _announcement(self._parts, self._client)

    def answer(self, asked: Parcel) -> Parcel:
        """Return the answer to a parcel; what goes wrong is said in it."""
        try:
            return self._answered(asked)
        except PplrError as problem:
            return failure(str(problem))
        except Exception as problem:  # out of memory, or a mistake of ours: the silo's process lives on
            LOG.exception("a message of the kind %s cannot be answered", plain(asked.kind))
            return failure(f"The silo has failed at it: {type(problem).__name__}. Its log says more.")

    def _answered(self, asked: Parcel) -> Parcel:
        match asked.kind:
            case "announce":
                return Parcel("announcement", self.announcement.model_dump())
            case "initial":
                return self._first_row()
            case "train":
                return self._train(asked)
            case "evaluate":
                return self._evaluate(asked)
        return failure(f"Silo {self.announcement.name} is asked for {asked.kind[:60]!r}, which it does not know.")

    def _first_row(self) -> Parcel:
        layout = self._parts.backbone.layout
        return first_row_parcel(layout, layout.initial_row(self._parts.config.seed)[: layout.shared])

    def _train(self, asked: Parcel) -> Parcel:
        task, more = train_task(asked)
        self._check(task.client, task.row)
        self._go_to((task.round, TRAINED), more)
        update = self._client.train(task)
        self._state.save((task.round, TRAINED), self._client.state())
        return update_parcel(update)

    def _evaluate(self, asked: Parcel) -> Parcel:
        task, more = evaluate_task(asked)
        self._check(task.client, task.row)
        if task.part is Part.TEST:
            self._go_to((task.round + 1, TRAINED), more)
            if task.row is None and self._client.best is None:
                raise RunError("It has not validated a row of this run yet, so there is none to test.")
            report = self._client.evaluate(task)
            self._keep_result(report)
            return report_parcel(report)
        if task.row is None:
            raise RunError("A message that asks for a validation has no row.")
        self._go_to((task.round, VALIDATED if task.trained else TRAINED), more)
        report = self._client.evaluate(task)
        self._state.save((task.round, VALIDATED), self._client.state())
        return report_parcel(report)

    def _keep_result(self, report: Report) -> None:
        """Write what is the silo's own of a finished run: a run folder with its best row, and figures of its users."""
        parts, name = self._parts, self.announcement.name
        outcome = Outcome({name: report}, {name: self._client.info.size}, {}, {"test": report.seconds})

        def fill(folder: Path) -> None:
            run_folder.claim(folder, parts.config, parts.origin(), silo=name)
            save_rows(folder, parts, {name: self._client.best_row()})
            save_fusion(folder, [report])
            per_user_table(parts, outcome).write_parquet(folder / PER_USER)
            write_text(folder / METRICS, json.dumps(assemble(parts, outcome, [], None, None), indent=1))

        folder = self._folder / RESULT
        write_folder(folder, fill)  # what is there of an earlier run is there until then
        LOG.info("end  of the run: %s has this silo's adapters and figures; it waits for a further run", folder)

    def _check(self, client: str, row: Tensor | None) -> None:
        """Refuse a task that is another silo's, or of another model.

        Raises:
            RunError: it is.
        """
        if client != self.announcement.name:
            raise RunError(f"This is the silo {self.announcement.name}, and it is asked as {plain(client)}.")
        if row is None:
            return
        if len(row) != self.announcement.shared:
            raise RunError(
                f"A row of {len(row):,} numbers came, and {self.announcement.shared:,} parameters are shared."
            )
        if not bool(torch.isfinite(row).all()):
            raise RunError("A row came that has a number which is not finite.")

    def _go_to(self, moment: Moment, more: Asked) -> None:
        """Bring the client to where it was before a moment of the run; before round 1 it remembers nothing.

        What is there of another run is forgotten. A trunk's server that was away in the round before is asked again.
        """
        self._state.belong_to(more.run)
        if self._parts.trunk is not None:
            self._parts.trunk.renew()
        self._client.restore(self._state.before(moment) or self._initial)
        self._client.limit_examples(more.examples)


def _announcement(parts: Parts, client: Client) -> Announcement:
    layout, dataset = parts.backbone.layout, parts.dataset
    origin = parts.origin()
    return Announcement(
        name=client.info.name,
        version=__version__,
        examples=client.info.size,
        users=len(client.users),
        items=len(dataset.catalogue),
        events=int(dataset.items.lengths[client.users].sum()),
        catalogue=origin["items"],
        model=parts.model.name,
        weights=origin["model"],
        layout=origin["parameters"],
        parameters=layout.size,
        shared=layout.shared,
        initial=row_digest(_shared_initial(parts).tobytes()),
        select_by=client.select_by,
        split=parts.config.data.split.kind,
        settings=settings_of(parts.config),
        device=str(parts.backbone.device),
        notes=[note[:1_000] for note in parts.notes],
    )


def _shared_initial(parts: Parts) -> Floats:
    layout = parts.backbone.layout
    return numbers(layout.initial_row(parts.config.seed)[: layout.shared])
