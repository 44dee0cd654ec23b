"""The trunk's server reached over the network: the links of clients, and the control of the coordinator."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from torch import Tensor

from pplr.config import Config
from pplr.errors import RunError
from pplr.models.causal.interface import Sight
from pplr.models.hub import ModelFiles
from pplr.models.parts.passing import TrunkReading
from pplr.pki import Identity, Party, Role
from pplr.trunk.access import TrunkAccess
from pplr.trunk.build import agreement, run_digest, split_placement
from pplr.trunk.codecs import codec
from pplr.trunk.connection import Connection
from pplr.trunk.control import TrunkControl
from pplr.trunk.fields import Contract, HelloFields
from pplr.trunk.frames import Frame, Kind
from pplr.trunk.meter import Meter
from pplr.trunk.payload import matrix_of, plain_states, read_tensors, received_states, state_tensors
from pplr.trunk.stub import Link
from pplr.trunk.work import Manner, States


class RemoteAccess(TrunkAccess):
    """The server that a configuration names; parties connect when they first need it."""

    def __init__(self, config: Config, files: ModelFiles, clients: list[str]) -> None:
        """Reach the server as some or all `clients`, and as the coordinator.

        Raises:
            ConfigError: the configuration splits no model.
        """
        self._placement = split_placement(config)
        self._decoder = config.backbone.kind == "generative"
        self._agreement, self._run = agreement(config, files), run_digest(config)
        self._clients = clients
        self._meter = Meter()
        self._connections: list[Connection] = []

    def control(self, *, fresh: bool, forgotten: Sequence[str] = ()) -> TrunkControl:
        """Return the coordinator's control.

        Raises:
            ConfigError: the coordinator has no certificate.
        """
        hello = self._hello(clients=self._clients, fresh=fresh, forgotten=forgotten)
        return RemoteControl(self._connection(Identity(Role.COORDINATOR, "coordinator"), hello), len(self._clients))

    def link(self, client: str) -> Link:
        """Return a client's link.

        Raises:
            ConfigError: the client has no certificate.
        """
        return RemoteLink(self._connection(Identity(Role.CLIENT, client), self._hello()), self._contract)

    def traffic(self) -> dict[str, Any]:
        """Return the bytes of frames so far, by direction and kind."""
        return self._meter.totals()

    def renew(self) -> None:
        """Let sessions that have failed begin again."""
        for connection in self._connections:
            connection.renew()

    def close(self) -> None:
        """End all sessions."""
        for connection in self._connections:
            connection.close()

    def _hello(
        self, clients: list[str] | None = None, *, fresh: bool = False, forgotten: Sequence[str] = ()
    ) -> HelloFields:
        placement = self._placement
        return HelloFields(
            agreement=self._agreement,
            run=self._run,
            codec=placement.codec,
            bucket=placement.bucket,
            clients=clients,
            forgotten=list(forgotten),
            fresh=fresh,
        )

    def _connection(self, identity: Identity, hello: HelloFields) -> Connection:
        placement = self._placement
        party = Party.load(Path(placement.certificates), identity)
        connection = Connection(placement.server or "", party, hello, self._meter, placement.wait_seconds)
        self._connections.append(connection)
        return connection

    def _contract(self, connection: Connection) -> Contract:
        welcome = connection.welcome()
        return Contract(
            welcome.width, self._decoder, codec(self._placement.codec), self._placement.bucket, welcome.limits
        )


class RemoteLink(Link):
    """One client's way to its trunk, over a connection."""

    def __init__(self, connection: Connection, contract: Callable[[Connection], Contract]) -> None:
        self._connection = connection
        self._make_contract = contract
        self._agreed: Contract | None = None
        self._requests: dict[int, int] = {}  # a pass's number -> its request's
        self._gradients: dict[int, tuple[Future[Frame], Tensor, int]] = {}
        self._readings = 0
        self._unused: deque[int] = deque()  # readings that nobody has any more
        self._squared_norm = (0, 0.0)  # of the gradient, as of which request

    @property
    def _contract(self) -> Contract:
        if self._agreed is None:
            self._agreed = self._make_contract(self._connection)
        return self._agreed

    def forward(self, number: int, given: States, manner: Manner) -> Callable[[], States]:
        """Send states, and return a function that waits for those behind the trunk."""
        contract, start = self._contract, _length(given.start)
        rows, length = given.present.shape
        fields = {"rows": rows, "length": length, "start": start, **vars(manner)}
        request, answer = self._connection.ask(
            Kind.FORWARD, fields, state_tensors(given, contract, present=True), held=manner.gradients
        )
        if manner.gradients:
            self._requests[number] = request

        def received() -> States:
            found = received_states(answer.result(), given.present, start, contract)
            return _on_device_of(given, found)

        return received

    def backward(self, number: int, gradient: States) -> None:
        """Send the gradient for what came of a pass."""
        contract, start = self._contract, _length(gradient.start)
        rows, length = gradient.present.shape
        fields = {"of": self._requests.pop(number), "start": start, "rows": rows, "length": length}
        tensors = state_tensors(gradient, contract, present=True)
        _, answer = self._connection.ask(Kind.BACKWARD, fields, tensors, held=True)
        self._gradients[number] = (answer, gradient.present, start)

    def gradient(self, number: int) -> States:
        """Wait for the gradient for what a pass was given."""
        answer, present, start = self._gradients.pop(number)
        frame = answer.result()
        found = received_states(frame, present, start, self._contract)
        self._squared_norm = max(self._squared_norm, (frame.number, _number(frame, "squared_norm")))
        return States(found.rows.to(present.device), present, _moved(found.start, present))

    def reading(self, room: int, *, adapted: bool, best: bool) -> TrunkReading:
        """Return a reading that has read nothing."""
        self._close_readings()
        self._readings += 1
        reading = RemoteReading(self._connection, self._contract, self._readings, room, adapted=adapted, best=best)
        weakref.finalize(reading, self._unused.append, self._readings)
        return reading

    def start(self, round_number: int) -> None:
        """Begin to train in a round."""
        self._requests.clear()
        self._gradients.clear()
        self._close_readings()
        self._done(Kind.START, {"round": round_number})

    def squared_norm(self) -> float:
        """Return the squared norm of the gradient of all passes of this step."""
        return self._squared_norm[1]

    def step(self, number: int, rate: float, factor: float) -> None:
        """Have a step taken."""
        fields = {"step": number, "rate": rate, "factor": factor}
        self._connection.ask(Kind.STEP, fields, answered=False, held=True, step=number)
        self._squared_norm = (self._squared_norm[0], 0.0)

    def finish(self) -> None:
        """Put what was trained in its place."""
        self._done(Kind.FINISH, {})

    def keep(self) -> None:
        """Remember the trunk's part of the row as the best one."""
        self._done(Kind.KEEP, {})

    def _close_readings(self) -> None:
        while self._unused:
            number = self._unused.popleft()
            self._connection.ask(Kind.CLOSE, {"reading": number}, answered=False, reading=number)

    def _done(self, kind: Kind, fields: Mapping[str, Any]) -> None:
        self._connection.ask(kind, fields)[1].result()


