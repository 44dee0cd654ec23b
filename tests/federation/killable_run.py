"""Tiny federations in processes of their own: one that is left alone, one that is killed again and again.

    python killable_run.py FOLDER SEED KILLS

writes FOLDER/whole/result.safetensors and FOLDER/broken/result.safetensors, and prints how often it killed. The children
are forked, so that the imports are paid for once.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny

PROCESSES = multiprocessing.get_context("fork")


def run(folder: Path, events: Any) -> None:
    """Run to the end, from the newest checkpoint if there is one; save bank, what clients keep, and the scores."""
    store = folder / "checkpoints"

    def count(event: object) -> None:
        events.value += 1

    options = {"rounds": 5, "patience": 5, "participation": 0.75}
    coordinator, members = tiny.federation(store, observer=count, **options)
    if store.exists() and any(path.name.startswith("round-") for path in store.iterdir()):
        coordinator.resume()
    coordinator.run()
    scores = torch.tensor([record.score for record in coordinator.progress.history], dtype=torch.float64)
    kept = {f"{client.info.name}/{name}": t.clone() for client in members for name, t in client.state().items()}
    save_file({"rows": coordinator.bank.rows, "scores": scores, **kept}, folder / "result.safetensors")


def attempt(folder: Path, *, kill_at: int | None = None, delay: float = 0.0) -> bool:
    """Run in a child; kill it `delay` seconds after its event number `kill_at`. Return whether it was killed."""
    events = PROCESSES.Value("i", 0, lock=False)
    child = PROCESSES.Process(target=run, args=(folder, events))
    child.start()
    while kill_at is not None and child.is_alive():
        if events.value >= kill_at:
            time.sleep(delay)
            child.kill()
            break
        time.sleep(0.0005)
    child.join()
    if child.exitcode not in {0, -signal.SIGKILL}:
        sys.exit(f"a run ended with exit code {child.exitcode}")
    return child.exitcode == -signal.SIGKILL


def main(folder: Path, seed: int, kills: int) -> None:
    """Make both results; the moments of the kills are drawn from `seed`."""
    torch.set_num_threads(1)
    tiny.federation(None)  # imports what is imported late, once for all children
    whole, broken = folder / "whole", folder / "broken"
    whole.mkdir()
    broken.mkdir()
    attempt(whole)
    draw = random.Random(seed)
    killed = sum(attempt(broken, kill_at=draw.randrange(1, 16), delay=draw.random() * 0.03) for _ in range(kills))
    attempt(broken)
    print(killed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
