"""From written titles to items of the catalogue (docs/backbones.md, "Grounding").

`catalogue` searches among the titles of the catalogue only, so every beam is an item. `embedding` writes freely, and
ranks all items by the distance of their titles to what was written, in the space of the base model without adapters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pplr.data.dataset import Ints, Queries
from pplr.models.backbone import CatalogueScorer, Parameters
from pplr.models.batching import padded, sorted_batches
from pplr.models.decoding.beam import Beams, beam_search

if TYPE_CHECKING:
    from pplr.models.generative import GenerativeBackbone


@dataclass(frozen=True)
class Written:
    """What the model wrote for one user, best beam first.

    Attributes:
        texts: one text per beam.
        log_probabilities: of each text, summed over its tokens.
    """

    texts: tuple[str, ...]
    log_probabilities: tuple[float, ...]


def write(
    backbone: GenerativeBackbone, parameters: Parameters, histories: list[Ints], *, free: bool, beams: int | None = None
) -> Beams:
    """Return the beams for each history, searched freely or among the catalogue's titles only.

    `beams` is the width of the search; None takes the backbone's setting.
    """
    ids, mask = backbone.prompt_batch(histories)
    with backbone.lora.bound(parameters), torch.no_grad(), backbone.arithmetic():
        return beam_search(
            backbone.model,
            ids,
            mask,
            beams=backbone.settings.beams if beams is None else beams,
            max_new_tokens=backbone.settings.title_tokens + 1,
            eos=backbone.eos,
            trie=None if free else backbone.trie,
            same_weights=True,
        )


def written_texts(backbone: GenerativeBackbone, beams: Beams) -> list[Written]:
    """Return the beams as texts, one entry per user."""
    written = []
    for user in range(beams.tokens.shape[0]):
        texts = backbone.tokenizer.batch_decode(
            [beams.tokens[user, beam, : beams.lengths[user, beam]].tolist() for beam in range(beams.tokens.shape[1])],
            skip_special_tokens=True,
        )
        written.append(Written(tuple(t.strip() for t in texts), tuple(beams.log_probs[user].tolist())))
    return written


def grounded_scorer(backbone: GenerativeBackbone, parameters: Parameters) -> CatalogueScorer:
    """Return the scorer that the backbone's settings ask for."""
    kind = CatalogueGrounding if backbone.settings.grounding == "catalogue" else EmbeddingGrounding
    return kind(backbone, parameters)


class CatalogueGrounding(CatalogueScorer):
    """Items that a beam wrote score by the beam; all others tie below them, so that ties share their expected rank."""

    nothing = 0.0

    def __init__(self, backbone: GenerativeBackbone, parameters: Parameters) -> None:
        self._backbone = backbone
        self._parameters = parameters

    def scores(self, queries: Queries, wanted: int = 0) -> Tensor:
        """Return [len(queries), items]: the number of beams a title beats, itself included; 0 where no beam wrote it.

        Beams are as many as the settings say, or `wanted` where that is more; they are doubled until every user has
        `wanted` items outside of the history, or all titles.
        """
        histories = list(queries.histories)
        if not histories:
            return torch.zeros(0, self._backbone.items)
        beams = max(self._backbone.settings.beams, wanted)
        while True:
            scores = self.grounded(write(self._backbone, self._parameters, histories, free=False, beams=beams))
            found = scores > self.nothing
            for user, history in enumerate(histories):
                found[user, torch.from_numpy(history)] = False
            if beams >= self._backbone.items or int(found.sum(dim=1).min()) >= wanted:
                return scores
            beams = min(2 * beams, self._backbone.items)

    def grounded(self, beams: Beams) -> Tensor:
        """Return, for beams that wrote titles of the catalogue, how many beams each title beats, itself included, [users, items]."""
        users, count = beams.leaves.shape
        scores = torch.full((users, self._backbone.items), self.nothing)
        for user, leaves in enumerate(beams.leaves.tolist()):
            for beam, leaf in enumerate(leaves):
                if leaf >= 0:
                    scores[user, torch.from_numpy(self._backbone.trie.items(leaf))] = float(count - beam)
        return scores


class EmbeddingGrounding(CatalogueScorer):
    """All items score by the closeness of their title to the best beam's text (BIGRec, arXiv:2308.08434, section 3)."""

    def __init__(self, backbone: GenerativeBackbone, parameters: Parameters) -> None:
        self._backbone = backbone
        self._parameters = parameters
        self._titles = backbone.title_states

    def scores(self, queries: Queries, wanted: int = 0) -> Tensor:
        """Return [len(queries), items]: minus the L2 distance."""
        return self.grounded(write(self._backbone, self._parameters, list(queries.histories), free=True))

    def grounded(self, beams: Beams, beam: int = 0) -> Tensor:
        """Return minus the L2 distance of all titles to what one beam of each user wrote, the best one by default, [users, items]."""
        users = range(len(beams.tokens))
        best = [beams.tokens[user, beam, : int(beams.lengths[user, beam])].tolist() for user in users]
        eos = self._backbone.eos
        states = title_states(self._backbone, [[token for token in ids if token != eos] or [eos] for ids in best])
        return -torch.cdist(states, self._titles)


@torch.no_grad()
def title_states(backbone: GenerativeBackbone, titles: list[list[int]], batch_tokens: int = 2048) -> Tensor:
    """Return the base model's last state at each title's last token, [titles, width]; no adapter is bound."""
    lengths = np.asarray([len(ids) for ids in titles], np.int64)
    states: Tensor | None = None
    for part in sorted_batches(lengths, batch_tokens):
        ids, mask = padded([titles[i] for i in part], backbone.device)
        hidden = backbone.model.states(ids, mask)
        last = hidden[torch.arange(len(part)), mask.sum(1) - 1].float()
        if states is None:
            states = torch.empty(len(titles), last.shape[-1], device=last.device)
        states[torch.from_numpy(part).to(last.device)] = last
    if states is None:
        raise ValueError("There are no titles to read.")
    return states
