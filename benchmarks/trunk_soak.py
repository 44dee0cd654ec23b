"""A trunk's server with 50 clients of which 8 train, for ten minutes, while processes of clients are killed.

    python benchmarks/trunk_soak.py --output benchmarks/results/trunk_soak.json

Server and clients are processes of their own with mutual TLS. Those that train have a process each, the others share
some. Every 20 seconds a process drawn at random gets SIGKILL, in whatever it does, and is started again; who was in a
round trains it from its start. One that has not answered since it was started is spared. Beside it one more process computes the same rounds without a server: after each round
all rows that the server has kept are compared. A small random model, float32 states, so that steps are many.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memory_curve import MemoryCurve
from pplr.config import Config, config_toml
from pplr.data.settings import DataSettings
from pplr.models.hub import resolve
from pplr.models.parts.settings import SplitPlacement
from pplr.models.settings import GenerativeSettings
from pplr.training import TrainingSettings
from pplr.trunk.remote import RemoteAccess
from pplr.trunk.work import Manner, States
from result_file import write_result
from small_llama import write_small_llama
from soak_clients import Hosted, Plan, be_there, compute, train
from trunk_server import Server, make_certificates

WRONG = 1e-3
"""A row is wrong that differs from the undisturbed one by more than this share of all that training has changed."""

STUCK_SECONDS = 120.0
"""A stream is stuck that gives no answer for so long."""

LEAVE_SECONDS = 20.0


def main(arguments: list[str] | None = None) -> None:
    """Run it and write the result file."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    names = tuple(f"client-{number:02d}" for number in range(options.clients))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_small_llama(work / "model", width=options.width, layers=options.layers)
        make_certificates(work / "certificates", names)
        placement = SplitPlacement(bottom=1, server="127.0.0.1:1", certificates=str(work / "certificates"))
        config = Config(
            threads=options.threads,
            device="cpu",
            data=DataSettings(demo="movietweetings"),
            backbone=GenerativeSettings(model=str(work / "model"), examples="last"),
            placement=placement,
        )
        (work / "trunk.toml").write_text(config_toml(config), encoding="utf-8")
        options_of_server = ("--joint-tokens", "8192", "--metrics-port", "0", "--limit", f"passes={PASSES}")
        with Server(work, *options_of_server) as server:
            placement = placement.model_copy(update={"server": server.address})
            training = TrainingSettings(learning_rate=1e-3, batch_examples=options.batch)
            active = names[: options.active]
            plan = Plan(config.model_copy(update={"placement": placement}), names, active, options.examples, training)
            figures = Soak(plan, server, work / "state", options).run()
    write_result(options.output, "trunk_soak", {"clients": options.clients, "active": options.active, **figures})


PASSES = 4
"""What a client may hold, so that one that finds its predecessor's passes still there is refused."""


