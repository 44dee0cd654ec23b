"""Item vectors that clients of this process have asked for before.

To encode a catalogue is most of the work of a backbone that reads items with its adapters. A row that is validated at the end
of a round is what training starts from in the next one; the best row is tested, and then recommends; after averaging, all
clients have the same row. All these ask for vectors that somebody has just computed.
"""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from pplr.federation.intake import row_digest
from pplr.models.backbone import Backbone, Parameters

LIMIT = 512 * 2**20
"""Bytes of item vectors that are kept at most."""


class ItemVectors:
    """Encodes the catalogue, but not again where the adapters are those of somebody's last question.

    The rows must hold all adapters: where a server holds a part of them, equal rows do not say that the vectors are equal.
    """

    def __init__(self, backbone: Backbone[Any], limit: int = LIMIT) -> None:
        """Keep at most `limit` bytes of vectors of this backbone: of each holder those of its last question."""
        self._backbone = backbone
        self._limit = limit
        self._names = () if backbone.adapted is None else tuple(spec.name for spec in backbone.adapted.specs)
        self._kept: dict[str, tuple[str, Tensor]] = {}

    def of(self, holder: str, parameters: Parameters) -> Tensor | None:
        """Return what the backbone's `encode_catalogue` returns for these parameters; it must not be changed."""
        if not self._names:
            return self._backbone.encode_catalogue(parameters)
        digest = self._digest(parameters)
        found = next((vectors for known, vectors in self._kept.values() if known == digest), None)
        self._kept.pop(holder, None)  # before others are computed: a single client never has two of them
        if found is None:
            found = self._backbone.encode_catalogue(parameters)
        if found is not None and self._bytes(found) <= self._limit:
            self._kept[holder] = digest, found
        return found

    def _digest(self, parameters: Parameters) -> str:
        return hashlib.sha256("".join(row_digest(parameters[name]) for name in self._names).encode()).hexdigest()

    def _bytes(self, further: Tensor) -> int:
        """Return how many bytes are kept if `further` is too; what several holders share counts once."""
        different = {id(vectors): vectors.nbytes for vectors in (further, *(kept for _, kept in self._kept.values()))}
        return sum(different.values())
