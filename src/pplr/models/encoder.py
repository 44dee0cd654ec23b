"""The encoder backbone: one bidirectional language model for histories and items.

After RecFormer (arXiv:2305.13731); docs/backbones.md. An item is its attribute-value pairs, a history the texts of its
items, newest first. Both become one vector, and

    score_i = cos(history, item_i) / temperature + b_i

is trained by cross-entropy over the catalogue, or over sampled negatives where the catalogue is large. Item vectors are
constants of the loss: encoded anew every local epoch, and in the second stage only once a round.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pplr.data.dataset import Catalogue, Ints, Queries, Ragged
from pplr.errors import ConfigError
from pplr.models.arithmetic import Precision, arithmetic
from pplr.models.backbone import (
    Backbone,
    CatalogueScorer,
    Contrast,
    Loss,
    NewBias,
    Parameters,
    Refresh,
    as_measured,
    beyond,
    contrasted,
    shared_table,
)
from pplr.models.batching import padded, sorted_batches
from pplr.models.examples import next_items
from pplr.models.layout import Layout, ParameterSpec, zeros
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts.encoder import SplitEncoder
from pplr.models.parts.passing import Trunk
from pplr.models.text import item_texts
from pplr.models.vectors import Tokens, encode, mean_pool, readable_tokens
from pplr.seeds import drawn_seed

ITEM_TABLES = ("bias",)
"""Parameters with a row per item: one that has moved tells that somebody has the item."""

SCORED_TOKENS = 4096
"""Tokens that are read at once when scoring, padding included: histories of similar length together."""


class EncoderSettings(BaseModel):
    """A BERT-like encoder (MiniLM, MPNet, Longformer, ...) that reads histories and items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["encoder"] = "encoder"
    model: str = Field("minilm", description="Language model (see `pplr models list`).")
    adapter: AdapterSettings = Field(default=AdapterSettings(), description="What is trained in it.")
    history_items: int = Field(10, ge=1, le=1000, description="Newest items of a history that are read.")
    history_tokens: int = Field(256, ge=8, le=32768, description="Longest history text; the oldest items are left out.")
    item_tokens: int = Field(32, ge=2, le=512, description="Tokens of an item's text that are read.")
    attributes: tuple[str, ...] | None = Field(
        None, description="Item columns that the text contains beside the title; absent: all of them."
    )
    temperature: float = Field(0.05, gt=0, allow_inf_nan=False, description="Divides the cosine.")
    bias: Literal["shared", "private", "none"] = Field("shared", description="A trained popularity bias per item.")
    negatives: int = Field(
        0, ge=0, description="Sampled negatives of the loss, shared by a batch; 0 takes the whole catalogue."
    )
    contrast: Contrast = "catalogue"
    new_bias: NewBias = "mean"
    precision: Precision = "float32"
    second_stage: float = Field(
        0.5, ge=0, le=1, description="Share of the rounds after which item vectors are encoded once a round only."
    )
    examples: Literal["last", "all"] = Field(
        "all", description="Training examples per user: every next item of the training history, or only the last."
    )


@dataclass(frozen=True)
class HistoryExamples:
    """Histories and their next items, as item codes.

    Attributes:
        histories: item codes, oldest first.
        targets: [n] item code of the next item.
        lengths: [n] tokens of the history's text.
    """

    histories: Ragged
    targets: Ints
    lengths: Ints

    @cached_property
    def items(self) -> Ints:
        """The item codes that occur, ascending."""
        return np.unique(np.concatenate([self.histories.values, self.targets]))

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, rows: Ints) -> HistoryExamples:
        """Return the given examples, in the given order."""
        return HistoryExamples(self.histories.select(rows), self.targets[rows], self.lengths[rows])