class RemoteReading(TrunkReading):
    """A reading whose cache is with the server."""

    def __init__(
        self, connection: Connection, contract: Contract, number: int, room: int, *, adapted: bool, best: bool
    ) -> None:
        self._connection = connection
        self._contract = contract
        self._number = number
        self._fields = {"reading": number, "room": room, "adapted": adapted, "best": best}

    def read(self, states: Tensor, positions: Tensor, sight: Sight) -> Tensor:
        """Return the states [rows, new, width] behind the trunk."""
        rows, new = positions.shape
        shape = {"rows": rows, "new": new, "all": sight.length, "full": sight.full is not None}
        tensors = read_tensors(states, positions, sight, self._contract)
        _, answer = self._connection.ask(Kind.READ, self._fields | shape, tensors, reading=self._number)
        return plain_states(answer.result(), (rows, new), self._contract).to(states.device)

    def keep(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Keep some rows."""
        self._tell(Kind.SHIFT, {"reading": self._number, "moves": moves, "rows": rows})

    def spread(self, rows: int, room: int) -> None:
        """Give the only row to all."""
        self._tell(Kind.SPREAD, {"reading": self._number, "rows": rows, "room": room})

    def _tell(self, kind: Kind, fields: Mapping[str, Any]) -> None:
        self._connection.ask(kind, fields, answered=False, reading=self._number)


class RemoteControl(TrunkControl):
    """The coordinator's requests over a connection."""

    def __init__(self, connection: Connection, clients: int) -> None:
        self._connection = connection
        self._clients = clients

    def begin_round(self, number: int) -> None:
        """Let a round begin."""
        self._done(Kind.BEGIN, number)

    def leave_out(self, clients: Sequence[str], number: int) -> None:
        """Let a round go on without clients."""
        self._connection.ask(Kind.WITHOUT, {"round": number, "clients": list(clients)})[1].result()

    def gram(self, *, updates: bool) -> Tensor:
        """Return the inner products [clients, clients] float64."""
        _, answer = self._connection.ask(Kind.GRAM, {"updates": updates})
        return matrix_of(answer.result(), self._clients)

    def mix(self, mixing: Tensor, number: int) -> None:
        """Replace the rows by `mixing` @ rows."""
        self._done(Kind.MIX, number, {"matrix": mixing.double()})

    def save(self, number: int) -> None:
        """Keep the state after a round."""
        self._done(Kind.SAVE, number)

    def restore(self, number: int) -> None:
        """Go back to the state after a round."""
        self._done(Kind.RESTORE, number)

    def _done(self, kind: Kind, number: int, tensors: Mapping[str, Tensor] | None = None) -> None:
        self._connection.ask(kind, {"round": number}, tensors)[1].result()


def _length(start: Tensor | None) -> int:
    return 0 if start is None else start.shape[1]


def _moved(start: Tensor | None, like: Tensor) -> Tensor | None:
    return None if start is None else start.to(like.device)


def _on_device_of(given: States, found: States) -> States:
    return States(found.rows.to(given.rows.device), given.present, _moved(found.start, given.rows))


def _number(frame: Frame, name: str) -> float:
    value = frame.fields.get(name)
    if not isinstance(value, int | float):
        raise RunError(f"An answer of the trunk's server has no {name}. Are both ends of the same version?")
    return float(value)
