"""Whose histories are attacked, and what text the attacker learns from: never the same people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pplr.audit.texts import HistoryText, Writing
from pplr.data.dataset import Dataset, Ints, Part
from pplr.errors import ConfigError, DataError
from pplr.seeds import numpy_generator

LEAST_HISTORIES, LEAST_PUBLIC = 2, 10
"""Fewer held-out histories have no standard error, and from fewer public ones nothing can be learned."""


@dataclass(frozen=True)
class Sample:
    """Texts that are attacked, and public ones.

    Attributes:
        held_users: [histories] codes of the users whose histories are attacked.
        held: their texts.
        public_users: codes of the users whose histories are public text; none of them is held out.
        public: their texts, and lists of the catalogue's items in random order; none is equal to one that is attacked.
        popularity: [items] float32, how often each item is in the histories of all who are not held out.
    """

    held_users: Ints
    held: list[HistoryText]
    public_users: Ints
    public: list[HistoryText]
    popularity: Tensor

    @property
    def public_tokens(self) -> Tensor:
        """[tokens] int64, the tokens of the public lists, one behind the other."""
        return torch.tensor([token for text in self.public for token in text.listed])


def draw(dataset: Dataset, writing: Writing, histories: int, public: int, seed: int) -> Sample:
    """Return a sample: users are drawn by the seed, and a history is what stands before a user's test events.

    Args:
        dataset: all interactions.
        writing: how histories become text.
        histories: users who are attacked.
        public: users whose histories are public; fewer where there are fewer. As many texts at most are lists of the
            catalogue's items: the catalogue is public, so an attacker reads all its titles.
        seed: of the draws.

    Raises:
        ConfigError: too few histories are asked for.
        DataError: too few users have a history.
    """
    queries = dataset.queries(Part.TEST)
    _check(len(queries), histories, public)
    order = numpy_generator(seed, "audit", "users").permutation(len(queries))
    held_rows, other_rows = order[:histories], order[histories:]
    public_rows = other_rows[:public]
    held = [writing.text(queries.histories[row]) for row in held_rows]
    attacked = {tuple(text.ids) for text in held}
    texts = [writing.text(queries.histories[row]) for row in public_rows]
    texts += catalogue_texts(writing, seed)[:public]
    popularity = np.bincount(queries.histories.select(other_rows).values, minlength=len(dataset.catalogue))
    return Sample(
        held_users=queries.users[held_rows],
        held=held,
        public_users=queries.users[public_rows],
        public=[text for text in texts if tuple(text.ids) not in attacked],
        popularity=torch.from_numpy(popularity).float(),
    )


def catalogue_texts(writing: Writing, seed: int) -> list[HistoryText]:
    """Return texts that list every item of the catalogue once, in random order."""
    left = numpy_generator(seed, "audit", "catalogue").permutation(len(writing.pieces)).astype(np.int64)
    texts = []
    while len(left):
        texts.append(writing.text(left[-writing.items :]))  # takes from the end as many as fit
        left = left[: -len(texts[-1].titles)]
    return texts


def _check(users: int, histories: int, public: int) -> None:
    if histories < LEAST_HISTORIES or public < LEAST_PUBLIC:
        raise ConfigError(
            f"--histories {histories} and --public {public} are too few. Give at least {LEAST_HISTORIES} histories, and "
            f"{LEAST_PUBLIC} public ones."
        )
    if users < histories + LEAST_PUBLIC:
        raise DataError(
            f"{users} users have a history and a test event, too few for {histories} whose histories are attacked and at "
            f"least {LEAST_PUBLIC} others whose histories are public. Set --histories to "
            f"{max(users - LEAST_PUBLIC, 0)} or lower, or give more data."
        )
