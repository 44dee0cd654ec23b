"""The process in which a silo lives: it holds data and model, and answers the short-lived processes of Flower.

Flower starts a new process for each message. That process asks this one over a Unix socket in a folder which only the
silo's own user may enter, so that nothing is loaded twice, and a process that is killed takes nothing with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import SimpleQueue

from pplr.errors import RunError
from pplr.silos.parcel import Parcel, from_bytes

SOCKET = "PPLR_SILO_SOCKET"
"""Environment variable that tells Flower's processes where the silo's process listens."""
LOG = logging.getLogger("pplr.silo")


QUICK = frozenset({"announce", "initial"})
"""What is answered at once, also while the silo trains: a node that comes back must say its name."""

_Asked = tuple[Connection, Parcel]


def serve(address: Path, answer: Callable[[Parcel], Parcel]) -> None:
    """Answer parcels one after the other, for ever; each one that leaves is logged with its kind, bytes and digest.

    The work is done in the thread that calls this, whose number of threads torch has been told.
    """
    waiting: SimpleQueue[_Asked] = SimpleQueue()
    with Listener(str(address), family="AF_UNIX", backlog=16) as listener:
        threading.Thread(target=_receive, args=(listener, answer, waiting), daemon=True).start()
        while True:
            _answer_one(*waiting.get(), answer)


def _receive(listener: Listener, answer: Callable[[Parcel], Parcel], waiting: SimpleQueue[_Asked]) -> None:
    while True:
        connection = listener.accept()
        try:
            asked = from_bytes(connection.recv_bytes())
        except (OSError, EOFError, RunError) as problem:
            LOG.warning("refused a message: %s", problem or "whoever sent it has ended")
            connection.close()
            continue
        LOG.info("in   %s", _words(asked))
        if asked.kind in QUICK:
            _answer_one(connection, asked, answer)
        else:
            waiting.put((connection, asked))


def _answer_one(connection: Connection, asked: Parcel, answer: Callable[[Parcel], Parcel]) -> None:
    """Answer what one process asks; where it died meanwhile, nothing is lost but its answer."""
    started = time.monotonic()
    reply = answer(asked)
    try:
        connection.send_bytes(reply.to_bytes())
        LOG.info("out  %s after %.1f s", _words(reply), time.monotonic() - started)
    except OSError as problem:
        LOG.warning("%s is lost: Flower's process has ended (%s)", _words(reply), problem)
    finally:
        connection.close()


def ask(address: str, parcel: Parcel) -> Parcel:
    """Return what the silo's process that listens at `address` answers.

    Raises:
        RunError: it is not there, or ends meanwhile.
    """
    try:
        with Client(address, family="AF_UNIX") as connection:
            connection.send_bytes(parcel.to_bytes())
            return from_bytes(connection.recv_bytes())
    except (OSError, EOFError) as problem:
        raise RunError(f"The silo's own process does not answer ({problem or 'it has ended'}).") from problem


def _words(parcel: Parcel) -> str:
    number = parcel.fields.get("round")
    where = "" if number is None else f" of round {number}"
    return f"{parcel.kind}{where}, {parcel.size:,} bytes, sha256 {parcel.digest[:16]}"
