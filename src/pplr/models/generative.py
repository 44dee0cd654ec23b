"""The generative backbone: a language model reads the titles of a history and writes the title of the next item.

After BIGRec (arXiv:2308.08434); docs/backbones.md. The loss counts the target title's tokens only, and logits are
computed at those positions only. What is written is grounded to real items (see `pplr.models.grounding`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pplr.data.dataset import Catalogue, Ints, Queries, Ragged
from pplr.errors import ConfigError
from pplr.models.arithmetic import Precision, arithmetic
from pplr.models.backbone import Backbone, CatalogueScorer, Loss, Parameters
from pplr.models.batching import padded
from pplr.models.causal import CausalModel, as_causal
from pplr.models.causal.split import SplitCausal
from pplr.models.decoding.trie import TitleTrie
from pplr.models.examples import next_items
from pplr.models.layout import Layout
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts.passing import Trunk
from pplr.models.prompts import DEFAULT, PromptBuilder, load_template
from pplr.seeds import drawn_seed


class GenerativeSettings(BaseModel):
    """A decoder (Llama, SmolLM2, Qwen, Gemma, ...) that writes the next title."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["generative"] = "generative"
    model: str = Field("smollm2-135m", description="Language model (see `pplr models list`).")
    adapter: AdapterSettings = Field(default=AdapterSettings(), description="What is trained in it.")
    prompt: str = Field(DEFAULT, description="Prompt template: a shipped name, or a .toml file.")
    history_items: int = Field(10, ge=1, le=1000, description="Newest titles of a history that are read.")
    prompt_tokens: int = Field(384, ge=16, le=131072, description="Longest prompt; the oldest titles are left out.")
    title_tokens: int = Field(32, ge=1, le=1024, description="Tokens of a title that are read and written.")
    grounding: Literal["embedding", "catalogue"] = Field(
        "catalogue",
        description="How text becomes an item: catalogue searches among the catalogue's titles only; embedding writes "
        "freely and takes the items nearest in the base model's space.",
    )
    precision: Precision = "float32"
    beams: int = Field(4, ge=1, le=64, description="Beams of the search.")
    examples: Literal["last", "all"] = Field(
        "all", description="Training examples per user: every next item of the training history, or only the last."
    )


@dataclass(frozen=True)
class TitleExamples:
    """Prompt and target of each example, as (history, target) item codes; tokens are put together batch by batch.

    Attributes:
        histories: item codes, oldest first.
        targets: [n] item code to be written.
        lengths: [n] tokens of prompt and target.
    """

    histories: Ragged
    targets: Ints
    lengths: Ints

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, rows: Ints) -> TitleExamples:
        """Return the given examples, in the given order."""
        return TitleExamples(self.histories.select(rows), self.targets[rows], self.lengths[rows])


