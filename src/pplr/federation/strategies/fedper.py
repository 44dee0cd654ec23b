"""Private layers (Arivazhagan et al. 2019, arXiv:1912.00818, algorithms 1 and 2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

from pydantic import Field

from pplr.errors import ConfigError
from pplr.federation.strategies.base import Cohort, Mixing, Strategy, averaging
from pplr.models.layout import ParameterSpec

_LAYER = re.compile(r"(.*?)\.?\b(\d+)\.")
"""What stands before a layer's number in a parameter's name, and the number."""


class FedPer(Strategy):
    """Federated averaging of the first layers; the last ones are personal and stay with their client.

    D is that of `fedavg` on what is shared and the identity on what is private. Where a model has several stacks of
    layers (a head above a language model with adapters), the last of each are private. Parameters that belong to no
    numbered layer, such as an item's bias, are shared unless `names` says otherwise.
    """

    kind: Literal["fedper"] = "fedper"
    scopes: ClassVar[bool] = True
    layers: int = Field(
        1,
        ge=0,
        le=1000,
        description="Last layers that stay private; 0, with no names, turns the strategy into `fedavg`.",
    )
    names: tuple[str, ...] = Field(
        (),
        description='Also private: parameters with such names, * standing for anything; ["*"] turns the strategy into '
        "`local`.",
    )

    def scope(self, specs: Sequence[ParameterSpec], depth: int | None = None) -> Sequence[ParameterSpec]:
        """Return the parameters, the last layers' and those with the given names private.

        Raises:
            ConfigError: no parameter of the whole model has such a name.
        """
        if depth is None:
            self._check_names([spec.name for spec in specs])
        places = [_LAYER.match(spec.name) for spec in specs]
        depths: dict[str, int] = {}
        for place in places:
            if place is not None:
                depths[place[1]] = max(depths.get(place[1], 0), depth or int(place[2]) + 1)
        return [
            spec.kept()
            if any(fnmatchcase(spec.name, name) for name in self.names)
            or (place is not None and int(place[2]) >= depths[place[1]] - self.layers)
            else spec
            for spec, place in zip(specs, places, strict=True)
        ]

    def _check_names(self, known: Sequence[str]) -> None:
        for name in self.names:
            if not any(fnmatchcase(one, name) for one in known):
                raise ConfigError(
                    f"strategy.names has {name!r}, but no parameter is called so. There are {len(known)}, such as "
                    f"{', '.join(known[:3])} and {known[-1]}; * stands for anything."
                )

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return n_i / sum(n) in every row, for what is shared."""
        return Mixing(averaging(cohort, cohort.sizes))
