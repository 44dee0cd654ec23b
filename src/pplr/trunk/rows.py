"""The trunk's adapters of all clients, on the server: a bank of rows, and what each client's training needs.

The rows take part in dynamic balance without leaving the server: it gives their Gram matrix, and mixes them by the
matrix that the coordinator sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pplr.errors import RunError, nearest
from pplr.models.bank import AdapterBank, gram, mix_
from pplr.models.layout import Layout
from pplr.training.optimiser import Moments, Pull, RowOptimiser, fitting

MOMENTS, LEARNT = "moments", "learnt"
"""Moments from before a round, and after training in it, in the names of a state."""


class ServerRows:
    """Theta of the trunk.

    Attributes:
        layout: order and shapes of the trunk's parameters in a row.
        bank: one row per client, as after the last mixing, or as its training left it.
        round: the round that has begun last; 0 before the first.
        mixed: the round whose rows were mixed last; 0 before the first.
        left_out: the clients without which this round goes on.
    """

    def __init__(
        self,
        layout: Layout,
        clients: Sequence[str],
        initial_row: Tensor,
        weight_decay: float = 0.0,
        proximal: float = 0.0,
        *,
        keep_moments: bool = False,
    ) -> None:
        """Give every client a copy of `initial_row` [P]; training draws rows to what was received by `proximal`.

        With `keep_moments` a client's optimiser goes on in each round from what it was after the last one that counted.
        """
        self.layout = layout
        self.bank = AdapterBank.of_equal_rows(sorted(clients), initial_row)
        self.round = 0
        self.mixed = 0
        self.left_out: frozenset[str] = frozenset()
        self._weight_decay = weight_decay
        self._proximal = proximal
        self._received: AdapterBank | None = None
        self._training: dict[str, RowOptimiser] = {}
        self._steps: dict[str, int] = {}
        self._best: dict[str, Tensor] = {}
        self._keep_moments = keep_moments
        self._moments: dict[str, Moments] = {}  # before this round
        self._learnt: dict[str, Moments] = {}  # of those who have finished in it

    def begin_round(self, number: int) -> None:
        """Remember what every client receives in this round; training that was not finished is forgotten."""
        self.round = number
        self.left_out = frozenset()
        self._received = AdapterBank(self.bank.clients, self.bank.rows.clone())
        self._moments |= self._learnt
        self._learnt.clear()
        self._training.clear()
        self._steps.clear()

    def start(self, client: str, number: int) -> None:
        """Let a client train in round `number` from what it received; what it trained before in it is forgotten.

        Raises:
            RunError: another round is on, or there is no such client.
        """
        self._row(client)
        self._check_taking_part(client)
        if number != self.round:
            raise RunError(
                f"Client {client} wants to train in round {number}, but round {self.round} is on at the trunk's server. Wait "
                "for the coordinator's next task."
            )
        for kept in (self._training, self._steps, self._learnt):
            kept.pop(client, None)

    def training(self, client: str) -> RowOptimiser:
        """Return the optimiser of a client's row in this round, begun afresh at first use.

        Raises:
            RunError: there is no such client.
        """
        self._check_taking_part(client)
        if client not in self._training:
            row = self._row(client)
            if self._received is not None:
                row = self._received.row(client)
            pull = Pull(self._proximal, row[: self.layout.shared]) if self._proximal else None
            self._training[client] = RowOptimiser(self.layout, row, self._weight_decay, pull)
            self._training[client].take_up(self._moments.get(client, {}))
            self._steps[client] = 0
        return self._training[client]

    def steps(self, client: str) -> int:
        """Return how many steps a client's row has taken in this round."""
        return self._steps.get(client, 0)

    def step(self, client: str, number: int, rate: float, factor: float) -> None:
        """Take step `number`, counted from 1; one that was taken already is not taken again.

        Raises:
            RunError: steps were left out, or there is no such client.
        """
        optimiser, done = self.training(client), self._steps[client]
        if number == done:
            return
        if number != done + 1:
            raise RunError(
                f"Client {client} asks for step {number} of round {self.round}, but its row has taken {done}: the steps "
                "between are missing. Train the round again from its start."
            )
        optimiser.step(rate, factor)
        optimiser.zero()
        self._steps[client] = number

    def forget_gradient(self, client: str) -> None:
        """Forget the gradient that no step of a client has used yet."""
        if client in self._training:
            self._training[client].zero()

    def finish(self, client: str) -> None:
        """Put what a client has trained into the bank.

        Raises:
            RunError: the round goes on without it.
        """
        self._check_taking_part(client)
        optimiser = self._training.pop(client, None)
        if optimiser is not None:
            self._row(client).copy_(optimiser.row.values.detach())
            if self._keep_moments:
                self._learnt[client] = {name: value.cpu() for name, value in optimiser.moments().items()}

    def leave_out(self, clients: Sequence[str], number: int) -> None:
        """Let round `number` go on without `clients`: their rows are again what they received in it.

        It is asked before the rows are compared and mixed; asked again later, it changes nothing.

        Raises:
            RunError: another round is on, or there is no such client.
        """
        if number != self.round or self._received is None:
            raise RunError(
                f"Clients are to be left out of round {number}, but round {self.round} is on. Resume the run."
            )
        if self.mixed == number:
            return
        for client, row in [(client, self._row(client)) for client in clients]:
            row.copy_(self._received.row(client))
            for kept in (self._training, self._steps, self._learnt):
                kept.pop(client, None)
        self.left_out |= frozenset(clients)

    def forget(self, clients: Sequence[str]) -> None:
        """Take clients out for good: their rows, best rows and training; the others' rows stay as they are."""
        stay = [name for name in self.bank.clients if name not in clients]
        self.bank = AdapterBank(stay, torch.stack([self.bank.row(name) for name in stay]))
        if self._received is not None:
            self._received = AdapterBank(stay, torch.stack([self._received.row(name) for name in stay]))
        self.left_out -= frozenset(clients)
        for client in clients:
            for kept in (self._training, self._steps, self._best, self._moments, self._learnt):
                kept.pop(client, None)

    def keep(self, client: str) -> None:
        """Remember a client's row as its best."""
        self._best[client] = self._row(client).clone()

    def parameters(self, client: str, *, best: bool = False) -> dict[str, Tensor]:
        """Return a client's parameters by name, without gradients: in training, or as mixed, or its best ones.

        Raises:
            RunError: there is no such client, or it has kept no row yet.
        """
        if not best and client in self._training:
            return dict(self._training[client].row.frozen())
        return self.layout.views(self.row(client, best=best))

    def row(self, client: str, *, best: bool = False) -> Tensor:
        """Return the row [P] of a client, or its best one.

        Raises:
            RunError: there is no such client, or it has kept no row yet.
        """
        if not best:
            return self._row(client)
        if client not in self._best:
            raise RunError(f"Client {client} has not kept any row as its best yet: it validates first.")
        return self._best[client]

    def gram(self, *, updates: bool) -> Tensor:
        """Return <x_c, x_i> of all pairs of clients, [clients, clients] float64.

        x is the shared part of a row, or its update this round.

        Raises:
            RunError: updates are asked for before the first round.
        """
        if updates and self._received is None:
            raise RunError("No round has begun on this server, so there are no updates to compare.")
        shared = self.layout.shared
        received = self._received.rows[:, :shared] if updates and self._received else None
        return gram(self.bank.rows[:, :shared], received)

    def mix(self, mixing: Tensor, number: int) -> None:
        """Replace the shared part of the rows by `mixing` [clients, clients] @ rows: once in a round, however often asked.

        Raises:
            RunError: another round is on.
        """
        if number != self.round:
            raise RunError(f"Rows of round {number} are to be mixed, but round {self.round} is on. Resume the run.")
        if self.mixed != number:
            mix_(self.bank.rows[:, : self.layout.shared], mixing)
            self.mixed = number

    def state(self) -> dict[str, Tensor]:
        """Return rows, best rows and moments, by name: what a checkpoint after a round holds."""
        return self._rows() | _named(MOMENTS, self._moments | self._learnt)

    def _rows(self) -> dict[str, Tensor]:
        rows = {f"row/{name}": self.bank.row(name) for name in self.bank.clients}
        return rows | {f"best/{name}": row for name, row in self._best.items()}

    def restore(self, state: dict[str, Tensor], number: int) -> None:
        """Go back to the end of round `number`, whose `state` this is.

        Raises:
            RunError: it is the state of other clients, or of another layout.
        """
        for name in self.bank.clients:
            given = state.get(f"row/{name}")
            moments = _moments_in(MOMENTS, state).get(name)
            if given is None or given.shape != self.bank.row(name).shape or not self._fits(moments):
                raise RunError(
                    f"The saved rows of the trunk do not fit client {name}: they belong to other clients, another model or "
                    "another cut. Give the server the folder of this run."
                )
        for name in self.bank.clients:
            self.bank.row(name).copy_(state[f"row/{name}"])
        best = {name: state.get(f"best/{name}") for name in self.bank.clients}
        self._best = {name: row.to(self.bank.rows).clone() for name, row in best.items() if row is not None}
        self._moments, self._learnt = self._kept_in(MOMENTS, state), {}
        self.round, self.mixed, self._received, self.left_out = number, number, None, frozenset()
        self._training.clear()
        self._steps.clear()

    def _fits(self, moments: Moments | None) -> bool:
        return moments is None or fitting(moments, self.layout.size)

    def _kept_in(self, kind: str, state: Mapping[str, Tensor]) -> dict[str, Moments]:
        if not self._keep_moments:
            return {}
        return {client: own for client, own in _moments_in(kind, state).items() if client in self.bank.clients}

    def whole_state(self) -> dict[str, Tensor]:
        """Return all but training under way: moments from before this round and of it apart, and what clients received."""
        found = self._rows() | _named(MOMENTS, self._moments) | _named(LEARNT, self._learnt)
        if self._received is None:
            return found
        return found | {f"received/{name}": self._received.row(name) for name in self.bank.clients}

    def restore_whole(self, state: dict[str, Tensor], number: int, mixed: int, left_out: Sequence[str] = ()) -> None:
        """Go back to the midst of round `number`, whose `whole_state` this is, and which goes on without some clients.

        Raises:
            RunError: it is the state of other clients, or of another layout.
        """
        self.restore(state, number)
        self.mixed, self.left_out = mixed, frozenset(left_out)
        self._learnt = self._kept_in(LEARNT, state)
        received = [state[f"received/{name}"] for name in self.bank.clients if f"received/{name}" in state]
        if len(received) == len(self.bank):
            self._received = AdapterBank(self.bank.clients, torch.stack(received).to(self.bank.rows))

    def client_state(self, client: str) -> dict[str, Tensor]:
        """Return all that a client's requests have changed since the whole state was taken, by name."""
        found = {"row": self._row(client)} | ({"best": self._best[client]} if client in self._best else {})
        found |= {f"{LEARNT}/{name}": value for name, value in self._learnt.get(client, {}).items()}
        training = self.training_state(client)
        return found | {f"training/{name}": value for name, value in training.items() if name != "gradient"}

    def restore_client(self, client: str, state: dict[str, Tensor], steps: int) -> None:
        """Go on after step `steps` of a client, whose `client_state` this is."""
        self._row(client).copy_(state["row"])
        if "best" in state:
            self._best[client] = state["best"].to(self.bank.rows).clone()
        training, learnt = (
            {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            for prefix in ("training/", f"{LEARNT}/")
        )
        self._learnt.pop(client, None)  # a training that has been begun again
        if learnt:
            self._learnt[client] = learnt
        if training:
            self.restore_training(client, training | {"gradient": torch.zeros_like(training["values"])}, steps)
        self._steps[client] = steps

    def training_state(self, client: str) -> dict[str, Tensor]:
        """Return all that decides a client's next step; empty where it does not train."""
        optimiser = self._training.get(client)
        return {} if optimiser is None else optimiser.state()

    def restore_training(self, client: str, state: dict[str, Tensor], steps: int) -> None:
        """Let a client go on after step `steps` of this round, whose `training_state` this is."""
        self.training(client).restore(state)
        self._steps[client] = steps

    def _check_taking_part(self, client: str) -> None:
        if client in self.left_out:
            raise RunError(
                f"Round {self.round} has gone on without client {client}, whose answer did not come in time or was refused. "
                "It takes part again when the coordinator asks it."
            )

    def _row(self, client: str) -> Tensor:
        if client not in self.bank.clients:
            raise RunError(f"There is no client {client!r} on this server.{nearest(client, self.bank.clients)}")
        return self.bank.row(client)


def _named(kind: str, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    return {f"{kind}.{name}/{client}": value for client, own in moments.items() for name, value in own.items()}


def _moments_in(kind: str, state: Mapping[str, Tensor]) -> dict[str, Moments]:
    """Return by client what `_named` has named."""
    found: dict[str, Moments] = {}
    for key, value in state.items():
        before, _, client = key.partition("/")
        if before.startswith(f"{kind}."):
            found.setdefault(client, {})[before.removeprefix(f"{kind}.")] = value
    return found
