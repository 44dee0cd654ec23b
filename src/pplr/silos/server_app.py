"""Flower's ServerApp of a coordinator: it runs the rounds over the Grid, and leaves word of how it went."""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pplr.silos.life import end_with
from pplr.silos.plan import PLAN, Plan

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the plan says whose file the environment names."""
    plan = Plan.read(Path(os.environ[PLAN]))
    if plan.coordinator is not None:
        end_with(plan.coordinator)
    with plan.outcome():
        from pplr.silos.coordinate import coordinate

        coordinate(plan, grid)
