"""The sequence backbone: item vectors of a language model, read by a small causal transformer.

The language model turns each item's public text into one vector; a history is a sequence of such vectors. After UniSRec
(arXiv:2206.05941) and SASRec (arXiv:1808.09781); docs/backbones.md.

    e_i = P v_i + r_i                        item embedding: projected text vector plus a residual
    h   = transformer(e_history)             state after the newest item
    score_i = <h, e_i> / sqrt(width) + b_i   trained by cross-entropy over the whole catalogue at every position
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplr.data.dataset import Catalogue, Ints, Queries, Ragged
from pplr.errors import ConfigError
from pplr.models.arithmetic import Precision, arithmetic, cross_entropy, linear
from pplr.models.backbone import (
    Backbone,
    CatalogueScorer,
    Loss,
    Parameters,
    as_measured,
    beyond,
    contrasted,
    shared_table,
)
from pplr.models.batching import padded, sorted_batches
from pplr.models.item_reader import ItemReader, Lesson
from pplr.models.layout import Layout, ParameterSpec, kaiming, zeros
from pplr.models.lora import Adapted, Lora
from pplr.models.sequence_examples import ItemSequences
from pplr.models.sequence_network import hidden_states, last_states, network_specs
from pplr.models.sequence_settings import SequenceSettings
from pplr.models.text import item_texts
from pplr.models.vectors import Tokens, encode, standardised, text_vectors, tokenise
from pplr.seeds import drawn_seed

ITEM_TABLES = ("bias", "residual")
"""Parameters with a row per item: one that has moved tells that somebody has the item."""

SCORED_ITEMS = 2048
"""Items of histories, padding counted, that are read at once for scoring: short histories are not padded to long ones."""


class SequenceBackbone(Backbone[ItemSequences]):
    """See the module's text.

    Attributes:
        vectors: [items, hidden] standardised text vectors of the language model without adapters.
    """

    selects_by = "ndcg@10"

    def __init__(
        self,
        settings: SequenceSettings,
        catalogue: Catalogue,
        body: nn.Module | None,
        tokenizer: Any,
        device: torch.device,
        *,
        vectors: Tensor | None = None,
        reader: ItemReader | None = None,
    ) -> None:
        """Make the backbone of a language model (`body` and `tokenizer`), or of its `vectors` [items, hidden] alone.

        Where adapters are trained once a round, a `reader` stands for the language model.

        Raises:
            ConfigError: adapters shall be trained, but there is no language model.
        """
        self.settings = settings
        self.device = device
        self.items = len(catalogue)
        self.reader = reader if settings.adapters and settings.adapter_updates == "round" else None
        self._reader = None if body is None else _ItemReader(body, item_tokens(settings, catalogue, tokenizer))
        if self._reader is None and (vectors is None or (settings.adapters and self.reader is None)):
            raise ConfigError("The sequence backbone needs a language model: none was given.")
        raw = self._reader.encode() if vectors is None and self._reader else vectors
        if raw is None:
            raise ConfigError("The sequence backbone needs item vectors: none were given.")
        raw = raw.to(device)
        self._mean, self._deviation = raw.mean(0), raw.std(0).clamp(min=1e-6)
        self.vectors = standardised(raw)
        at_steps = settings.adapters and self.reader is None
        self.lora = Lora(body, settings.adapter) if at_steps and body is not None else None
        self.layout = Layout([*self._head_specs(), *self._adapter_specs()])

    @property
    def adapted(self) -> Adapted | None:
        """The adapters in the language model, here or elsewhere."""
        return self.reader or self.lora

    def _adapter_specs(self) -> Sequence[ParameterSpec]:
        if self.reader is not None:  # they stand still, undecayed, while the head is trained
            return [replace(spec, decay=False) for spec in self.reader.specs]
        return self.lora.specs if self.lora else ()

    def _head_specs(self) -> list[ParameterSpec]:
        s = self.settings
        specs = [
            ParameterSpec("projection", (s.width, self.vectors.shape[1]), kaiming),
            *network_specs(s.width, s.layers, s.positions),
        ]
        if s.residual != "none":
            private = s.residual == "private"
            specs.append(ParameterSpec("residual", (self.items, s.width), zeros, private=private, table=True))
        if s.bias != "none":
            specs.append(ParameterSpec("bias", (self.items,), zeros, private=s.bias == "private", decay=False))
        return specs

    def examples(self, training: Ragged) -> ItemSequences:
        """Return each history in windows of `positions` + 1 items that overlap by one: every event is a target once."""
        return ItemSequences.of_histories(training, self.settings.positions)

    def query_examples(self, queries: Queries) -> ItemSequences:
        """Return one window per (query, target): the newest items of the history, then the target."""
        return ItemSequences.of_queries(queries, self.settings.positions)

    def encode_catalogue(self, parameters: Parameters) -> Tensor | None:
        """Return [items, hidden] text vectors with these parameters' adapters, or None where the model has none."""
        if self.reader is not None:
            adapters = {spec.name: parameters[spec.name] for spec in self.reader.specs}
            return self._standardised(self.reader.encode(adapters).to(self.device))
        if self.lora is None or self._reader is None:
            return None
        with self.lora.bound(parameters), self._arithmetic():
            return self._standardised(self._reader.encode())

    def loss(
        self, parameters: Parameters, catalogue: Tensor | None, examples: ItemSequences, rows: Ints, training: bool
    ) -> Loss:
        """Return the cross-entropy, summed over the scored positions of `rows`: in training over what `contrast` says."""
        seen = examples.windows.select(rows).values if training and self.lora is not None else None
        vectors = self._vectors(parameters, catalogue, seen)
        dropout = self.settings.dropout if training else 0.0
        parameters = parameters if training else self.measured(parameters)[0]
        among = self._among(parameters, examples) if training else None
        precision = self.settings.precision if training else "float32"
        table = self._embeddings(parameters, vectors, precision)
        return self._loss(parameters, table, examples, rows, dropout, among, precision)

    def rate_factors(self, examples: ItemSequences, item_rate: float, own_items: bool) -> Tensor | None:
        """Return [P] one, but for the residuals: `item_rate`; with `own_items` zero in shared ones of other items."""
        tables = [
            spec for spec in self.layout.specs if spec.table and (item_rate != 1 or (own_items and not spec.private))
        ]
        if not tables:
            return None
        factors = torch.ones(self.layout.size, device=self.device)
        views = self.layout.views(factors)
        items = torch.from_numpy(examples.items).to(self.device)
        for spec in tables:
            if own_items and not spec.private:
                views[spec.name].zero_().index_fill_(0, items, item_rate)
            else:
                views[spec.name].fill_(item_rate)
        return factors

    def end_round(
        self,
        parameters: Parameters,
        catalogue: Tensor | None,
        examples: ItemSequences,
        batch_tokens: int,
        lesson: Lesson,
    ) -> Mapping[str, Tensor]:
        """Return the adapters that the reader has trained along the gradient of all items' vectors."""
        if self.reader is None or not len(examples):
            return {}
        gradient = self.item_gradient(parameters, catalogue, examples, batch_tokens)
        adapters = {spec.name: parameters[spec.name] for spec in self.reader.specs}
        frozen = frozenset(spec.name for spec in self.layout.specs if spec.frozen and spec.name in adapters)
        return self.reader.learn(adapters, frozen, gradient, lesson)

    def item_gradient(
        self, parameters: Parameters, catalogue: Tensor | None, examples: ItemSequences, batch_tokens: int
    ) -> Tensor:
        """Return the gradient [items, hidden] of the mean loss of all examples by the language model's vectors.

        Arguments are those of `loss`. Without dropout: the same examples give the same gradient.
        """
        vectors = self.vectors if catalogue is None else catalogue
        table = self._embeddings(parameters, vectors).detach().requires_grad_()
        targets, among, precision = 0, self._among(parameters, examples), self.settings.precision
        for rows in sorted_batches(examples.lengths, batch_tokens):
            loss = self._loss(parameters, table, examples, rows, 0.0, among, precision)
            loss.total.backward()  # type: ignore[no-untyped-call]
            targets += loss.targets
        if table.grad is None:
            return torch.zeros_like(vectors)
        return (table.grad @ parameters["projection"]).div_(self._deviation * max(targets, 1))

    def _among(self, parameters: Parameters, examples: ItemSequences) -> Tensor | None:
        """Return the codes of the items that training tells apart, ascending; None for the whole catalogue."""
        shared = shared_table(self.layout, parameters, ITEM_TABLES)
        return contrasted(self.settings.contrast, torch.from_numpy(examples.items).to(self.device), shared)

    def _loss(
        self,
        p: Parameters,
        table: Tensor,
        examples: ItemSequences,
        rows: Ints,
        dropout: float,
        among: Tensor | None,
        precision: Precision,
    ) -> Loss:
        items, mask = padded(list(examples.windows.select(rows)), self.device)
        scored = torch.from_numpy(examples.scored[rows]).to(self.device)
        newest = mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1] - 1, device=self.device)
        chosen = (newest > 0) & (newest <= scored.unsqueeze(1))  # position t predicts item t + 1
        # the gradient of `table[items]` adds the rows of repeated items in an order that varies with the threads' timing
        states = self._states(p, F.embedding(items[:, :-1], table), dropout)
        targets = items[:, 1:][chosen]
        if among is not None:
            targets = torch.searchsorted(among, targets)
        total = self._cross_entropy(p, table, states[chosen], targets, among, precision)
        if among is not None:
            total = total + beyond(among, self.items) * len(targets)
        return Loss(total, len(targets), int(examples.lengths[rows].sum()))

    def measured(self, parameters: Parameters) -> tuple[Parameters, Tensor | None]:
        """Return the parameters as they are measured and recommend, and which items are new, [items] bool, where that is known."""
        return as_measured(self.settings.contrast, self.settings.new_bias, self.layout, parameters, ITEM_TABLES)

    def scorer(self, parameters: Parameters, catalogue: Tensor | None = None) -> SequenceScorer:
        """Return a scorer that reads the newest `positions` items of a history."""
        return SequenceScorer(self, parameters, catalogue)

    @torch.no_grad()
    def scores(self, parameters: Parameters, table: Tensor, histories: Sequence[Ints]) -> Tensor:
        """Return [histories, items] scores; `table` [items, width] are the item embeddings of these parameters."""
        rows = [row[-self.settings.positions :] for row in histories]
        last = table.new_empty(len(rows), self.settings.width)
        for part in sorted_batches(np.asarray([len(row) for row in rows], np.int64), SCORED_ITEMS):
            items, mask = padded([rows[i] for i in part], self.device)
            states = self._states(parameters, table[items], 0.0)
            last[torch.from_numpy(part).to(self.device)] = last_states(states, mask.sum(1))
        return self._logits(parameters, table, last)

    @torch.no_grad()
    def item_embeddings(self, parameters: Parameters, catalogue: Tensor | None = None) -> Tensor:
        """Return e_i of every item, [items, width]; `catalogue` as for `scorer`."""
        vectors = self.encode_catalogue(parameters) if catalogue is None else catalogue
        return self._embeddings(parameters, self._vectors(parameters, vectors, None))

    def _vectors(self, parameters: Parameters, catalogue: Tensor | None, seen: Ints | None) -> Tensor:
        """Return the vectors, in which some of the items `seen` are read anew for gradients."""
        vectors = self.vectors if catalogue is None else catalogue
        if self.lora is None or self._reader is None or seen is None:
            return vectors
        unique = torch.from_numpy(np.unique(seen)).to(self.device)
        live = unique[torch.randperm(len(unique), device="cpu")[: self.settings.live_items].to(unique.device)]
        with ExitStack() as stack:
            stack.enter_context(self.lora.training(drawn_seed()))
            stack.enter_context(self.lora.bound(parameters))
            stack.enter_context(self._arithmetic())
            fresh = self._reader.read(live.tolist())
        return vectors.index_copy(0, live, self._standardised(fresh.float()))

    def _arithmetic(self) -> AbstractContextManager[Any]:
        return arithmetic(self.settings.precision, self.device)

    def _standardised(self, raw: Tensor) -> Tensor:
        return (raw - self._mean) / self._deviation

    def _embeddings(self, p: Parameters, vectors: Tensor, precision: Precision = "float32") -> Tensor:
        embeddings = linear(vectors, p["projection"], precision)
        return embeddings + p["residual"] if "residual" in p else embeddings

    def _states(self, p: Parameters, items: Tensor, dropout: float) -> Tensor:
        return hidden_states(p, items, layers=self.settings.layers, heads=self.settings.heads, dropout=dropout)

    def _logits(self, p: Parameters, table: Tensor, states: Tensor) -> Tensor:
        return F.linear(states * self.settings.width**-0.5, table, p.get("bias"))

    def _cross_entropy(
        self,
        p: Parameters,
        table: Tensor,
        states: Tensor,
        targets: Tensor,
        among: Tensor | None,
        precision: Precision,
    ) -> Tensor:
        """Return the cross-entropy of `_logits`, summed over `states`: of all items, or of those `among` which `targets` count."""
        bias = p.get("bias")
        if among is not None:
            table = F.embedding(among, table)
            bias = None if bias is None else bias.index_select(0, among)
        return cross_entropy(states * self.settings.width**-0.5, table, bias, targets, precision)


