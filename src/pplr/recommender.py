"""Recommendations from a finished run, one user at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pplr.backbones import load_backbone
from pplr.config import Config
from pplr.data import ClientAssignment, load_dataset
from pplr.data.dataset import Dataset, Ints, Queries, Ragged
from pplr.errors import ConfigError, RunError, nearest
from pplr.evaluation import top_items
from pplr.federation.events import Observer, ignore
from pplr.fusion import Fusion, Weights
from pplr.memory import enough_memory
from pplr.models.backbone import Backbone, CatalogueScorer
from pplr.run_folder import ITEM_VECTORS, changed_since, check_origin, recorded, silo_of
from pplr.runner import load_fusion, load_run
from pplr.trunk.access import TrunkAccess
from pplr.trunk.stub import StubTrunk
from pplr.wiring import assigned, made_from, reach_trunk


@dataclass(frozen=True)
class Item:
    """One item of the catalogue, as written in the data."""

    id: str
    title: str


@dataclass(frozen=True)
class RankedItem:
    """One recommended item.

    Attributes:
        rank: 1 is the best.
        id: item id, as written in the data.
        title: its title.
        score: higher is better; comparable within one list only.
    """

    rank: int
    id: str
    title: str
    score: float


@dataclass(frozen=True)
class Recommendations:
    """What was recommended, to whom, and from which history (oldest first)."""

    client: str
    history: tuple[Item, ...]
    items: tuple[RankedItem, ...]


class Recommender:
    """A finished run, ready to recommend: the model is loaded once, a client's parameters are a row."""

    def __init__(
        self,
        config: Config,
        rows: dict[str, Tensor],
        dataset: Dataset,
        backbone: Backbone[Any],
        *,
        fusion: Mapping[str, Weights] | None = None,
        silo: str | None = None,
        trunk: TrunkAccess | None = None,
        regrouped: bool = False,
    ) -> None:
        """Recommend from the rows of a run.

        Clients that `fusion` names mix what they count on their own data with their models, by these weights.
        A `silo` has its own data and its own row, and knows no other. Where a server holds the layers between, `trunk` reaches it. `regrouped` says that users may belong to other
        clients than in the run.
        """
        self._config = config
        self._rows = rows
        self._dataset = dataset
        self._backbone = backbone
        self._fusion = fusion or {}
        self._silo = silo
        self._trunk = trunk
        self._scorers: dict[str, CatalogueScorer] = {}
        self._regrouped = regrouped

    @classmethod
    @enough_memory()
    def load(cls, folder: Path | str, observer: Observer = ignore) -> Recommender:
        """Return the recommender of a run folder.

        Raises:
            RunError: there is no finished run, or its items or its model have changed since.
        """
        config, rows = load_run(Path(folder))
        dataset = load_dataset(config.data, Path())
        vectors, silo = recorded(Path(folder), ITEM_VECTORS), silo_of(Path(folder))
        backbone, files = load_backbone(config, dataset.catalogue, observer, silo, vectors=vectors)
        found = made_from(dataset, files, backbone)
        known = [name for name in ("items", "model", ITEM_VECTORS, "parameters") if name in found]
        check_origin(Path(folder), found, only=known)
        changed = changed_since(Path(folder), found, only=("training events",))
        regrouped = config.clients.kind != "column" and bool(changed)
        fusion = load_fusion(Path(folder), config, rows)
        if regrouped and fusion:
            raise RunError(
                f"The training events have changed since the run, and clients.kind = {config.clients.kind!r} groups users by "
                "them: nobody can tell whose events each client's own statistics are counted on. Run again."
            )
        trunk = reach_trunk(config, files, sorted(rows))
        return cls(config, rows, dataset, backbone, fusion=fusion, silo=silo, trunk=trunk, regrouped=regrouped)

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of all clients."""
        return tuple(sorted(self._rows))

    @enough_memory()
    def recommend(
        self, client: str, *, user: str | None = None, history: Sequence[str] | None = None, k: int = 10
    ) -> Recommendations:
        """Return the `k` best items for a user of the data, or for a history of titles or item ids, oldest first.

        Items of the history are not recommended again unless the run's evaluation says so.

        Raises:
            ConfigError: no such client, user or item; both or neither of `user` and `history` given.
        """
        if client not in self._rows:
            raise ConfigError(
                f"There is no client {client!r}.{nearest(client, self.clients)} Clients: {', '.join(self.clients)}."
            )
        if (user is None) == (history is None):
            raise ConfigError("Give either a user or a history of titles.")
        if k < 1:
            raise ConfigError(f"k = {k}, but at least one item must be asked for.")
        items = self._of_user(client, user) if user is not None else self._of_titles(history or ())
        scorer = self._scorer(client)
        scores = scorer.scores(_query(items), wanted=k)
        masked = Ragged.from_rows([items]) if self._config.evaluation.mask_history else None
        best = [item for item in top_items(scores, masked, k, scorer.nothing)[0].tolist() if item >= 0]
        catalogue = self._dataset.catalogue
        return Recommendations(
            client,
            tuple(Item(catalogue.ids[item], catalogue.titles[item]) for item in items),
            tuple(
                RankedItem(rank, catalogue.ids[item], catalogue.titles[item], float(scores[0, item]))
                for rank, item in enumerate(best, start=1)
            ),
        )

    def _scorer(self, client: str) -> CatalogueScorer:
        if client not in self._scorers:
            row = self._rows[client].to(self._backbone.device)
            backbone = self._backbone
            if self._trunk is not None:
                backbone = backbone.behind(StubTrunk(self._trunk.link(client), best=True))
            model = backbone.scorer(backbone.layout.views(row))
            weights = self._fusion.get(client)
            self._scorers[client] = model if weights is None else self._own(client).fused(model, weights)
        return self._scorers[client]

    def _own(self, client: str) -> Fusion:
        """Return what a client counts on its own data."""
        names = self._assignment.names
        if client not in names:
            raise RunError(
                f"Client {client} mixes its model with what it counts on its own events, and the data has no user of it any "
                "more. Bring its events back, or run again."
            )
        mine = self._assignment.client_of_user == names.index(client)
        return Fusion(self._config.fusion, self._dataset, np.flatnonzero(mine).astype(np.int64))

    @cached_property
    def _assignment(self) -> ClientAssignment:
        return assigned(self._dataset, self._config, self._silo)

    def owner(self, user: str) -> str:
        """Return the name of the client that a user of the data belongs to.

        Raises:
            ConfigError: there is no such user.
            RunError: users were grouped by their training events, and these have changed since the run.
        """
        code = self._code(user)
        if self._regrouped:
            raise RunError(
                f"The training events have changed since the run, and clients.kind = {self._config.clients.kind!r} "
                "groups users by them: nobody can tell which client a user belonged to. Give the history instead, or "
                "run again."
            )
        name: str = self._assignment.names[self._assignment.client_of_user[code]]
        return name

    def _code(self, user: str) -> int:
        ids = self._dataset.user_ids
        if user not in ids:
            raise ConfigError(f"There is no user {user!r} in the data.{nearest(user, ids)}")
        return ids.index(user)

    def _of_user(self, client: str, user: str) -> Ints:
        owner = self.owner(user)
        if owner != client and self._silo is not None:
            raise ConfigError(
                f"User {user!r} belongs to {owner}, and this is what {self._silo} has of the run. Ask {owner}."
            )
        if owner != client:
            raise ConfigError(f"User {user!r} belongs to {owner}, not to {client}. Ask with --client {owner}.")
        return self._dataset.items[self._code(user)]

    def _of_titles(self, history: Sequence[str]) -> Ints:
        wanted = [text.strip() for text in history if text.strip()]
        if not wanted:
            raise ConfigError("The history is empty. Give at least one title or item id.")
        codes = [self._codes.get(text, self._codes.get(text.casefold())) for text in wanted]
        unknown = [text for text, code in zip(wanted, codes, strict=True) if code is None]
        if unknown:
            raise ConfigError([f"No item has the title or id {text!r}.{self._meant(text)}" for text in unknown])
        return np.asarray(codes, dtype=np.int64)

    def _meant(self, text: str) -> str:
        """Return " Did you mean ...?" with the titles that begin so, or one that is spelt alike; empty where there is none."""
        titles = self._dataset.catalogue.titles
        longer = [title for title in dict.fromkeys(titles) if title.casefold().startswith(text.casefold())][:3]
        return f" Did you mean {' or '.join(map(repr, longer))}?" if longer else nearest(text, titles)

    @cached_property
    def _codes(self) -> dict[str, int]:
        catalogue = self._dataset.catalogue
        by_title = {title.casefold(): code for code, title in reversed(list(enumerate(catalogue.titles)))}
        return by_title | {id_: code for code, id_ in enumerate(catalogue.ids)}


def _query(items: Ints) -> Queries:
    nobody = np.zeros(1, dtype=np.int64)
    return Queries(nobody, Ragged.from_rows([items]), Ragged.from_rows([[]]))
