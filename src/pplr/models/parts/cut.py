"""Where a model is cut.

Layers 1..n are cut twice: bottom (embedding and the first k layers) and top (the last m layers, final norm and head) stay
with the client; the trunk (everything between) is the server's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pplr.errors import ConfigError


class Which(StrEnum):
    """The three parts, in the order in which data passes them."""

    BOTTOM = "bottom"
    TRUNK = "trunk"
    TOP = "top"


@dataclass(frozen=True)
class Cut:
    """The numbers of layers that stay with the client.

    Attributes:
        bottom: k, layers behind the embedding; 0 keeps the embedding alone.
        top: m, layers before the head; at least 1.
    """

    bottom: int
    top: int = 1

    def layers(self, which: Which, total: int) -> range:
        """Return the numbers, from 0, of a part's layers in a model of `total` layers.

        Raises:
            ConfigError: nothing is left for the trunk, or a number is out of range.
        """
        if self.top < 1 or self.bottom < 0:
            raise ConfigError(
                f"placement.bottom = {self.bottom} and placement.top = {self.top}: bottom is 0 or more, top 1 or more."
            )
        most = total - self.top - 1
        if self.bottom > most:
            advice = f"Set placement.bottom to {most} or lower." if most >= 0 else f"Set placement.top to {total - 1}."
            raise ConfigError(
                f"placement.bottom = {self.bottom} and placement.top = {self.top} leave no layer for the server: the "
                f"model has {total}. {advice}"
            )
        ends = {Which.BOTTOM: (0, self.bottom), Which.TRUNK: (self.bottom, total - self.top)}
        return range(*ends.get(which, (total - self.top, total)))
