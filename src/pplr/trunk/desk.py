"""Requests that keep the contract become work, one after the other, and work becomes answers.

All of this runs in one thread; the service around it does nothing but wait.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pplr.errors import RunError
from pplr.models.causal.interface import Sight
from pplr.trunk.build import LoadedTrunk
from pplr.trunk.codecs import Codec
from pplr.trunk.fields import Agreement, Contract, Limits
from pplr.trunk.frames import Frame, Kind
from pplr.trunk.messages import Request
from pplr.trunk.payload import plain_tensors, state_tensors
from pplr.trunk.readings import Readings
from pplr.trunk.store import Owner, StateFolder
from pplr.trunk.work import Entry, States, TrunkWork

log = logging.getLogger("pplr.trunk")


@dataclass(frozen=True)
class Asked:
    """A request, who sent it, and how the answer is to be written."""

    client: str
    request: Request
    contract: Contract


class Desk:
    """The trunk, its rows and their state on disk.

    Attributes:
        agreement: what the rows belong to.
        limits: what a client may ask for.
    """

    def __init__(self, trunk: LoadedTrunk, agreement: Agreement, state: StateFolder, limits: Limits) -> None:
        """Go on where the state folder's last server was.

        Raises:
            RunError: the folder holds the state of another run.
        """
        self.agreement = agreement
        self.limits = limits
        self._trunk = trunk
        self._state = state
        self._work: TrunkWork | None = None
        self._readings = Readings(limits, lambda client: self._held_passes(client)[1])
        self._unused: set[str] = set()  # clients with a gradient that no step has used
        self._run = ""
        found = state.owner()
        if found is not None:
            self._check(found.agreement, f"The state in {state.folder} is of another run.")
            self._run, self._work = found.run, trunk.work(found.clients)
            state.load(self._work.rows)

    @property
    def clients(self) -> tuple[str, ...] | None:
        """The clients that have rows, or None before a coordinator has named them."""
        return None if self._work is None else self._work.rows.bank.clients

    @property
    def work(self) -> TrunkWork:
        """The trunk at work.

        Raises:
            RunError: no coordinator has begun a run.
        """
        return self._ready()

    def contract(self, codec: Codec, bucket: int) -> Contract:
        """Return what a session agrees on."""
        return Contract(self._trunk.width, self._trunk.decoder, codec, bucket, self.limits, len(self.clients or ()))

    def open(
        self, agreement: Agreement, run: str, clients: Sequence[str], *, fresh: bool, forgotten: Sequence[str] = ()
    ) -> None:
        """Let a coordinator begin a run with these clients, or go on with it; rows of `forgotten` clients are deleted.

        Raises:
            RunError: it is about another run than the one whose rows are here.
        """
        self._check(agreement)
        if fresh or self._work is None:
            self._readings.clear()
            self._unused.clear()
            self._run, self._work = run, self._trunk.work(clients)
            self._state.begin(Owner(agreement=agreement, run=run, clients=tuple(clients)), self._work.rows)
            return
        self._check_run(run)
        known = self._work.rows.bank.clients
        if forgotten and tuple(sorted(clients)) == tuple(name for name in known if name not in forgotten):
            self._forget_for_good(self._work, sorted(set(forgotten) & set(known)))
            return
        if tuple(sorted(clients)) != known:
            raise RunError(
                f"The trunk's server has rows of {', '.join(self._work.rows.bank.clients)}, and the run has the clients "
                f"{', '.join(sorted(clients))}. Start the run again with --overwrite."
            )

    def _forget_for_good(self, work: TrunkWork, gone: Sequence[str]) -> None:
        stay = tuple(name for name in work.rows.bank.clients if name not in gone)
        if not gone and not self._state.keeps_others_than(stay):
            return  # a coordinator that is here again, maybe in the midst of a round
        for client in gone:
            self.forget(client)
        if gone:
            log.info("the run goes on without %s, whose rows are deleted", ", ".join(gone))
            work.rows.forget(gone)
        self._state.forget(Owner(agreement=self.agreement, run=self._run, clients=stay), work.rows)

    def check(self, agreement: Agreement, run: str) -> None:
        """Raise RunError where a client means something else than is served here."""
        self._check(agreement)
        if self._work is not None:
            self._check_run(run)

    def _check_run(self, run: str) -> None:
        if run != self._run:
            raise RunError(
                "The trunk's server has the rows of another run. Give it the state folder of this one (--state), or "
                "start this run again, with --overwrite."
            )

    def stands(self, client: str | None) -> tuple[int, int]:
        """Return the round that is on, and how many steps a client has taken in it."""
        if self._work is None:
            return 0, 0
        return self._work.rows.round, 0 if client is None else self._work.rows.steps(client)

    def forget(self, client: str) -> None:
        """Free what a client left behind: passes, readings, and a gradient that no step has used."""
        self._readings.clear(client)
        self._unused.discard(client)
        if self._work is not None:
            self._work.release(client)
            self._work.rows.forget_gradient(client)

    def in_step(self, client: str) -> bool:
        """Return whether a client has begun a step that is not taken yet."""
        return client in self._unused or (self._work is not None and self._work.held(client) > 0)

    def answers(self, asked: Sequence[Asked]) -> list[Frame | RunError | None]:
        """Return an answer per request, or the error that it deserves; None where a request has no answer.

        Several requests at once are forward passes, or backward passes, which are computed together.
        """
        if len(asked) > 1 and asked[0].request.kind in (Kind.FORWARD, Kind.BACKWARD):
            try:
                return list(self._together(asked))
            except (
                Exception
            ) as problem:  # somebody's request is wrong: each by itself, so that the others do not suffer
                if not isinstance(problem, RunError):
                    log.exception("a batch of %d clients failed, and is computed one by one", len(asked))
        return [self._answer_or_error(one) for one in asked]

    def _answer_or_error(self, asked: Asked) -> Frame | RunError | None:
        try:
            return self._answer(asked)
        except RunError as problem:
            return problem
        except Exception as problem:  # out of memory, or a mistake of ours: the other clients go on
            log.exception("a request of kind %s of %s failed", asked.request.kind, asked.client or "the coordinator")
            return RunError(
                f"The trunk's server failed at a request of kind {asked.request.kind}: {type(problem).__name__}. Its log says more."
            )

    def _answer(self, asked: Asked) -> Frame | None:
        request, client, work = asked.request, asked.client, self._ready()
        match request.kind:
            case Kind.FORWARD | Kind.BACKWARD:
                return self._together([asked])[0]
            case Kind.STEP:
                self._unused.discard(client)
                work.rows.step(client, request.fields.step, request.fields.rate, request.fields.factor)
                self._state.save_client(work.rows, client)
                return None
            case Kind.START:
                work.release(client)
                self._unused.discard(client)
                work.rows.start(client, request.fields.round)
                self._state.save_client(work.rows, client)
            case Kind.FINISH:
                work.rows.finish(client)
                self._state.save_client(work.rows, client)
            case Kind.KEEP:
                work.rows.keep(client)
                self._state.save_client(work.rows, client)
            case Kind.READ:
                return self._read(asked)
            case Kind.SHIFT | Kind.SPREAD | Kind.CLOSE:
                self._moved(asked)
                return None
            case Kind.GRAM:
                matrix = work.rows.gram(updates=request.fields.updates)
                return Frame(Kind.MATRIX, request.number, {}, {"matrix": matrix.cpu()})
            case _:
                self._coordinated(request, work)
        return Frame(Kind.DONE, request.number, {"steps": work.rows.steps(client)})

    def _coordinated(self, request: Request, work: TrunkWork) -> None:
        number = request.fields.round
        match request.kind:
            case Kind.BEGIN:
                work.rows.begin_round(number)
                self._state.save_all(work.rows)
            case Kind.WITHOUT:
                for client in request.fields.clients:
                    work.release(client)
                work.rows.leave_out(request.fields.clients, number)
                self._unused.difference_update(request.fields.clients)
                self._state.save_all(work.rows)
            case Kind.MIX if request.matrix is not None:
                work.rows.mix(request.matrix, number)
                self._state.save_all(work.rows)
            case Kind.SAVE:
                if number != work.rows.round:
                    raise RunError(f"Round {number} is to be kept, but round {work.rows.round} is on. Resume the run.")
                self._state.save_round(work.rows, number)
            case Kind.RESTORE:
                self._state.restore_round(work.rows, number)
            case _:
                raise RunError(f"A request of kind {request.kind} cannot be answered.")

    def _together(self, asked: Sequence[Asked]) -> list[Frame]:
        work = self._ready()
        if asked[0].request.kind is Kind.FORWARD:
            for one in asked:
                self._check_held(one)
            results = work.forward_all([self._entry(one) for one in asked])
            return [self._states(one, result) for one, result in zip(asked, results, strict=True)]
        gradients = [(one.client, one.request.fields.of, self._here(one)) for one in asked]
        found = work.backward_all(gradients)
        self._unused.update(one.client for one in asked)
        return [self._gradient(one, states) for one, states in zip(asked, found, strict=True)]

    def _entry(self, asked: Asked) -> Entry:
        if asked.request.manner is None:
            raise RunError("A pass does not say how states are to be passed.")
        return asked.client, asked.request.number, self._here(asked), asked.request.manner

    def _states(self, asked: Asked, result: States) -> Frame:
        tensors = state_tensors(result, asked.contract, present=False)
        return Frame(Kind.STATES, asked.request.number, self._progress(asked.client), tensors)

    def _gradient(self, asked: Asked, found: States) -> Frame:
        training = self._ready().rows.training(asked.client)
        fields = self._progress(asked.client) | {"squared_norm": training.squared_norm()}
        return Frame(Kind.GRADIENT, asked.request.number, fields, state_tensors(found, asked.contract, present=False))

    def _progress(self, client: str) -> dict[str, Any]:
        return {"steps": self._ready().rows.steps(client)}

    def _here(self, asked: Asked) -> States:
        """Return the states of a request on the device that computes."""
        states = asked.request.states
        if states is None:
            raise RunError("A pass has no states.")
        device = self._ready().rows.bank.rows.device
        start = None if states.start is None else states.start.to(device)
        return replace(states, rows=states.rows.to(device), present=states.present.to(device), start=start)

    def _read(self, asked: Asked) -> Frame:
        request, fields, work = asked.request, asked.request.fields, self._ready()
        if request.read is None:
            raise RunError("A reading has no states.")
        device = work.rows.bank.rows.device
        states, positions, sight = request.read
        sight = Sight(*(None if one is None else one.to(device) for one in (sight.seen, sight.full, sight.keys)))
        found = self._readings.read(
            asked.client,
            fields,
            (states.to(device), positions.to(device), sight),
            lambda: work.reading(asked.client, fields.room, adapted=fields.adapted, best=fields.best),
        )
        return Frame(Kind.STATES, request.number, self._progress(asked.client), plain_tensors(found, asked.contract))

    def _moved(self, asked: Asked) -> None:
        client, fields = asked.client, asked.request.fields
        match asked.request.kind:
            case Kind.SHIFT:
                self._readings.shift(client, fields.reading, list(fields.moves), fields.rows)
            case Kind.SPREAD:
                self._readings.spread(client, fields.reading, fields.rows, fields.room)
            case _:
                self._readings.close(client, fields.reading)

    def _check_held(self, asked: Asked) -> None:
        manner = asked.request.manner
        if manner is None or not manner.gradients:
            return
        passes, tokens = self._held_passes(asked.client)
        passes, tokens = passes + 1, tokens + asked.request.tokens + self._readings.tokens(asked.client)
        if passes > self.limits.passes or tokens > self.limits.held_tokens:
            raise RunError(
                f"Client {asked.client} would hold {passes} passes and {tokens:,} tokens; {self.limits.passes} and "
                f"{self.limits.held_tokens:,} are allowed. Set training.batch_tokens or placement.pieces lower."
            )

    def _held_passes(self, client: str) -> tuple[int, int]:
        """Return how many passes of a client are held, and their tokens."""
        return (0, 0) if self._work is None else self._work.held_by(client)

    def _check(self, agreement: Agreement, what: str = "The trunk's server and its client do not fit.") -> None:
        own = self.agreement
        differing = [name for name in type(own).model_fields if getattr(own, name) != getattr(agreement, name)]
        if differing:
            raise RunError(
                f"{what} The configurations differ in {', '.join(differing)}: give all parties the same seed, backbone, "
                "training.weight_decay, training.moments, placement.bottom and placement.top, the same strategy where it has "
                "a proximal term or keeps layers from mixing, and the same model."
            )

    def _ready(self) -> TrunkWork:
        if self._work is None:
            raise RunError("No coordinator has begun a run on this server. Start `pplr run` first.")
        return self._work
