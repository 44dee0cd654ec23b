"""The processes of trunk_soak.py: clients that train, clients that only are there, and the computation undisturbed.

Each listens to a pipe, answers what it was told to do, and ends when the pipe says None or closes.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from pplr.backbones import load_backbone
from pplr.config import Config
from pplr.data import load
from pplr.models.backbone import Backbone
from pplr.models.generative import TitleExamples
from pplr.models.hub import resolve
from pplr.seeds import numpy_generator
from pplr.training import Place, TrainingSettings, train_locally
from pplr.trunk.build import LoadedTrunk
from pplr.trunk.remote import RemoteAccess
from pplr.trunk.stub import DirectLink, Link, StubTrunk


@dataclass(frozen=True)
class Plan:
    """What the clients do.

    Attributes:
        config: with the server's address.
        clients: everybody who has a row.
        active: those who train.
        examples: training examples of a client in a round.
        training: how it trains.
    """

    config: Config
    clients: tuple[str, ...]
    active: tuple[str, ...]
    examples: int
    training: TrainingSettings


class Hosted:
    """A process, and the pipe to it.

    Attributes:
        names: the clients in it.
        pipe: what to it is said, and what it answers.
    """

    def __init__(self, work: Callable[..., None], names: tuple[str, ...], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.names = names
        self._heard, self._started = False, time.monotonic()
        self.pipe, there = context.Pipe()
        self._process = context.Process(target=work, args=(there, *arguments), daemon=True)
        self._process.start()
        there.close()

    @property
    def has_answered(self) -> bool:
        """It has said something since it was started."""
        return self._heard or self.pipe.poll()

    @property
    def silent_for(self) -> float:
        """Seconds since it was started in which it has said nothing; 0 if it has."""
        return 0.0 if self.has_answered else time.monotonic() - self._started

    def receive(self) -> Any:
        """Return what it says next."""
        said = self.pipe.recv()
        self._heard = True
        return said

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def leave(self) -> None:
        """Tell it to leave."""
        self.pipe.send(None)

    def end(self) -> None:
        """Wait until it has left."""
        self._process.join(60)


def train(pipe: Connection, plan: Plan, name: str) -> None:
    """Be a client that trains the round that it is told; answers its number, and how many steps were taken."""
    torch.set_num_threads(1)
    access = RemoteAccess(plan.config, resolve(plan.config.backbone.model), [name])
    trainer = Trainer(plan)
    link = access.link(name)
    for number in _told(pipe):
        pipe.send((number, trainer.round(link, name, number)))
    access.close()


def be_there(pipe: Connection, plan: Plan, names: tuple[str, ...]) -> None:
    """Have a session for each of the clients `names`, ask each server for something small once, and wait."""
    access = RemoteAccess(plan.config, resolve(plan.config.backbone.model), list(names))
    for link in [access.link(name) for name in names]:
        link.keep()
    pipe.send(len(names))
    for _ in _told(pipe):
        pass
    access.close()


def compute(pipe: Connection, plan: Plan) -> None:
    """Compute the rounds without a server; answers how far the server's rows are from these, for each client.

    It is told a round's number and its mixing matrix, then the file in which the server has kept the rows after it.
    """
    torch.set_num_threads(1)
    files = resolve(plan.config.backbone.model)
    work = LoadedTrunk(plan.config, files, torch.device("cpu")).work(plan.clients)
    first = work.rows.bank.rows.clone()
    trainer = Trainer(plan)
    for number, mixing in _told(pipe):
        work.rows.begin_round(number)
        for name in plan.active:
            trainer.round(DirectLink(work, name), name, number)
        work.rows.mix(mixing, number)
        pipe.send(_distances(load_file(Path(pipe.recv())), work.rows.bank.clients, work.rows.bank.rows, first))


class Trainer:
    """Trains any client's round, always in the same way."""

    def __init__(self, plan: Plan) -> None:
        dataset = load(plan.config.data, Path()).dataset
        backbone, _ = load_backbone(plan.config, dataset.catalogue, lambda event: None)
        self._plan = plan
        self._backbone: Backbone[TitleExamples] = backbone
        self._examples: TitleExamples = backbone.examples(dataset.training())

    def round(self, link: Link, name: str, number: int) -> int:
        """Train a round, and return its steps. The client's own part of the row begins anew in each."""
        backbone = self._backbone.behind(StubTrunk(link))
        chosen = numpy_generator(1, "soak", name, number).permutation(len(self._examples))[: self._plan.examples]
        examples = self._examples.select(np.sort(chosen).astype(np.int64))
        row = backbone.layout.initial_row(1)
        place = Place(1, name, number, 0.0)
        return train_locally(backbone, row, examples, self._plan.training, place, elsewhere=link).steps


def _told(pipe: Connection) -> Any:
    while True:
        try:
            told = pipe.recv()
        except EOFError:
            return
        if told is None:
            return
        yield told


def _distances(kept: dict[str, Tensor], clients: tuple[str, ...], expected: Tensor, first: Tensor) -> list[float]:
    """Return ||kept - expected|| / ||expected - first|| of each client's row."""
    rows = torch.stack([kept[f"row/{name}"] for name in clients])
    return [
        float(found)
        for found in torch.linalg.vector_norm(rows - expected, dim=1)
        / torch.linalg.vector_norm(expected - first, dim=1).clamp(min=1e-12)
    ]
