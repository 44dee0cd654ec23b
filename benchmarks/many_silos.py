"""A thousand silos through the coordinator in one process: seconds and memory per round.

    python benchmarks/many_silos.py [--silos 1000] [--numbers 50000] [--rounds 10]

The silos do not train: each adds noise of its own to its row, so that what is measured is the coordinator's. Tasks and
answers go through the parcels and fields of the wire; admission, comparison, mixing by similarity, audit log and checkpoint
are those of any run. What must be in memory is the bank, the rows before training beside it, and blocks of 64 MB.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peak_memory import peak_bytes, resident_bytes
from pplr.federation import Coordinator, FederationSettings
from pplr.federation.audit_log import AuditLog, verify
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.events import Event, Observer
from pplr.federation.messages import ClientInfo, EvaluateTask, Report, TrainTask, Update
from pplr.federation.strategies import Pplr
from pplr.seeds import torch_generator
from pplr.silos import codec
from pplr.silos.parcel import Parcel, from_bytes
from result_file import write_result

HERE = Path(__file__).parent


class NoisySilos:
    """Silos that answer at once."""

    def __init__(self, count: int) -> None:
        """Make `count` silos of different sizes."""
        self.clients = tuple(ClientInfo(f"silo-{i:05d}", 10 + i % 90) for i in range(count))

    def train(self, tasks: Sequence[TrainTask], observer: Observer, seconds: float | None = None) -> Iterator[Update]:
        """Give each row with noise."""
        for task in tasks:
            asked, _ = codec.train_task(_through(codec.train_parcel(task, codec.Asked("run", 10))))
            generator = torch_generator(1, asked.client, asked.round)
            row = asked.row + 0.01 * torch.randn(len(asked.row), generator=generator)
            loss = 1.0 + 0.5 * float(torch.rand((), generator=generator))
            yield codec.update_of(_through(codec.update_parcel(Update(asked.client, asked.round, row, loss, 9, 9, {}))))

    def evaluate(self, tasks: Sequence[EvaluateTask], observer: Observer, seconds: float | None = None) -> list[Report]:
        """Say something of each."""
        return [
            codec.report_of(_through(codec.report_parcel(Report(task.client, task.part, 1.0 / task.round, 5))))
            for task in tasks
        ]

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing."""


def _through(parcel: Parcel) -> Parcel:
    return from_bytes(parcel.to_bytes())


def main(arguments: list[str] | None = None) -> None:
    """Run the rounds and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--silos", type=int, default=1_000)
    parser.add_argument("--numbers", type=int, default=50_000, help="of a row; four bytes each")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "many_silos.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        figures = measured(Path(name), options.silos, options.numbers, options.rounds)
    write_result(options.output, "many_silos", figures)


def measured(folder: Path, silos: int, numbers: int, rounds: int) -> dict[str, Any]:
    """Return seconds and resident memory of each round."""
    before = resident_bytes()
    marks, resident = [time.perf_counter()], []

    def observe(event: Event) -> None:
        if event.name == "checkpoint":
            marks.append(time.perf_counter())
            resident.append(resident_bytes())

    coordinator = Coordinator(
        NoisySilos(silos),
        Pplr(),
        FederationSettings(rounds=rounds, patience=rounds, norm_bound=10.0),
        torch.zeros(numbers),
        seed=1,
        select_by="loss",
        store=CheckpointStore(folder / "checkpoints"),
        audit=AuditLog(folder),
        observer=observe,
    )
    coordinator.run()
    bank = 4 * silos * numbers
    return {
        "silos": silos, "rounds": rounds, "row_bytes": 4 * numbers, "bank_bytes": bank, "before_bytes": before,
        "peak_bytes": peak_bytes(), "resident_bytes": resident, "peak_over_banks": (peak_bytes() - before) / bank,
        "growth_bytes": resident[-1] - resident[0],
        "seconds": [after - before for before, after in itertools.pairwise(marks)],
        "audited_rounds": len(verify(folder).rounds),
    }  # fmt: skip


if __name__ == "__main__":
    main()
