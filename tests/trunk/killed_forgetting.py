"""Kills a trunk's server before each change that forgetting a client makes in its state folder, and goes on after each.

    python killed_forgetting.py FOLDER

Prints, as JSON, one entry for each kill: the change that did not come about, and what went wrong later, if anything.
Every server is a process forked from this one; what is killed runs none of its own code any more.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import torch

from pplr.models.layout import Layout, ParameterSpec, kaiming
from pplr.trunk.fields import Agreement
from pplr.trunk.rows import ServerRows
from pplr.trunk.store import Owner, StateFolder
from trunk_state import clients_kept

LAYOUT = Layout([ParameterSpec("a", (2, 3), kaiming), ParameterSpec("b", (4,), kaiming)])
EVERYBODY, OTHERS = ("ada", "bob", "cyd"), ("ada", "cyd")
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
KILLED = 9


def owner(clients: tuple[str, ...]) -> Owner:
    return Owner(agreement=Agreement(settings="s", model="m", bottom=0, top=1), run="r", clients=clients)


def two_rounds(folder: Path) -> ServerRows:
    """Let all clients train and keep a best row in two rounds, begin a third one, and keep all of it in `folder`."""
    rows, state = ServerRows(LAYOUT, EVERYBODY, LAYOUT.initial_row(1)), StateFolder(folder)
    state.begin(owner(EVERYBODY), rows)
    for number in (1, 2, 3):
        rows.begin_round(number)
        state.save_all(rows)
        for place, client in enumerate(EVERYBODY, start=1):
            rows.training(client).row.gradient.add_(place)
            rows.step(client, 1, 0.1 * number, 1.0)
            rows.finish(client)
            rows.keep(client)
            state.save_client(rows, client)
        if number < 3:
            rows.mix(torch.eye(3), number)
            state.save_all(rows)
            state.save_round(rows, number)
    return rows


def forget(folder: Path) -> ServerRows:
    """Do what the server does when a coordinator says that bob has left."""
    state = StateFolder(folder)
    found = state.owner()
    assert found is not None
    rows = ServerRows(LAYOUT, found.clients, LAYOUT.initial_row(1))
    state.load(rows)
    gone = sorted(set(found.clients) - set(OTHERS))
    if gone or state.keeps_others_than(OTHERS):
        if gone:
            rows.forget(gone)
        state.forget(owner(OTHERS), rows)
    return rows


def forget_until(folder: Path, change: int) -> None:
    """Do the same, and end without a word before one of the changes."""
    count = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in CHANGES:
            count += 1
            if count == change:
                print(f"{event} {Path(str(arguments[0])).name}", flush=True)
                os._exit(KILLED)

    sys.addaudithook(watch)
    forget(folder)
    os._exit(0)


def killed(folder: Path, change: int) -> bool:
    child = os.fork()
    if child == 0:
        forget_until(folder, change)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


def wrong(folder: Path, before: ServerRows, after_two: dict[str, torch.Tensor]) -> str | None:
    """Go on after a kill; return what is not as it has to be."""
    try:
        rows = forget(folder)
        left = clients_kept(folder) - set(OTHERS)
        if left:
            return f"kept of {left}"
        for client in OTHERS:
            if not torch.equal(rows.row(client, best=True), before.row(client, best=True)):
                return f"the best row of {client} is another"
        StateFolder(folder).restore_round(rows, 2)
        if not all(torch.equal(row, after_two[name]) for name, row in rows.state().items()):
            return "the rows after round 2 are others"
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return None


def main(work: Path) -> None:
    torch.set_num_threads(1)
    whole, case = work / "whole", work / "case"
    before = two_rounds(whole)
    reread = ServerRows(LAYOUT, EVERYBODY, LAYOUT.initial_row(1))
    shutil.copytree(whole, case)
    StateFolder(case).restore_round(reread, 2)
    found, change = [], 0
    while True:
        change += 1
        shutil.rmtree(case)
        shutil.copytree(whole, case)
        if not killed(case, change):
            break
        found.append({"change": change, "wrong": wrong(case, before, reread.state())})
    (work / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
