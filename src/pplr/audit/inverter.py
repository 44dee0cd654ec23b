"""An inverter: a small network that is trained to name the token behind a state, from the state and its neighbours.

    z = whitened state,   z' = z + f(z of the token before, z, z of the token behind),   logits = z' M' + b

It begins as the nearest token (M the means, f = 0) and learns from public text what context moves where: in a state
behind some layers a token's own share is mixed with those of others. After "Sentence Embedding Leaks More Information
than You Expect" (arXiv:2305.03010) and the inversion attacks it surveys, in a form that trains in a minute on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplr.audit.attack import Attack, Reader
from pplr.audit.nearest import Statistics, statistics
from pplr.audit.observed import Observed
from pplr.seeds import torch_generator


@dataclass(frozen=True)
class Inverter(Attack):
    """Settings of the attack.

    Attributes:
        hidden: width of f's hidden layer.
        epochs: passes over the public text.
        batch: states per step.
        rate: learning rate of f; means and biases learn at ten times as much. It falls to 0 over the steps.
        shrinkage: of the covariance (see `statistics`).
    """

    name: ClassVar[str] = "inverter"
    hidden: int = 256
    epochs: int = 2
    batch: int = 512
    rate: float = 1e-3
    shrinkage: float = 1e-3

    def fit(self, public: Observed, tokens: Tensor, seed: int) -> InverterReader:
        """Return the trained reader."""
        known = statistics(public.states, tokens, self.shrinkage)
        generator = torch_generator(seed, "audit", "inverter")
        network = Network(known, self.hidden, generator)
        windows = Windows(known, public)
        optimiser = torch.optim.AdamW(
            [
                {"params": [network.before, network.behind], "lr": self.rate, "weight_decay": 0.01},
                {"params": [network.means, network.bias, network.sharpness], "lr": 10 * self.rate, "weight_decay": 0.0},
            ]
        )
        steps = self.epochs * -(-len(tokens) // self.batch)
        falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
        for _ in range(self.epochs):
            for rows in torch.split(torch.randperm(len(tokens), generator=generator), self.batch):
                loss = F.cross_entropy(network(windows.of(rows)), known.labels[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                falling.step()
        return InverterReader(known, network)


class Network(nn.Module):
    """The network of the module's text."""

    def __init__(self, known: Statistics, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        width = known.means.shape[1]
        self._width = width
        # whitened states are as far apart as tokens are; the hidden layer wants numbers of about 1
        self._scale = float(known.means.square().mean().sqrt().clamp(min=1e-6))
        self.before = nn.Parameter(torch.randn(hidden, 3 * width, generator=generator) / (3 * width) ** 0.5)
        self.behind = nn.Parameter(torch.zeros(width, hidden))
        self.means = nn.Parameter(known.means.clone())
        self.bias = nn.Parameter(-known.means.square().sum(dim=1) / 2)
        self.sharpness = nn.Parameter(torch.zeros(()))

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits [states, named] of windows [states, 3 x width]."""
        own = windows[:, self._width : 2 * self._width]
        moved = own + F.gelu(windows @ self.before.T / self._scale) @ self.behind.T * self._scale
        logits: Tensor = (moved @ self.means.T + self.bias) * self.sharpness.exp()
        return logits


class Windows:
    """Whitened states of some texts, each between its neighbours."""

    def __init__(self, known: Statistics, observed: Observed) -> None:
        self._states = known.whitened(observed.states)
        positions = observed.positions
        self._first = positions == 0
        self._last = torch.cat([self._first[1:], torch.ones(1, dtype=torch.bool)])

    def of(self, rows: Tensor) -> Tensor:
        """Return windows [rows, 3 x width]; beyond the ends of a text there are zeros."""
        before = self._states[(rows - 1).clamp(min=0)].masked_fill(self._first[rows][:, None], 0.0)
        behind = self._states[(rows + 1).clamp(max=len(self._states) - 1)]
        return torch.cat([before, self._states[rows], behind.masked_fill(self._last[rows][:, None], 0.0)], dim=1)


class InverterReader(Reader):
    """Names what the network finds likeliest."""

    def __init__(self, known: Statistics, network: Network) -> None:
        self.tokens = known.tokens
        self._known, self._network = known, network.requires_grad_(False)

    def scores(self, observed: Observed) -> Tensor:
        """Return the network's log-probabilities."""
        windows = Windows(self._known, observed).of(torch.arange(len(observed.states)))
        logits: Tensor = self._network(windows)
        return logits.log_softmax(dim=1)
