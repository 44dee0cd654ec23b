"""No federation: every client keeps its own row."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from pplr.federation.strategies.base import Cohort, Mixing, Strategy


class Local(Strategy):
    """Each client trains alone: D is the identity. What federation has to beat for every client."""

    kind: Literal["local"] = "local"
    exchanges: ClassVar[bool] = False

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return the identity."""
        return Mixing(np.eye(len(cohort.sizes)))
