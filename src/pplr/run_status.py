"""Where a run stands, from what it has written: read-only, while it runs and afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pplr.errors import RunError
from pplr.run_folder import CHECKPOINTS, EVENTS, LOCK, MARK, METRICS, silo_of
from pplr.silos.plan import MEETING, PLAN_FILE, work_folder

State = Literal["alive", "late", "absent", "quarantined", "away", "awaited"]
Phase = Literal["waiting for silos", "training", "validating", "testing", "finished"]


@dataclass(frozen=True)
class SiloStatus:
    """One silo, or client.

    Attributes:
        name: its name.
        state: "alive"; "late" (it did not answer in time), "absent" (it failed) or "quarantined" (its update was refused)
            in the last round in which it was asked; "away" (it has gone) or "awaited" (it has not come yet).
        reason: why it is not alive, or None.
        trained: the last round from which there is an update, or None.
        training_loss: of that round, per target token.
        validation_loss: the last one.
        ndcg: the last validation NDCG@10, where it was measured.
    """

    name: str
    state: State = "alive"
    reason: str | None = None
    trained: int | None = None
    training_loss: float | None = None
    validation_loss: float | None = None
    ndcg: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """A run.

    Attributes:
        folder: of the run.
        phase: what is done, or was done last.
        running: whether a process has the folder right now; None where the system does not tell.
        round: the round that is on, or was last; 0 before the first.
        rounds: how many there are at most; None before the first.
        score: the last validation score over all users, higher is better.
        last: when the last event was, in unix seconds; None before the first.
        bytes_up: of rows to the coordinator, in finished rounds.
        bytes_down: of rows to the silos, in finished rounds.
        silos: by name.
    """

    folder: Path
    phase: Phase = "waiting for silos"
    running: bool | None = None
    round: int = 0
    rounds: int | None = None
    score: float | None = None
    last: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    silos: tuple[SiloStatus, ...] = ()


def run_status(folder: Path) -> RunStatus:
    """Return where the run in a folder stands.

    Raises:
        RunError: there is no run in the folder, nor one that waits for its silos.
    """
    if (silo := silo_of(folder)) is not None:
        raise RunError(
            f"{folder} holds what the silo {silo} has of a finished run. Ask for the status at its coordinator."
        )
    work = work_folder(folder.resolve())
    running = _held(folder / LOCK)
    begun = (folder / MARK).is_file()
    awaited = _awaited(work) if running or not begun else ()
    if not begun and not awaited:
        raise RunError(
            f"There is no run in {folder}. Name the folder that `pplr coordinator run` or `pplr run` writes."
        )
    log = folder / EVENTS if begun else work / MEETING
    story = _Story({name: SiloStatus(name, "awaited") for name in awaited})
    for entry in _entries(log):
        story.see(entry)
    up, down = _bytes(folder)
    names = sorted(story.silos)
    return replace(
        story.run,
        folder=folder,
        running=running,
        bytes_up=up,
        bytes_down=down,
        silos=tuple(story.silos[name] for name in names),
    )


def newest_run(here: Path) -> Path:
    """Return the run folder that somebody means who names none: `run`, or the one in `runs` that was written last.

    Raises:
        RunError: there is none.
    """
    found = [path for path in (here / "run", *sorted((here / "runs").glob("*"))) if _is_run(path)]
    if not found:
        raise RunError(f"There is no run in {here / 'run'} or {here / 'runs'}. Name the folder of one.")
    return max(found, key=_written)


def _is_run(folder: Path) -> bool:
    return (folder / MARK).is_file() or (folder / LOCK).is_file()


def _written(folder: Path) -> float:
    places = (folder / EVENTS, folder / MARK, folder / LOCK)
    return max(path.stat().st_mtime for path in places if path.exists())


@dataclass
class _Story:
    """What the events so far amount to.

    Attributes:
        silos: by name.
        run: phase, round and score.
    """

    silos: dict[str, SiloStatus]
    run: RunStatus = field(default_factory=lambda: RunStatus(Path()))

    def see(self, entry: dict[str, Any]) -> None:
        """Take in one event; those of which nothing is told are passed over."""
        name, client = entry["event"], entry.get("client")
        self.run = replace(self.run, last=entry.get("time"))
        if client is not None and (name != "silo_refused" or client in self.silos):
            self._see_silo(name, client, entry)
            if name == "client_validated":
                self.run = replace(self.run, phase="validating")
            return
        match name:
            case "clients_made":
                self.silos |= {silo: SiloStatus(silo) for silo in entry["sizes"]}
            case "round_started":
                self.run = replace(self.run, phase="training", round=entry["round"], rounds=entry["rounds"])
                self.silos |= {silo: SiloStatus(silo) for silo in entry["clients"] if silo not in self.silos}
            case "round_finished":
                self.run = replace(self.run, score=entry["score"])
            case "stopped":
                self.run = replace(self.run, phase="testing")
            case "run_finished":
                self.run = replace(self.run, phase="finished")

    def _see_silo(self, name: str, client: str, entry: dict[str, Any]) -> None:
        silo = self.silos.get(client, SiloStatus(client))
        match name:
            case "silo_connected":
                silo = replace(silo, state="alive", reason=None) if silo.state in {"awaited", "away"} else silo
            case "silo_left":
                silo = replace(silo, state="away", reason="its node has gone")
            case "silo_refused":
                silo = replace(silo, reason=entry["reason"])
            case "client_trained":
                silo = replace(
                    silo, state="alive", reason=None, trained=entry["round"], training_loss=entry.get("loss")
                )
            case "absent":
                late = entry["reason"].startswith("it did not answer")
                silo = replace(silo, state="late" if late else "absent", reason=entry["reason"])
            case "quarantined":
                silo = replace(silo, state="quarantined", reason=entry["reason"])
            case "client_validated":
                silo = replace(silo, validation_loss=entry.get("loss"), ndcg=entry.get("ndcg@10"))
        self.silos[client] = silo


def _awaited(work: Path) -> tuple[str, ...]:
    """Return the silos of the coordinator's newest plan."""
    try:
        return tuple(json.loads((work / PLAN_FILE).read_text(encoding="utf-8"))["silos"])
    except FileNotFoundError:
        return ()


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log; the last line may be on its way."""
    if not log.is_file():
        return
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # a process was killed while it wrote this line
            continue
        if isinstance(entry, dict) and "event" in entry:
            yield entry


def _bytes(folder: Path) -> tuple[int, int]:
    """Return the bytes of finished rounds, up and down."""
    rounds = _finished_rounds(folder)
    return sum(one["bytes_up"] for one in rounds), sum(one["bytes_down"] for one in rounds)


def _finished_rounds(folder: Path) -> list[dict[str, Any]]:
    """Return the records of finished rounds: of the result, or of the newest checkpoint."""
    checkpoints = sorted((folder / CHECKPOINTS).glob("round-*"), reverse=True)
    for path, key in [(folder / METRICS, "rounds"), *((one / "progress.json", "history") for one in checkpoints)]:
        try:
            found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))[key]
        except FileNotFoundError:  # also: an older checkpoint, deleted just now
            continue
        return found
    return []


def _held(lock: Path) -> bool | None:
    """Return whether a process holds a lock, without trying to get it; None where the system does not tell."""
    table = Path("/proc/locks")
    if not table.is_file():
        return None
    if not lock.is_file():
        return False
    number = str(lock.stat().st_ino)
    return any(number in _inodes(line) for line in table.read_text(encoding="utf-8").splitlines())


def _inodes(line: str) -> Iterable[str]:
    """Return the inode in a line of /proc/locks: `1: FLOCK ADVISORY WRITE 8421 08:02:1234 0 EOF`."""
    return [word.rpartition(":")[2] for word in line.split() if word.count(":") == 2]