@dataclass(frozen=True)
class _ItemReader:
    """A language model and the items' texts as its tokens."""

    body: nn.Module
    tokens: Tokens

    def encode(self) -> Tensor:
        """Return vectors [items, hidden] of all items."""
        return encode(self.body, self.tokens)

    def read(self, items: list[int]) -> Tensor:
        """Return vectors [len(items), hidden] through which gradients flow."""
        return text_vectors(self.body, [self.tokens.ids[item] for item in items])


def item_tokens(settings: SequenceSettings, catalogue: Catalogue, tokenizer: Any) -> Tokens:
    """Return the items' texts as tokens of a language model."""
    return tokenise(tokenizer, item_texts(catalogue, settings.attributes), settings.item_tokens)


class SequenceScorer(CatalogueScorer):
    """Scores with one client's parameters; item embeddings are computed once."""

    def __init__(self, backbone: SequenceBackbone, parameters: Parameters, catalogue: Tensor | None) -> None:
        self._backbone = backbone
        self._parameters, self.new_items = backbone.measured(parameters)
        self._table = backbone.item_embeddings(parameters, catalogue)

    def scores(self, queries: Queries, wanted: int = 0) -> Tensor:
        """Return [len(queries), items] scores."""
        return self._backbone.scores(self._parameters, self._table, list(queries.histories))
