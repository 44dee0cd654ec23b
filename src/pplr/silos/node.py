"""A silo's SuperNode, kept running; what keeps it from the coordinator is said in the silo's own log, in sentences."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pplr.address import Address
from pplr.errors import PplrError, RunError
from pplr.silos.processes import Security, free_port, started, supernode_command
from pplr.silos.reach import asked, check_clocks

LOG = logging.getLogger("pplr.silo")
RESTART_SECONDS = 5.0
"""A SuperNode that has died is started again after this time."""
ASK_AGAIN_SECONDS = 1.0
"""Between two looks whether a coordinator answers."""
_UNKNOWN = b"Failed to activate SuperNode"
"""What Flower's SuperNode writes where the SuperLink does not know its key."""


@contextmanager
def kept_node(name: str, superlink: Address, security: Security, log: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Keep a SuperNode running while the block lasts: one that dies is started again."""
    leaving = threading.Event()

    def keep() -> None:
        while not leaving.is_set():
            try:
                once()
            except (PplrError, OSError) as problem:  # a program that is away, a certificate that is being replaced
                LOG.warning(
                    "The SuperNode of %s cannot be started: %s Tried again in %g s.", name, problem, RESTART_SECONDS
                )
                leaving.wait(RESTART_SECONDS)

    def once() -> None:
        """Run one SuperNode from its start to its end."""
        _await(superlink, security, leaving)
        if leaving.is_set():
            return
        written = log.stat().st_size if log.exists() else 0
        command = supernode_command(name, superlink, security, log.parent / "flower", free_port())
        with started(command, log, env) as node:
            LOG.info("SuperNode of %s started, process %d", name, node.pid)
            while node.poll() is None and not leaving.wait(0.5):
                pass
        if not leaving.is_set():
            LOG.warning(
                "%s It is started again in %g s.", why_ended(name, node.returncode, log, written), RESTART_SECONDS
            )
            leaving.wait(RESTART_SECONDS)

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        leaving.set()
        keeper.join()


def _await(superlink: Address, security: Security, leaving: threading.Event) -> None:
    """Wait until the coordinator answers, and say why it does not, once for each reason."""
    said = ""
    while not leaving.is_set():
        try:
            answer = asked(superlink, security)
        except RunError as problem:
            if str(problem) != said:
                said = str(problem)
                LOG.warning("%s It is asked again and again.", said)
            leaving.wait(ASK_AGAIN_SECONDS)
            continue
        try:
            check_clocks(answer)
        except RunError as problem:
            LOG.warning("%s", problem)
        return


def why_ended(name: str, code: int, log: Path, written: int) -> str:
    """Return why a SuperNode has ended, from what it has written since."""
    with log.open("rb") as file:
        file.seek(written)
        refused = _UNKNOWN in file.read()
    if not refused:
        return f"The SuperNode has ended with {code}; its log is {log}."
    return (
        f"The coordinator does not know the key of {name}. If that lasts, ask its operator whether federation.silos names "
        f"{name}, and whether the newest certificate.pem of {name} is there."
    )
