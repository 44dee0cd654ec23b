"""Tasks and answers as messages of Flower: one message per silo, each with its own row."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import httpx
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from pplr.data.dataset import Part
from pplr.errors import PplrError, RunError
from pplr.evaluation.metrics import DEFAULT_KS, METRICS, metric_key
from pplr.federation.admission import LARGEST_LOSS
from pplr.federation.events import Event, Observer
from pplr.federation.messages import Absence, ClientInfo, EvaluateTask, Report, TrainTask, Update
from pplr.models.layout import Layout
from pplr.silos.announcement import Announcement
from pplr.silos.codec import Asked, evaluate_parcel, first_row, parsed, report_of, train_parcel, update_of
from pplr.silos.parcel import Parcel, plain
from pplr.silos.records import MESSAGE_TYPES, content_of, parcel_of

LONGEST_SECONDS = 7 * 24 * 3600.0
"""Flower forgets a message after so long where no deadline is set."""
PULL_SECONDS = 0.2
"""Between two looks for answers."""
RECONNECT_SECONDS = 60.0
"""A silo that is away when it is to be asked is waited for so long: its node may be starting again."""
AGAIN_SECONDS = 30.0
"""A node that cannot say its name is asked again after so long."""
LATE_SECONDS = 15.0
"""Once enough silos are there, the others are waited for so long before round 1; who comes later joins later."""
FIRST_ROW_SECONDS = 300.0
"""A silo sends its first row within this time."""


Task = TypeVar("Task", TrainTask, EvaluateTask)


@dataclass(frozen=True)
class NoAnswer:
    """Instead of a parcel.

    Attributes:
        reason: why there is none.
        unusable: something came, and it cannot be read.
    """

    reason: str
    unusable: bool = False


class FlowerEngine:
    """Carries tasks over Flower's Grid to silos, which are known by their names, never by number or order of nodes.

    Attributes:
        announced: name -> what the silo says of itself.
    """

    def __init__(self, grid: Grid, silos: Sequence[str], observer: Observer, ks: Sequence[int] = DEFAULT_KS) -> None:
        """Carry tasks to `silos`, and to nobody else; they measure at the list lengths `ks`."""
        self._grid = grid
        self._ks = frozenset(ks)
        self._run = ""
        self._silos = tuple(sorted(silos))
        self._observe = observer
        self._nodes: dict[str, int] = {}
        self._known: dict[int, float] = {}  # node -> when it may be asked for its name again
        self._asked: dict[str, int] = {}
        self._refused: Callable[[Announcement], str | None] = lambda announced: None
        self._sizes: dict[str, int] = {}
        self._most: int | None = None
        self.announced: dict[str, Announcement] = {}

    @property
    def clients(self) -> tuple[ClientInfo, ...]:
        """All silos, ordered by name; those that have not announced themselves yet have no examples."""
        return tuple(ClientInfo(name, self._size(name), name in self.announced) for name in self._silos)

    def _size(self, name: str) -> int:
        if name not in self.announced:
            return 0
        most = self.announced[name].examples
        return self._sizes.get(name, most if self._most is None else min(most, self._most))

    def meet(self, seconds: float, least: int | None = None) -> None:
        """Wait until all silos have announced themselves, or `least` of them and the others had a moment more.

        Raises:
            RunError: fewer have within `seconds`.
        """
        deadline = time.monotonic() + seconds
        missing = self._wait_for(self._silos, seconds, least)
        if missing and least is not None and len(self._nodes) >= least:
            missing = self._wait_for(self._silos, min(LATE_SECONDS, deadline - time.monotonic()))
        if missing and (least is None or len(self._nodes) < least):
            raise RunError(
                f"After {seconds:g} seconds {', '.join(missing)} had not connected; there are "
                f"{', '.join(self._nodes) or 'none'}. Start them with `pplr silo run`, leave them out of "
                "federation.silos, or begin without them: federation.start_with."
            )

    def begin(self, run: str) -> None:
        """Ask for the run of this identity from now on."""
        self._run = run

    def admit(
        self, refused: Callable[[Announcement], str | None], examples: Mapping[str, int], most: int | None = None
    ) -> None:
        """Let only silos in from now on of which `refused` says nothing, and give each its number of examples.

        One that is not among `examples` uses all that it has, `most` at most.
        """
        self._refused = refused
        self._sizes = dict(examples)
        self._most = most

    def first_row(self, silo: str) -> tuple[Layout, Tensor]:
        """Return a silo's layout and the shared row [S] before the first round.

        Raises:
            RunError: it does not answer.
        """
        for _, answer in self._exchange({silo: Parcel("initial", {})}, FIRST_ROW_SECONDS):
            return first_row(_good(answer))
        raise RunError(f"Silo {silo} does not answer.")

    def train(
        self, tasks: Sequence[TrainTask], observer: Observer, seconds: float | None = None
    ) -> Iterator[Update | Absence]:
        """Give updates as they arrive; whoever does not answer in `seconds`, or says that it has failed, is absent."""
        parcels = {task.client: train_parcel(task, asked) for task, asked in self._with_sizes(tasks)}
        number = tasks[0].round if tasks else 0
        for name, answer in self._exchange(parcels, seconds):
            try:
                update = update_of(_good(answer))
            except RunError as problem:
                failed = answer.kind == "failure" if isinstance(answer, Parcel) else not answer.unusable
                yield Absence(name, number, str(problem), unusable=not failed)
                continue
            if update.client != name:
                yield Absence(name, number, f"it says it is {update.client!r}", unusable=True)
                continue
            data = {"loss": update.loss, "tokens": update.tokens, "seconds": update.seconds}
            observer(Event("client_trained", number, name, data))
            yield update

    def evaluate(self, tasks: Sequence[EvaluateTask], observer: Observer, seconds: float | None = None) -> list[Report]:
        """Return the reports of those who answer in `seconds`, in the order of the tasks."""
        parcels = {task.client: evaluate_parcel(task, asked) for task, asked in self._with_sizes(tasks)}
        of = {task.client: task for task in tasks}
        reports: dict[str, Report] = {}
        for name, answer in self._exchange(parcels, seconds):
            try:
                reports[name] = self._expected(report_of(_good(answer)), of[name])
            except RunError as problem:
                observer(Event("not_measured", tasks[0].round, name, {"reason": str(problem)}))
        return [reports[task.client] for task in tasks if task.client in reports]

    def _with_sizes(self, tasks: Sequence[Task]) -> list[tuple[Task, Asked]]:
        sizes = {info.name: info.size for info in self.clients}
        return [(task, Asked(self._run, sizes[task.client])) for task in tasks]

    def _expected(self, report: Report, task: EvaluateTask) -> Report:
        """Return a report that can be the answer to a task.

        Raises:
            RunError: it cannot.
        """
        if (report.client, report.part) != (task.client, task.part):
            raise RunError("it reports something else than it was asked for")
        if report.users > self.announced[task.client].users:
            raise RunError(f"it reports of {report.users:,} users, and has announced fewer")
        if not math.isnan(report.loss) and not 0 <= report.loss <= LARGEST_LOSS:
            raise RunError(f"its loss is {report.loss}")
        ks = self._ks | {10} if task.part is Part.VALIDATION else self._ks  # rows are chosen by NDCG@10
        wanted = {metric_key(name, k) for name in METRICS for k in ks}
        for figures in (report.metrics, report.metrics_alone or {}):
            if figures and figures.keys() != wanted:
                raise RunError("it reports other figures than it was asked for")
            if not all(0 <= value <= 1 for value in figures.values()):
                raise RunError("it reports figures that are not between 0 and 1")
        return report

    def state(self) -> dict[str, Tensor]:
        """Return nothing: silos keep their state themselves."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing: silos go back by themselves when they are asked for a round again."""

    def _exchange(
        self, parcels: Mapping[str, Parcel], seconds: float | None
    ) -> Iterator[tuple[str, Parcel | NoAnswer]]:
        """Send each silo its parcel, and give each answer as it arrives, or why there is none.

        A silo that is away gets its parcel when it comes back; nobody waits for it meanwhile.
        """
        limit = LONGEST_SECONDS if seconds is None else seconds
        started = time.monotonic()
        away, asked = dict(parcels), dict[str, str]()
        while away or asked:
            passed = time.monotonic() - started
            if away:
                self._look_around()
            for name in [name for name in away if name in self._nodes]:
                asked[self._pushed(self._nodes[name], away.pop(name), limit - passed)] = name
            for identity, answer in self._answers(list(asked)):
                yield asked.pop(identity), answer
            if away and passed > min(RECONNECT_SECONDS, limit):
                for name in away:
                    yield name, NoAnswer("it is not connected")
                away.clear()
            if asked and passed > limit:
                for name in asked.values():
                    yield name, NoAnswer(f"it did not answer within {limit:g} seconds")
                return
            if away or asked:
                time.sleep(PULL_SECONDS)

    def _pushed(self, node: int, parcel: Parcel, seconds: float) -> str:
        """Send a parcel, which Flower forgets after so many seconds, and return the message's identity."""
        message = Message(content_of(parcel), node, MESSAGE_TYPES[parcel.kind], ttl=max(seconds, 1.0))
        (identity,) = self._grid.push_messages([message])  # one by one: rows may be large
        return str(identity)

    def _wait_for(self, silos: Sequence[str], seconds: float, least: int | None = None) -> list[str]:
        """Wait until these silos are connected, or `least` of them; return those that are not in time."""
        enough = len(silos) if least is None else least
        deadline = time.monotonic() + seconds
        while True:
            self._look_around()
            missing = [name for name in silos if name not in self._nodes]
            if len(silos) - len(missing) >= enough or time.monotonic() > deadline:
                return missing
            time.sleep(PULL_SECONDS)

    def _look_around(self) -> None:
        """Ask nodes that are new for their names, take in those that have answered, and forget those that have gone."""
        keys = {node.node_id: node.name for node in self._grid.get_nodes()}
        now = time.monotonic()
        self._known = {node: until for node, until in self._known.items() if node in keys and until > now}
        self._asked = {identity: node for identity, node in self._asked.items() if node in keys}
        for name in [name for name, node in self._nodes.items() if node not in keys]:
            del self._nodes[name]
            self._observe(Event("silo_left", client=name))
        for node in sorted(keys.keys() - self._known.keys() - set(self._asked.values())):
            message = Message(content_of(Parcel("announce", {})), node, "query", ttl=LONGEST_SECONDS)
            (identity,) = self._grid.push_messages([message])
            self._asked[identity] = node
        for identity, answer in self._answers(list(self._asked)):
            node = self._asked.pop(identity)
            named = self._take_in(node, answer, keys[node])
            self._known[node] = math.inf if named else now + AGAIN_SECONDS

    def _answers(self, asked: Sequence[str]) -> Iterator[tuple[str, Parcel | NoAnswer]]:
        """Give the answers that have come to these messages.

        They are fetched one by one: what Flower cannot read of one silo's answer it says by an error about all of them.
        """
        for identity in asked:
            try:
                for reply in self._grid.pull_messages([identity]):
                    yield identity, _content(reply)
                    break
            except (OSError, PplrError, httpx.HTTPError, grpc.RpcError):  # nobody's answer: the way to it
                raise
            except Exception as problem:
                words = plain(f"what it has sent cannot be read ({type(problem).__name__}: {problem})")
                yield identity, NoAnswer(words, unusable=True)

    def _take_in(self, node: int, answer: Parcel | NoAnswer, key: str) -> bool:
        """Let a node in as the silo that it says it is, and return whether it says so at all.

        `key` is the name that its key was registered with, or "".
        """
        try:
            announced = parsed(_good(answer), "announcement", Announcement)
        except RunError as problem:
            self._observe(Event("node_refused", data={"node": str(node), "reason": str(problem)}))
            return False
        reason = self._refused(announced)
        if announced.name not in self._silos:
            reason = "it is not among federation.silos"
        elif key and key != announced.name:
            reason = f"its key is that of {key}"
        if reason is not None:
            self._observe(Event("silo_refused", client=plain(announced.name), data={"reason": reason}))
            return True
        self.announced[announced.name] = announced
        self._nodes[announced.name] = node
        self._observe(Event("silo_connected", client=announced.name, data=_counts(announced)))
        return True


def _counts(announced: Announcement) -> dict[str, Any]:
    return {"examples": announced.examples, "model": announced.model, "version": announced.version}


def _content(reply: Message) -> Parcel | NoAnswer:
    """Return the parcel in a reply, or why there is none."""
    if reply.has_error():
        return NoAnswer(plain(f"its node reports: {reply.error.reason}"))
    try:
        return parcel_of(reply.content)
    except RunError as problem:
        return NoAnswer(str(problem), unusable=True)


def _good(answer: Parcel | NoAnswer) -> Parcel:
    if isinstance(answer, NoAnswer):
        raise RunError(answer.reason)
    return answer
