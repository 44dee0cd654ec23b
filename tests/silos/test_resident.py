"""A silo's process answers a returning node at once, works in one thread, and outlives whoever asks."""

from __future__ import annotations

import threading
import time
from multiprocessing.connection import Client

import numpy as np
import pytest

from pplr.errors import RunError
from pplr.silos.parcel import Parcel
from pplr.silos.resident import ask, serve


@pytest.fixture
def silo(tmp_path):
    """A process's answers in a thread: `go` lets the work under way end."""
    go, threads = threading.Event(), []

    def answer(parcel: Parcel) -> Parcel:
        if parcel.kind == "train":
            threads.append(threading.current_thread())
            assert go.wait(20)
        return Parcel(f"answer to {parcel.kind}", dict(parcel.fields), parcel.row)

    address = tmp_path / "socket"
    threading.Thread(target=serve, args=(address, answer), daemon=True).start()
    deadline = time.monotonic() + 10
    while not address.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return str(address), go, threads


def test_a_name_is_told_while_the_silo_trains(silo):
    address, go, threads = silo
    answers: list[Parcel] = []
    rows = [np.full(3, number, np.float32) for number in range(4)]
    asking = [
        threading.Thread(
            target=lambda row=row: answers.append(ask(address, Parcel("train", {"n": float(row[0])}, row)))
        )
        for row in rows
    ]
    for thread in asking:
        thread.start()
    assert ask(address, Parcel("announce", {})).kind == "answer to announce"
    assert not answers
    go.set()
    for thread in asking:
        thread.join(20)
    assert sorted(answer.fields["n"] for answer in answers) == [0, 1, 2, 3]
    assert all(answer.row is not None and answer.row[0] == answer.fields["n"] for answer in answers)
    assert len(set(threads)) == 1


def test_it_outlives_those_who_ask(silo):
    address, go, _ = silo
    with Client(address, family="AF_UNIX") as gone:
        gone.send_bytes(Parcel("train", {}).to_bytes())
    with Client(address, family="AF_UNIX") as nonsense:
        nonsense.send_bytes(b"nonsense")
        with pytest.raises(EOFError):
            nonsense.recv_bytes()
    go.set()
    assert ask(address, Parcel("evaluate", {})).kind == "answer to evaluate"
    with pytest.raises(RunError, match="does not answer"):
        ask(address + "-of-nobody", Parcel("announce", {}))
