"""The ServerApp of pplr in `flower_round.py`: the coordinator as it is, with its checkpoints. Copied into an app's folder."""

import itertools
import json
import os
import time
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pplr.federation import Coordinator, FederationSettings
from pplr.federation.audit_log import AuditLog
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.engines.flower import FlowerEngine
from pplr.federation.events import Event, ignore
from pplr.federation.strategies import Pplr

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run rounds, and note when each began and the last one ended."""
    plan = json.loads(Path(os.environ["FLOWER_ROUND_PLAN"]).read_text(encoding="utf-8"))
    engine = FlowerEngine(grid, [f"silo-{i}" for i in range(plan["silos"])], ignore)
    engine.meet(120)
    marks: list[float] = []

    def observe(event: Event) -> None:
        if event.name == "round_started":
            marks.append(time.perf_counter())

    folder = Path(plan["folder"])
    rounds = FederationSettings(rounds=plan["rounds"], patience=plan["rounds"])
    row = torch.zeros(plan["numbers"])
    Coordinator(
        engine,
        Pplr(),
        rounds,
        row,
        seed=1,
        select_by="loss",
        store=CheckpointStore(folder / "checkpoints"),
        audit=AuditLog(folder),
        observer=observe,
    ).run()
    marks.append(time.perf_counter())
    seconds = [after - before for before, after in itertools.pairwise(marks)]
    Path(plan["output"]).write_text(json.dumps(seconds), encoding="utf-8")
