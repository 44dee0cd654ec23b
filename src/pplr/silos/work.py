"""What a silo does when it is asked: announce itself, train, measure. Its data and its state stay here."""

from __future__ import annotations

import json
from pathlib import Path

from pplr import __version__, run_folder
from pplr.data.dataset import Part
from pplr.errors import PplrError
from pplr.federation.client import Client
from pplr.federation.messages import Report
from pplr.results import Outcome, assemble, per_user_table
from pplr.run_folder import METRICS, PER_USER
from pplr.runner import save_fusion, save_rows
from pplr.silos.announcement import Announcement, row_digest, settings_of
from pplr.silos.codec import (
    evaluate_task,
    first_row_parcel,
    numbers,
    report_parcel,
    train_task,
    update_parcel,
)
from pplr.silos.parcel import Floats, Parcel, failure
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
        self._parts = parts
        (self._client,) = parts.clients((owner_called(parts.owners, name),))
        self._folder = folder
        self._state = SiloState(folder)
        self._initial = self._client.state()
        self._examples = self._client.info.size
        self.announcement = _announcement(self._parts, self._client)

    def answer(self, asked: Parcel) -> Parcel:
        """Return the answer to a parcel; what goes wrong is said in it."""
        try:
            return self._answered(asked)
        except PplrError as problem:
            return failure(str(problem))

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
        task, examples = train_task(asked)
        if task.first:
            self._state.clear()  # of another run
        self._go_to((task.round, TRAINED), examples)
        update = self._client.train(task)
        self._state.save((task.round, TRAINED), self._client.state())
        return update_parcel(update)

    def _evaluate(self, asked: Parcel) -> Parcel:
        task, examples = evaluate_task(asked)
        if task.part is Part.TEST:
            self._go_to((task.round + 1, TRAINED), examples)
            report = self._client.evaluate(task)
            self._keep_result(report)
            return report_parcel(report)
        self._go_to((task.round, VALIDATED if task.trained else TRAINED), examples)
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

    def _go_to(self, moment: Moment, examples: int) -> None:
        """Bring the client to where it was before a moment of the run; before round 1 it remembers nothing.

        A trunk's server that was away in the round before is asked again.
        """
        if self._parts.trunk is not None:
            self._parts.trunk.renew()
        self._client.restore(self._state.before(moment) or self._initial)
        if examples < self._examples:
            self._client.limit_examples(examples)


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
