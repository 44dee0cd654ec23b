"""What the coordinator's command asks of the process in which Flower runs its ServerApp, and how that ended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pplr import errors
from pplr.errors import PplrError
from pplr.storage import write_text

PLAN = "PPLR_COORDINATOR_PLAN"
"""Environment variable with the plan's file."""
PLAN_FILE, OUTCOME, PROCESS = "plan.json", "outcome.json", "process"
MEETING = "meeting.jsonl"
"""Events until all silos have come: as in the run folder's log, which begins with them."""


def work_folder(folder: Path) -> Path:
    """Return the folder beside a run folder that has Flower's files, the plan, and the outcome."""
    return folder.with_name(f"{folder.name}.flower")


@dataclass(frozen=True)
class Plan:
    """One run of the coordinator.

    Attributes:
        work: folder for this plan, Flower's files, and the outcome.
        config: file of the configuration.
        folder: the run folder.
        silos: names of all silos.
        resume: go on after the newest checkpoint.
        overwrite: replace the run that is there.
        meet_seconds: how long silos may take to connect.
        coordinator: identity of the command's process (`silos.life`), with which this run ends even if it was killed; None:
            of nobody's.
    """

    work: str
    config: str
    folder: str
    silos: tuple[str, ...]
    resume: bool
    overwrite: bool
    meet_seconds: float
    coordinator: str | None = None

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Return the plan in a file."""
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(**found | {"silos": tuple(found["silos"])})

    def write(self, path: Path) -> None:
        """Write the plan into a file; what is left of an earlier one goes."""
        for name in (OUTCOME, PROCESS, MEETING):
            (Path(self.work) / name).unlink(missing_ok=True)
        write_text(path, json.dumps(asdict(self)))

    @contextmanager
    def outcome(self) -> Iterator[None]:
        """Leave word of this process, and of how the block ended, unless another plan has been written since.

        The process of a coordinator that was killed lives on for half a second: its end is not that of the run that is
        resumed.
        """
        work = Path(self.work)
        write_text(work / PROCESS, str(os.getpid()))
        problem: dict[str, str] = {}
        try:
            yield
        except PplrError as error:
            problem = {"error": type(error).__name__, "text": str(error)}
            raise
        except BaseException as error:
            problem = {"error": "", "text": f"{type(error).__name__}: {error}"}
            raise
        finally:
            if self.process() == os.getpid():
                write_text(work / OUTCOME, json.dumps(problem))

    def process(self) -> int | None:
        """Return the id of the process that runs the plan, or None before it has begun."""
        path = Path(self.work) / PROCESS
        return int(path.read_text(encoding="utf-8")) if path.is_file() else None

    def ended(self) -> bool:
        """Return whether the run has ended well.

        Raises:
            PplrError: it has ended otherwise; the error is the one that the other process raised.
        """
        path = Path(self.work) / OUTCOME
        if not path.is_file():
            return False
        problem = json.loads(path.read_text(encoding="utf-8"))
        if not problem:
            return True
        kind = getattr(errors, problem["error"], PplrError)
        raise kind(problem["text"])
