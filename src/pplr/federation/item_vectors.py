"""Item vectors that clients of this process have asked for before.

To encode a catalogue is most of the work of a backbone that reads items with its adapters. A row that is validated at the end
of a round is what training starts from in the next one; the best row is tested, and then recommends; after averaging, all
clients have the same row. All these ask for vectors that somebody has just computed. Of several clients with the same row
the first one computes them: `seconds` of clients in one process are not those that each would need alone.
"""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from pplr.federation.intake import row_digest
from pplr.models.backbone import Backbone, Parameters

LARGEST_BYTES = 512 * 2**20
"""Bytes of item vectors that a process keeps at most."""


class ItemVectors:
    """Encodes the catalogue, but not again for adapters that a holder, a client's row, has asked about last.

    One for each backbone, so that all clients share it. The parameters must hold all adapters: where a server holds a part of
    them, equal parameters do not say that the vectors are equal.
    """

    def __init__(self, backbone: Backbone[Any], largest_bytes: int = LARGEST_BYTES) -> None:
        """Keep of each holder the vectors of its last question, as long as there is room; nobody's are thrown out for another's."""
        self._backbone = backbone
        self._largest_bytes = largest_bytes
        self._names = () if backbone.adapted is None else tuple(spec.name for spec in backbone.adapted.specs)
        self._kept: dict[str, tuple[str, Tensor]] = {}

    def encoded(self, parameters: Parameters, holder: str) -> Tensor | None:
        """Return what the backbone's `encode_catalogue` returns for these parameters; it must not be changed."""
        if not self._names:
            return self._backbone.encode_catalogue(parameters)
        digest = self._digest(parameters)
        vectors = next((kept for known, kept in self._kept.values() if known == digest), None)
        self._kept.pop(holder, None)  # before others are computed: a holder does not keep the former ones beside them
        if vectors is None:
            vectors = self._backbone.encode_catalogue(parameters)
        if vectors is None:
            self._names = ()  # this backbone encodes no items
        elif self._bytes(vectors) <= self._largest_bytes:
            self._kept[holder] = digest, vectors
        return vectors

    def _digest(self, parameters: Parameters) -> str:
        return hashlib.sha256("".join(row_digest(parameters[name]) for name in self._names).encode()).hexdigest()

    def _bytes(self, further: Tensor) -> int:
        """Return how many bytes are kept if `further` is too; what several holders share counts once."""
        different = {id(vectors): vectors.nbytes for vectors in (further, *(kept for _, kept in self._kept.values()))}
        return sum(different.values())