class EncoderBackbone(Backbone[HistoryExamples]):
    """See the module's text."""

    selects_by = "ndcg@10"
    lora: Lora

    def __init__(
        self, settings: EncoderSettings, catalogue: Catalogue, body: nn.Module, tokenizer: Any, device: torch.device
    ) -> None:
        self.settings = settings
        self.device = device
        self.items = len(catalogue)
        self._body = body
        self._start, self._end = _special_tokens(tokenizer)
        texts = tokenizer(item_texts(catalogue, settings.attributes), add_special_tokens=False)["input_ids"]
        self._texts: list[list[int]] = [ids[: settings.item_tokens] for ids in texts]
        self._lengths = np.asarray([len(ids) for ids in self._texts], np.int64)
        _check_room(settings, self._lengths, readable_tokens(body))
        self._tokens = Tokens([[*self._start, *ids, *self._end] for ids in self._texts], self._lengths + 2)
        self.lora = body.adapters(settings.adapter) if isinstance(body, SplitEncoder) else Lora(body, settings.adapter)
        self.layout = Layout([*self.lora.specs, *self._bias_specs()])

    def _bias_specs(self) -> list[ParameterSpec]:
        where = self.settings.bias
        return [] if where == "none" else [ParameterSpec("bias", (self.items,), zeros, where == "private", decay=False)]

    def behind(self, trunk: Trunk) -> EncoderBackbone:
        """Return this recommender with the encoder's trunk in `trunk`."""
        if not isinstance(self._body, SplitEncoder):
            return super().behind(trunk)
        other = copy.copy(self)
        other._body = body = self._body.behind(trunk)
        other.lora = body.around(self.lora)
        return other

    def refresh(self, progress: float) -> Refresh:
        """Return "epoch" in the first stage and "round" in the second."""
        return "epoch" if progress < self.settings.second_stage else "round"

    def examples(self, training: Ragged) -> HistoryExamples:
        """Return an example per item that has something before it (or only the last one, as the settings say)."""
        histories, targets = next_items(training, self.settings.history_items, self.settings.examples)
        return self._measured(histories, targets)

    def query_examples(self, queries: Queries) -> HistoryExamples:
        """Return an example per (query, target) pair."""
        rows = np.repeat(np.arange(len(queries)), queries.targets.lengths)
        return self._measured(queries.histories.select(rows), queries.targets.values)

    @torch.no_grad()
    def encode_catalogue(self, parameters: Parameters) -> Tensor | None:
        """Return unit vectors [items, hidden] of all items with these parameters."""
        with self.lora.bound(parameters), arithmetic(self.settings.precision, self.device):
            vectors = encode(self._body, self._tokens)
        return F.normalize(vectors, dim=-1)

    def loss(
        self, parameters: Parameters, catalogue: Tensor | None, examples: HistoryExamples, rows: Ints, training: bool
    ) -> Loss:
        """Return the cross-entropy of the next items, summed over `rows`: in training over what `contrast` says."""
        vectors = self.encode_catalogue(parameters) if catalogue is None else catalogue
        if vectors is None:
            raise ValueError("The encoder's loss needs item vectors.")
        histories = examples.histories.select(rows)
        parameters = parameters if training else self.measured(parameters)[0]
        states = self._read(parameters, list(histories), training)
        targets = torch.from_numpy(examples.targets[rows]).to(self.device)
        among = self._among(parameters, examples) if training else None
        logits, wanted = self._logits(parameters, states, vectors, targets, training, among)
        total = F.cross_entropy(logits, wanted, reduction="sum")
        if among is not None and logits.shape[1] == len(among):
            total = total + beyond(among, self.items) * len(rows)
        return Loss(total, len(rows), int(examples.lengths[rows].sum()))

    def _among(self, parameters: Parameters, examples: HistoryExamples) -> Tensor | None:
        """Return the codes of the items that training tells apart, ascending; None for the whole catalogue."""
        shared = shared_table(self.layout, parameters, ITEM_TABLES)
        return contrasted(self.settings.contrast, torch.from_numpy(examples.items).to(self.device), shared)

    def measured(self, parameters: Parameters) -> tuple[Parameters, Tensor | None]:
        """Return the parameters as they are measured and recommend, and which items are new, [items] bool, where that is known."""
        return as_measured(self.settings.contrast, self.settings.new_bias, self.layout, parameters, ITEM_TABLES)

    def scorer(self, parameters: Parameters, catalogue: Tensor | None = None) -> EncoderScorer:
        """Return a scorer that reads the newest items of a history."""
        return EncoderScorer(self, parameters, catalogue)

    @torch.no_grad()
    def scores(self, parameters: Parameters, vectors: Tensor, histories: Sequence[Ints]) -> Tensor:
        """Return [histories, items] scores against unit item vectors [items, hidden]."""
        lengths = np.asarray([len(self._history_ids(history)) for history in histories], np.int64)
        states = vectors.new_empty(len(histories), vectors.shape[1])
        for part in sorted_batches(lengths, SCORED_TOKENS):
            states[torch.from_numpy(part).to(self.device)] = self._read(
                parameters, [histories[i] for i in part], training=False
            )
        scores = states @ vectors.T / self.settings.temperature
        return scores + parameters["bias"] if "bias" in parameters else scores

    def _logits(
        self,
        p: Parameters,
        states: Tensor,
        vectors: Tensor,
        targets: Tensor,
        training: bool,
        among: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits of the items `among` (codes, ascending; None for all), and the targets' places in them."""
        columns, count = among, self.items if among is None else len(among)
        if training and 0 < self.settings.negatives < count:
            drawn = torch.randint(count, (self.settings.negatives,)).to(self.device)
            drawn = drawn if among is None else among[drawn]
            columns = torch.unique(torch.cat([targets, drawn]))
        if columns is not None:
            vectors, targets = vectors[columns], torch.searchsorted(columns, targets)
        logits = states @ vectors.T / self.settings.temperature
        if "bias" in p:
            logits = logits + (p["bias"] if columns is None else p["bias"][columns])
        return logits, targets

    def _read(self, parameters: Parameters, histories: Sequence[Ints], training: bool) -> Tensor:
        tokens, mask = padded([self._history_ids(history) for history in histories], self.device)
        with ExitStack() as stack:
            stack.enter_context(self.lora.bound(parameters))
            if training:
                stack.enter_context(self.lora.training(drawn_seed()))
            stack.enter_context(arithmetic(self.settings.precision, self.device))
            states = self._body(input_ids=tokens, attention_mask=mask).last_hidden_state
        return F.normalize(mean_pool(states, mask), dim=-1)

    def _history_ids(self, history: Ints) -> list[int]:
        newest = history[::-1][: self.settings.history_items]
        fits = np.cumsum(self._lengths[newest]) <= self.settings.history_tokens - len(self._start) - len(self._end)
        return [*self._start, *(token for item in newest[fits] for token in self._texts[item]), *self._end]

    def _measured(self, histories: Ragged, targets: Ints) -> HistoryExamples:
        lengths = np.asarray([len(self._history_ids(history)) for history in histories], np.int64)
        return HistoryExamples(histories, targets, lengths)


class EncoderScorer(CatalogueScorer):
    """Scores with one client's parameters; item vectors are computed once."""

    def __init__(self, backbone: EncoderBackbone, parameters: Parameters, vectors: Tensor | None) -> None:
        self._backbone = backbone
        self._parameters, self.new_items = backbone.measured(parameters)
        self._vectors = backbone.encode_catalogue(parameters) if vectors is None else vectors

    def scores(self, queries: Queries, wanted: int = 0) -> Tensor:
        """Return [len(queries), items] scores."""
        if self._vectors is None:
            raise ValueError("The encoder needs item vectors.")
        return self._backbone.scores(self._parameters, self._vectors, list(queries.histories))


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    return [] if start is None else [start], [] if end is None else [end]


def _check_room(settings: EncoderSettings, lengths: Ints, readable: int | None) -> None:
    longest = int(lengths.max(initial=0)) + 2
    if settings.history_tokens < longest:
        raise ConfigError(
            f"backbone.history_tokens = {settings.history_tokens} is shorter than the longest item text ({longest} "
            f"tokens). Set it to at least {longest}, or item_tokens lower."
        )
    if readable is not None and settings.history_tokens > readable:
        raise ConfigError(
            f"backbone.history_tokens = {settings.history_tokens}, but the model {settings.model!r} reads {readable} "
            f"tokens at most. Set it to {readable} or lower."
        )