class Soak:
    """The run: rounds, kills, and what is counted."""

    def __init__(self, plan: Plan, server: Server, state: Path, options: argparse.Namespace) -> None:
        self._plan = plan
        self._server = server
        self._state = state
        self._options = options
        self._random = np.random.default_rng(options.seed)
        self._active = [self._trainer(name) for name in plan.active]
        idle = plan.clients[len(plan.active) :]
        self._idle = [self._idlers(tuple(part)) for part in np.array_split(np.array(idle), options.hosts) if len(part)]
        self._reference = Hosted(compute, (), plan)
        self._task: int | None = None
        self._counts = dict.fromkeys(("rounds", "steps", "kills", "sessions_killed", "killed_in_training", "spared"), 0)
        self._worst: list[float] = []
        self._wrong = 0

    def run(self) -> dict[str, Any]:
        """Run for the time asked for, and return the figures."""
        access = RemoteAccess(self._plan.config, resolve(self._plan.config.backbone.model), list(self._plan.clients))
        control = access.control(fresh=True)
        control.begin_round(0)
        for host in self._idle:
            self._answer_of(host)
        clients = len(self._plan.clients)
        mixing = 0.8 * torch.eye(clients, dtype=torch.float64) + 0.2 / clients
        self._begun = time.monotonic()
        self._next_kill = self._begun + self._options.kill_every
        with MemoryCurve(self._server) as curve:
            number = 0
            while time.monotonic() < self._begun + self._options.seconds:
                number += 1
                control.begin_round(number)
                self._reference.pipe.send((number, mixing))
                self._train(number)
                control.gram(updates=True)
                control.mix(mixing, number)
                control.save(number)
                self._compare(number)
                print(
                    f"{time.monotonic() - self._begun:.0f} s: {self._counts}, off by {self._worst[-1]:.1e}", flush=True
                )
        fresh = self._fresh_client()
        everybody = (*self._active, *self._idle, self._reference)
        for host in everybody:
            host.leave()
        for host in everybody:
            host.end()
        access.close()
        left = self._left()
        return {
            "seconds": self._options.seconds,
            "seconds_between_kills": self._options.kill_every,
            **self._counts,
            "rows_compared": len(self._worst) * clients,
            "wrong_rows": self._wrong,
            "farthest_row": max(self._worst),
            "stuck_streams": left["sessions"],
            "left_at_the_end": left,
            "fresh_client_seconds": fresh,
            "server_alive": self._server.alive,
            "memory": curve.figures(self._options.warm_up),
        }

    def _train(self, number: int) -> None:
        """Have all active clients train a round, and kill somebody whenever it is time."""
        self._task = number
        for host in self._active:
            host.pipe.send(number)
        missing, heard = {host.names[0] for host in self._active}, time.monotonic()
        while missing:
            hosts = [host for host in self._active if host.names[0] in missing]
            ready = wait([host.pipe for host in hosts], max(0.0, min(1.0, self._next_kill - time.monotonic())))
            for host in [host for host in hosts if host.pipe in ready]:
                (round_number, steps), heard = host.receive(), time.monotonic()
                if round_number == number:
                    missing.discard(host.names[0])
                    self._counts["steps"] += steps
            silent = set(missing) if time.monotonic() - heard > STUCK_SECONDS else set()
            silent |= {name for host in self._idle if host.silent_for > STUCK_SECONDS for name in host.names}
            if silent:
                raise SystemExit(f"No answer of {', '.join(sorted(silent))} for {STUCK_SECONDS:g} s: {self._counts}")
            if time.monotonic() >= self._next_kill:
                self._next_kill += self._options.kill_every
                self._kill(missing)
        self._task = None
        self._counts["rounds"] += 1

    def _kill(self, training: set[str]) -> None:
        """Kill a process drawn at random, and start it again; whoever was `training` has its round to do again.

        One that was started again and has not answered since is left alone: on a busy machine nobody would ever answer.
        """
        everybody = [host for host in (*self._active, *self._idle) if host.has_answered]
        if not everybody:
            self._counts["spared"] += 1
            return
        victim = everybody[int(self._random.integers(len(everybody)))]
        self._counts["kills"] += 1
        self._counts["sessions_killed"] += len(victim.names)
        victim.kill()
        if victim in self._idle:
            self._idle[self._idle.index(victim)] = self._idlers(victim.names)
            return
        (name,) = victim.names
        again = self._trainer(name)
        self._active[self._active.index(victim)] = again
        if name in training:
            self._counts["killed_in_training"] += 1
            again.pipe.send(self._task)

    def _compare(self, number: int) -> None:
        """Hold the server's rows of a round against those of the computation without a server."""
        self._reference.pipe.send(str(self._state / "rounds" / f"round-{number:04d}" / "state.safetensors"))
        distances = self._answer_of(self._reference)
        self._worst.append(max(distances))
        self._wrong += sum(not distance <= WRONG for distance in distances)

    def _fresh_client(self) -> float:
        """Return the seconds in which a client whose process is killed now, and which begins another session, does a step.

        It may hold no more passes than it holds here, so nothing of the one before may be left.
        """
        victim = self._active.pop()
        victim.kill()
        (name,), config, started = victim.names, self._plan.config, time.monotonic()
        access = RemoteAccess(config, resolve(config.backbone.model), [name])
        link = access.link(name)
        generator = torch.Generator().manual_seed(1)
        given = States(torch.randn(2, 9, self._options.width, generator=generator), torch.ones(2, 9, dtype=torch.bool))
        passes = range(1, PASSES + 1)
        for one in [link.forward(one, given, Manner(causal=True, dropout=one, gradients=True)) for one in passes]:
            one()
        link.start(self._counts["rounds"])
        behind = link.forward(PASSES + 1, given, Manner(causal=True, dropout=1, gradients=True))()
        link.backward(PASSES + 1, States(torch.ones_like(behind.rows), given.present))
        link.gradient(PASSES + 1)
        link.step(1, 1e-3, 1.0)
        link.finish()
        access.close()
        return time.monotonic() - started

    def _left(self) -> dict[str, int]:
        """Return the sessions and requests that the server still has when everybody has left."""
        until = time.monotonic() + LEAVE_SECONDS
        while True:
            figures = self._server.figures()
            left = {
                "sessions": int(figures["pplr_trunk_sessions"]),
                "requests": int(figures["pplr_trunk_waiting_requests"]),
            }
            if not any(left.values()) or time.monotonic() > until:
                return left
            time.sleep(0.2)

    def _trainer(self, name: str) -> Hosted:
        return Hosted(train, (name,), self._plan, name)

    def _idlers(self, names: tuple[str, ...]) -> Hosted:
        return Hosted(be_there, names, self._plan, names)

    def _answer_of(self, host: Hosted) -> Any:
        if not host.pipe.poll(STUCK_SECONDS):
            raise SystemExit(f"No answer of {', '.join(host.names) or 'the computation'} for {STUCK_SECONDS:g} s.")
        return host.receive()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds")
    parser.add_argument("--warm-up", type=float, default=120.0, help="seconds over which memory is not judged")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--active", type=int, default=8)
    parser.add_argument("--hosts", type=int, default=6, help="processes of those that are not active")
    parser.add_argument("--examples", type=int, default=24, help="of an active client in a round")
    parser.add_argument("--batch", type=int, default=4, help="examples of a step, at most")
    parser.add_argument("--width", type=int, default=128, help="of the model")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
