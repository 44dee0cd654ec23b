"""The language model of the sequence backbone at work: it reads items, and its adapters learn from what items lack."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pplr.errors import NumericalError
from pplr.models.item_reader import Lesson
from pplr.models.layout import Layout, ParameterSpec
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.vectors import Tokens, encode, text_vectors
from pplr.seeds import derive, numpy_generator
from pplr.training.optimiser import RowOptimiser, clipping


class LocalReader:
    """An item reader (`models.item_reader.ItemReader`) over a language model in this process."""

    def __init__(self, body: nn.Module, tokens: Tokens, settings: AdapterSettings, step_items: int) -> None:
        """Put adapters into `body`, which reads `tokens`, of `step_items` items at every step of training.

        Raises:
            ModelError, ConfigError: the model cannot have such adapters.
        """
        self._body = body
        self._device = next(body.parameters()).device
        self._tokens = tokens
        self._step_items = step_items
        self._lora = Lora(body, settings)

    @property
    def settings(self) -> AdapterSettings:
        """Of the adapters, with the maps that are adapted."""
        return self._lora.settings

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """The adapters' parameters."""
        return self._lora.specs

    def encode(self, adapters: Mapping[str, Tensor]) -> Tensor:
        """Return the vectors [items, hidden] of all items with these adapters."""
        with self._lora.bound({name: factor.to(self._device) for name, factor in adapters.items()}):
            return encode(self._body, self._tokens)

    def learn(
        self, adapters: Mapping[str, Tensor], frozen: frozenset[str], gradient: Tensor, lesson: Lesson
    ) -> Mapping[str, Tensor]:
        """Return the adapters after one pass over all items, as `ItemReader.learn` says.

        Raises:
            NumericalError: the gradient of a step is not finite.
        """
        layout = Layout([spec.fixed() if spec.name in frozen else spec for spec in self.specs])
        row = torch.cat([adapters[spec.name].to(self._device).reshape(-1) for spec in layout.specs])
        optimiser = RowOptimiser(layout, row, lesson.weight_decay)
        order = numpy_generator(lesson.seed, "items").permutation(len(self._tokens))
        for step, start in enumerate(range(0, len(order), self._step_items), start=1):
            items = order[start : start + self._step_items]
            optimiser.zero()
            with (
                self._lora.training(derive(lesson.seed, "dropout", step)),
                self._lora.bound(optimiser.row.named),
            ):
                vectors = text_vectors(self._body, [self._tokens.ids[item] for item in items])
            wanted = gradient[torch.from_numpy(items).to(gradient.device)].to(self._device)
            (vectors.float() * wanted).sum().backward()  # type: ignore[no-untyped-call]
            norm = math.sqrt(optimiser.squared_norm())
            if not math.isfinite(norm):
                raise NumericalError(
                    f"The gradient of the language model's adapters became {norm} in step {step}. Lower "
                    "training.learning_rate or training.clip_norm."
                )
            optimiser.step(lesson.rate * min(1.0, step / max(lesson.warmup, 1)), clipping(norm, lesson.clip_norm))
        return optimiser.row.frozen()
