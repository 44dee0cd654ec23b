"""How long the texts of a configuration's data typically are, by its tokenizer and prompts; no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pplr.config import Config
from pplr.data import load
from pplr.data.dataset import Catalogue, Ints
from pplr.errors import DataError
from pplr.models.examples import next_items
from pplr.models.hub.load import load_tokenizer
from pplr.models.hub.registry import Kind
from pplr.models.hub.resolver import ModelFiles
from pplr.models.prompts import PromptBuilder, load_template
from pplr.models.settings import EncoderSettings, GenerativeSettings
from pplr.models.text import item_texts

EXAMPLES = 500
"""Training examples that are read for a mean."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens.

    Attributes:
        prompt: of a prompt, or of an encoder's history.
        common: that all prompts begin with.
        title: of a title.
    """

    prompt: int
    common: int
    title: int


def typical_lengths(config: Config, model: str, folder: Path, kind: Kind) -> Lengths:
    """Return the typical lengths of the training examples that `config` makes of its data.

    Raises:
        DataError, ModelError, ConfigError: the data, the tokenizer or the prompt cannot be read.
    """
    tokenizer = load_tokenizer(ModelFiles(model, folder, kind, ""))
    dataset = load(config.data, Path()).dataset
    settings = config.backbone
    if isinstance(settings, GenerativeSettings | EncoderSettings):
        histories, targets = next_items(dataset.training(), settings.history_items, settings.examples)
        drawn = np.random.default_rng(config.seed).permutation(len(targets))[:EXAMPLES]
        chosen = list(histories.select(drawn.astype(np.int64)))
        if chosen and isinstance(settings, EncoderSettings):
            return Lengths(_history(settings, dataset.catalogue, tokenizer, chosen), 0, 0)
        if chosen and isinstance(settings, GenerativeSettings):
            return _prompts(settings, dataset.catalogue, tokenizer, chosen, targets[drawn])
    raise DataError(
        "The configuration makes no training examples of its data, so there are no lengths to measure. Say them with "
        "--prompt-tokens, --common-tokens and --title-tokens."
    )


def _prompts(
    settings: GenerativeSettings, catalogue: Catalogue, tokenizer: Any, histories: list[Ints], targets: Ints
) -> Lengths:
    titles = list(catalogue.titles)
    builder = PromptBuilder(
        load_template(settings.prompt),
        tokenizer,
        titles,
        items=settings.history_items,
        tokens=settings.prompt_tokens,
        title_tokens=settings.title_tokens,
    )
    prompts = [builder.prompt(history) for history in histories]
    written = tokenizer([titles[target] for target in targets], add_special_tokens=False)["input_ids"]
    title = np.mean([min(len(ids), settings.title_tokens) for ids in written])
    first, last = min(prompts), max(prompts)
    common = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)) - 1
    )
    return Lengths(round(float(np.mean([len(p) for p in prompts]))), common, max(1, round(float(title))))


def _history(settings: EncoderSettings, catalogue: Catalogue, tokenizer: Any, histories: list[Ints]) -> int:
    texts = tokenizer(item_texts(catalogue, settings.attributes), add_special_tokens=False)["input_ids"]
    tokens = np.asarray([min(len(ids), settings.item_tokens) for ids in texts])
    lengths = [
        min(2 + int(tokens[history[-settings.history_items :]].sum()), settings.history_tokens) for history in histories
    ]
    return max(1, round(float(np.mean(lengths))))