class GenerativeBackbone(Backbone[TitleExamples]):
    """See the module's text.

    Attributes:
        model: the frozen causal language model, with adapters bound from outside.
        trie: the catalogue's titles as token sequences.
        title_states: the catalogue's titles as vectors.
    """

    selects_by = "loss"

    def __init__(
        self,
        settings: GenerativeSettings,
        catalogue: Catalogue,
        model: Any,
        tokenizer: Any,
        device: torch.device,
        *,
        base: Path | None = None,
    ) -> None:
        """Make the backbone of a causal language model; `base` is the folder in which a template's path starts.

        Raises:
            ConfigError: the template cannot be used, or prompts or titles do not fit.
        """
        self.settings = settings
        self.catalogue = catalogue
        self.items = len(catalogue)
        self.device = device
        self.model: CausalModel = as_causal(model)
        self.tokenizer = tokenizer
        self.lora: Lora = self.model.adapters(settings.adapter)
        self.layout = Layout(self.lora.specs)
        self.eos = int(tokenizer.eos_token_id)
        titles = list(catalogue.titles)
        self.prompts = PromptBuilder(
            load_template(settings.prompt, base),
            tokenizer,
            titles,
            items=settings.history_items,
            tokens=settings.prompt_tokens,
            title_tokens=settings.title_tokens,
        )
        written = tokenizer(titles, add_special_tokens=False)["input_ids"]
        self.titles: list[list[int]] = [[*ids[: settings.title_tokens], self.eos] for ids in written]
        self._check_room(getattr(model.config, "max_position_embeddings", None))

    def _check_room(self, readable: int | None) -> None:
        s = self.settings
        written = (
            s.title_tokens if s.grounding == "embedding" else max((len(ids) - 1 for ids in self.titles), default=0)
        )
        if readable is not None and self.prompts.most + written > readable:
            room = readable - written
            advice = (
                f"Set prompt_tokens to {room} or lower" if room >= 16 else "Set prompt_tokens and title_tokens lower"
            )
            raise ConfigError(
                f"With backbone.prompt_tokens = {s.prompt_tokens} a prompt may have {self.prompts.most} tokens and a title "
                f"{written}, but the model {s.model!r} reads {readable} at most. {advice}."
            )

    @cached_property
    def trie(self) -> TitleTrie:
        """The catalogue as a trie of target tokens, built at first use."""
        return TitleTrie([ids[:-1] for ids in self.titles], self.eos)

    @cached_property
    def title_states(self) -> Tensor:
        """[items, width] states of the catalogue's titles, read at first use by the model without adapters.

        They are the same for all clients and rounds, so one reading serves every scorer.
        """
        from pplr.models.grounding import title_states

        return title_states(self, [ids[:-1] for ids in self.titles])

    def behind(self, trunk: Trunk) -> GenerativeBackbone:
        """Return this recommender with the model's trunk in `trunk`."""
        if not isinstance(self.model, SplitCausal):
            return super().behind(trunk)
        if self.settings.grounding == "catalogue":
            _ = self.trie  # one for all
        other = copy.copy(self)
        other.model = self.model.behind(trunk)
        other.lora = other.model.around(self.lora)
        return other

    def examples(self, training: Ragged) -> TitleExamples:
        """Return an example per item that has something before it (or only the last one, as the settings say)."""
        histories, targets = next_items(training, self.settings.history_items, self.settings.examples)
        return self._measured(histories, targets)

    def query_examples(self, queries: Queries) -> TitleExamples:
        """Return an example per (query, target) pair."""
        rows = np.repeat(np.arange(len(queries)), queries.targets.lengths)
        return self._measured(queries.histories.select(rows), queries.targets.values)

    def encode_catalogue(self, parameters: Parameters) -> Tensor | None:
        """Return None: nothing about the catalogue is held constant while this backbone trains."""
        return None

    def loss(
        self, parameters: Parameters, catalogue: Tensor | None, examples: TitleExamples, rows: Ints, training: bool
    ) -> Loss:
        """Return the negative log-likelihood of the target titles (and their end), summed over their tokens."""
        with ExitStack() as stack:
            stack.enter_context(self.lora.bound(parameters))
            if training:
                stack.enter_context(self.lora.training(drawn_seed()))
            return self._loss(examples, rows)

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Return a context in which the model reads, in the precision that the settings say; one for each pass."""
        return arithmetic(self.settings.precision, self.device)

    def scorer(self, parameters: Parameters, catalogue: Tensor | None = None) -> CatalogueScorer:
        """Return a scorer that writes titles and grounds them as the settings say."""
        from pplr.models.grounding import grounded_scorer

        return grounded_scorer(self, parameters)

    def prompt_batch(self, histories: Sequence[Ints]) -> tuple[Tensor, Tensor]:
        """Return token ids and attention mask [batch, length] of prompts, padded on the left."""
        return padded([self.prompts.prompt(history) for history in histories], self.device, left=True)

    def _loss(self, examples: TitleExamples, rows: Ints) -> Loss:
        targets = [self.titles[item] for item in examples.targets[rows]]
        prompts = [self.prompts.prompt(history) for history in examples.histories.select(rows)]
        # what all prompts begin with is read once; the last target token is never read, only predicted
        start = _common_start(prompts)
        ids, mask = padded([p[start:] + t[:-1] for p, t in zip(prompts, targets, strict=True)], self.device)
        row, column = _target_positions([len(p) - start for p in prompts], [len(t) for t in targets], self.device)
        with self.arithmetic():
            logits = self.model.logits(self.model.continued(prompts[0][:start], ids, mask)[row, column])
        wanted = torch.tensor([token for target in targets for token in target], device=self.device)
        total = F.cross_entropy(logits.float(), wanted, reduction="sum")
        return Loss(total, len(wanted), int(examples.lengths[rows].sum()))

    def _measured(self, histories: Ragged, targets: Ints) -> TitleExamples:
        lengths = [
            len(self.prompts.prompt(history)) + len(self.titles[target]) - 1
            for history, target in zip(histories, targets, strict=True)
        ]
        return TitleExamples(histories, targets, np.asarray(lengths, np.int64))


def _common_start(prompts: list[list[int]]) -> int:
    """Return how many tokens all prompts begin with; each keeps its last one, and a single prompt all of its own."""
    if len(prompts) < 2:
        return 0
    most = min(len(prompt) for prompt in prompts) - 1
    first, last = min(prompts), max(prompts)  # in this order neighbours share most, so these two share least
    return next((i for i in range(most) if first[i] != last[i]), most)


def _target_positions(prompts: list[int], targets: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return row and column of every state that predicts a target token, in reading order."""
    lengths = np.asarray(targets)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    columns = np.asarray(prompts)[rows] - 1 + within
    return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)
