"""What an attack on hidden states is: it learns from public text, and then names the token behind each state.

An attack is one file: a frozen dataclass of its settings with `fit`, and the reader that `fit` returns. It becomes one
of those that are run by a line in `pplr.audit.attacks`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from pplr.audit.observed import Observed


class Reader(ABC):
    """An attack that has learned.

    Attributes:
        tokens: [named] int64, the token ids that it can name, ascending.
    """

    tokens: Tensor

    @abstractmethod
    def scores(self, observed: Observed) -> Tensor:
        """Return log-probabilities [states, named] of the tokens behind states."""

    def likeliest(self, scores: Tensor) -> Tensor:
        """Return the token ids [states] to which scores [states, named] are highest."""
        return self.tokens[scores.argmax(dim=1)]


class Attack(ABC):
    """Settings of an attack.

    Attributes:
        name: as reports say it.
    """

    name: ClassVar[str]

    @abstractmethod
    def fit(self, public: Observed, tokens: Tensor, seed: int) -> Reader:
        """Return a reader that has learned from states of public text.

        Args:
            public: what the server would receive of the public text.
            tokens: [states] int64, the token behind each of these states.
            seed: of whatever is drawn.
        """
