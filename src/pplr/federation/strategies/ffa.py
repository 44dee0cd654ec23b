"""Adapters of which one factor is frozen (Sun et al. 2024, arXiv:2403.12313, FFA-LoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pplr.errors import ConfigError
from pplr.federation.strategies.base import Cohort, Mixing, Strategy, averaging
from pplr.models.layout import ParameterSpec


class FrozenFactorA(Strategy):
    """Federated averaging of adapters whose factors A stay as they were drawn: only B is trained and sent.

    A is the same for all clients, so mean(B) A = mean(B A): averaging the factors is averaging the adapters, and half of
    the bytes travel. D is that of `fedavg`. It has no parameters: `fedavg` is the same with A trained.
    """

    kind: Literal["ffa"] = "ffa"
    scopes: ClassVar[bool] = True

    def scope(self, specs: Sequence[ParameterSpec], depth: int | None = None) -> Sequence[ParameterSpec]:
        """Return the parameters, the adapters' factors A frozen.

        Raises:
            ConfigError: there are no adapters.
        """
        if not any(spec.name.endswith(".lora_A") for spec in specs):
            raise ConfigError(
                "strategy.kind = 'ffa' freezes the factors A of adapters, but this backbone trains no adapters. Set "
                "backbone.adapters = true (sequence), choose another backbone, or strategy.kind = 'fedavg'."
            )
        return [spec.fixed() if spec.name.endswith(".lora_A") else spec for spec in specs]

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return n_i / sum(n) in every row."""
        return Mixing(averaging(cohort, cohort.sizes))
