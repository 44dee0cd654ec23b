"""A party's session with the trunk's server, seen from the party: it outlives the server's restarts.

One thread receives; whoever asks sends, and waits where it wants the answer. When the stream breaks, the thread begins
another session, sends again what the server has forgotten (`Journal`), and answers that were given before are ignored.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import grpc
from torch import Tensor

from pplr.errors import RunError
from pplr.pki import Party
from pplr.trunk.channel import details_of, lasting, secure_channel
from pplr.trunk.fields import HelloFields, WelcomeFields, welcome_of
from pplr.trunk.frames import Frame, Kind, decoded, encoded
from pplr.trunk.journal import Journal, Sent
from pplr.trunk.meter import Meter

METHOD = "/pplr.Trunk/Session"
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two tries to reach a server, at first and at last."""

log = logging.getLogger("pplr.trunk")


class Connection:
    """Requests to one server, answered in order."""

    def __init__(self, address: str, party: Party, hello: HelloFields, meter: Meter, patience: float) -> None:
        """Connect when first asked for something; each session begins with `hello`.

        A server that is away is waited for during `patience` seconds.
        """
        self._address = address
        self._party = party
        self._hello = hello
        self._meter = meter
        self._patience = patience
        self._lock = threading.Lock()
        self._journal = Journal()
        self._waiting: dict[int, Future[Frame]] = {}
        self._outgoing: queue.SimpleQueue[bytes | None] | None = None
        self._number = 0
        self._thread: threading.Thread | None = None
        self._welcome: Future[WelcomeFields] = Future()
        self._failed: RunError | None = None
        self._closing = False

    def welcome(self) -> WelcomeFields:
        """Return what the server said at first; waits for it.

        Raises:
            RunError: it refuses, or cannot be reached.
        """
        with self._lock:
            self._run()
        return self._welcome.result()

    def ask(
        self,
        kind: Kind,
        fields: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None = None,
        *,
        answered: bool = True,
        held: bool = False,
        step: int | None = None,
        reading: int | None = None,
    ) -> tuple[int, Future[Frame]]:
        """Send a request, and return its number and where its answer will be; see `Sent` for the others.

        Raises:
            RunError: the session has failed.
        """
        with self._lock:
            self._number += 1
            number = self._number
        data = encoded(Frame(kind, number, fields, tensors or {}))
        answer: Future[Frame] = Future()
        with self._lock:
            if self._failed is not None:
                raise self._failed
            if answered:
                self._waiting[number] = answer
            self._journal.add(Sent(number, kind, data, held=held, step=step, reading=reading))
            if self._outgoing is not None:
                self._put(kind, data)
            self._run()
        return number, answer

    def renew(self) -> None:
        """Where the session has failed, forget that and what was asked: the next request begins another one."""
        with self._lock:
            thread = self._thread if self._failed is not None else None
        if thread is None:
            return
        thread.join()
        with self._lock:
            self._failed, self._thread, self._journal = None, None, Journal()
            if self._welcome.exception() is not None:
                self._welcome = Future()

    def close(self) -> None:
        """End the session, if there is one, after what was sent."""
        with self._lock:
            self._closing = True
            if self._outgoing is not None:
                self._outgoing.put(None)
            thread = self._thread
        if thread is not None:
            thread.join(10)

    def _put(self, kind: Kind, data: bytes) -> None:
        if self._outgoing is not None:
            self._outgoing.put(data)
            self._meter.count("up", kind, len(data))

    def _run(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._hold, name="trunk-connection", daemon=True)
            self._thread.start()

    def _hold(self) -> None:
        try:
            self._sessions()
        except Exception as problem:  # whoever waits for an answer would wait for ever
            log.exception("the connection with the trunk's server at %s failed", self._address)
            self._fail(RunError(f"The connection with the trunk's server at {self._address} failed: {problem}"))

    def _sessions(self) -> None:
        """Hold one session after the other until the party leaves, or it is no use."""
        pause, away_since = FIRST_PAUSE, time.monotonic()
        with secure_channel(self._address, self._party) as channel:
            while True:
                begun = time.monotonic()
                problem = self._session(channel)
                if problem is None or self._closing:
                    return
                was_there = self._broken()
                if was_there:
                    pause, away_since = FIRST_PAUSE, time.monotonic()
                why = lasting(problem, self._address) or self._away_too_long(problem, away_since)
                if why is not None:
                    self._fail(why)
                    return
                if was_there:
                    log.warning("the session with the trunk's server at %s broke; another begins", self._address)
                if time.monotonic() - begun < LONGEST_PAUSE:
                    time.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)

    def _away_too_long(self, problem: Exception, since: float) -> RunError | None:
        if time.monotonic() - since <= self._patience:
            return None
        return RunError(
            f"The trunk's server at {self._address} has not been reached for {self._patience:g} s "
            f"({details_of(problem)}). Start it with `pplr trunk serve`, then go on with --resume."
        )

    def _next_hello(self) -> HelloFields:
        """Return what to begin with: only the first session begins afresh, one that replaces it goes on."""
        return self._hello.model_copy(update={"fresh": self._hello.fresh and not self._welcome.done()})

    def _session(self, channel: grpc.Channel) -> Exception | None:
        """Hold a session; returns what broke it, or None where this party has left."""
        outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        first = encoded(Frame(Kind.HELLO, 0, self._next_hello().model_dump()))
        self._meter.count("up", Kind.HELLO, len(first))
        outgoing.put(first)
        try:
            for data in channel.stream_stream(METHOD)(iter(outgoing.get, None)):
                frame = decoded(data)
                self._meter.count("down", frame.kind, len(data))
                if frame.kind is Kind.WELCOME:
                    self._welcomed(frame, outgoing)
                else:
                    self._answered(frame)
        except grpc.RpcError as problem:
            broken: Exception = problem
            return broken
        finally:
            outgoing.put(None)  # lets go of the thread that sends
        return None if self._closing else Ended("it ended the session without a word")

    def _welcomed(self, frame: Frame, outgoing: queue.SimpleQueue[bytes | None]) -> None:
        fields = welcome_of(frame)
        with self._lock:
            if not self._welcome.done():
                self._welcome.set_result(fields)
            self._journal.taken(fields.steps)
            self._outgoing = outgoing
            for one in self._journal.again():
                self._put(one.kind, one.data)
            if self._closing:
                outgoing.put(None)

    def _answered(self, frame: Frame) -> None:
        steps = frame.fields.get("steps")
        with self._lock:
            self._journal.answered(frame.number, steps if isinstance(steps, int) else None)
            answer = self._waiting.pop(frame.number, None)
        if answer is not None:
            answer.set_result(frame)

    def _broken(self) -> bool:
        """Note that there is no session, and return whether there was one."""
        with self._lock:
            was_there, self._outgoing = self._outgoing is not None, None
        return was_there

    def _fail(self, why: RunError) -> None:
        with self._lock:
            self._failed = why
            waiting, self._waiting = self._waiting, {}
            if not self._welcome.done():
                self._welcome.set_exception(why)
        for answer in waiting.values():
            answer.set_exception(why)


class Ended(Exception):
    """The server has left."""
