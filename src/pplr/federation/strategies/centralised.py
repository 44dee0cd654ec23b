"""The upper reference: one client that owns all data."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from pplr.federation.strategies.base import Cohort, Mixing, Strategy


class Centralised(Strategy):
    """All interactions in one place, one model for everybody: what federation gives up for privacy. Not federated."""

    kind: Literal["centralised"] = "centralised"
    pools_data: ClassVar[bool] = True
    exchanges: ClassVar[bool] = False

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return the identity: there is one client."""
        return Mixing(np.eye(len(cohort.sizes)))
