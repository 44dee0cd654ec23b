"""What a server says of its item vectors: what they were made from, and the digests by which they are fetched."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pplr.data.dataset import Catalogue
from pplr.errors import RunError
from pplr.models.layout import ParameterSpec
from pplr.models.lora import AdapterSettings, factor_spec
from pplr.models.sequence_settings import SequenceSettings
from pplr.models.text import item_texts

FLOAT_BYTES = 4
LEAST_CHUNK, MOST_CHUNK = 64, 4 * 2**20
"""Bytes of a chunk before it is compressed: a client holds a few at once."""
MANIFEST_BYTES = 16 * 2**20
"""Of a manifest, at most: enough for some 200,000 chunks."""

SERVICE = "pplr.Catalogue"
MANIFEST_METHOD, CHUNK_METHOD = f"/{SERVICE}/Manifest", f"/{SERVICE}/Chunk"
"""The calls that read: nothing in and a manifest out; a request for a chunk in, and its bytes out."""
ENCODE_METHOD, LEARN_METHOD = f"/{SERVICE}/Encode", f"/{SERVICE}/Learn"
"""The calls that compute, where adapters are trained. In: a request in JSON, then chunks. Out: a manifest, or chunks."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Agreement(_Part):
    """What both ends must have in common; a client computes it without any model.

    Attributes:
        items: how many there are.
        ids: SHA-256 of their ids, in order.
        texts: SHA-256 of their texts, in order.
        item_tokens: tokens of a text that are read.
        pooling: how states become a vector.
        adapters: the settings of adapters that are trained, in JSON; "none" where there are none.
    """

    items: int = Field(ge=1, le=2**32)
    ids: Digest
    texts: Digest
    item_tokens: int = Field(ge=1)
    pooling: Literal["mean"] = "mean"
    adapters: str = Field("none", max_length=10_000)

    def differences(self, other: Agreement) -> list[str]:
        """Return words for each thing in which a server's agreement is another."""
        theirs = other.model_dump()
        return [_WORDS[name].format(value, theirs[name]) for name, value in self if theirs[name] != value]


_WORDS = {
    "items": "the number of items ({0:,} here, {1:,} there)",
    "ids": "the items' ids or their order (digest {0:.12} here, {1:.12} there)",
    "texts": "the items' texts (digest {0:.12} here, {1:.12} there)",
    "item_tokens": "backbone.item_tokens ({0} here, {1} there)",
    "pooling": "the pooling ({0} here, {1} there)",
    "adapters": "backbone.adapters, adapter or live_items ({0} here, {1} there)",
}


class Chunk(_Part):
    """A compressed piece of the vectors.

    Attributes:
        digest: SHA-256 of its bytes as they travel.
        size: their number.
    """

    digest: Digest
    size: int = Field(ge=1, le=2 * MOST_CHUNK)


class Factor(_Part):
    """One factor of an adapter: the module's path with `.lora_A` or `.lora_B`, and its shape."""

    name: str = Field(max_length=1_000, pattern=r"\.lora_[AB]$")
    rows: int = Field(ge=1, le=2**20)
    columns: int = Field(ge=1, le=2**20)

    @property
    def spec(self) -> ParameterSpec:
        """The parameter that a client trains."""
        return factor_spec(self.name, (self.rows, self.columns))


class ServedAdapters(_Part):
    """The adapters in the server's language model.

    Attributes:
        settings: theirs, with the maps that are adapted.
        factors: theirs, in the order in which their numbers travel.
    """

    settings: AdapterSettings
    factors: tuple[Factor, ...] = Field(min_length=1, max_length=100_000)

    @property
    def bytes(self) -> int:
        """Of all factors."""
        return sum(factor.rows * factor.columns for factor in self.factors) * FLOAT_BYTES


class Manifest(_Part):
    """Item vectors, float32, row after row in the order of the catalogue.

    Attributes:
        agreement: what they were made from, but the model.
        model: its name at the server.
        weights: digest of its weights.
        width: numbers of a row.
        chunk_bytes: bytes of each chunk but the last before they were compressed.
        vectors: SHA-256 of all numbers, little-endian: the name of these vectors.
        chunks: the pieces, in order.
        adapters: those that a client may train; None where there are none.
    """

    version: Literal[1] = 1
    agreement: Agreement
    model: str = Field(max_length=1_000)
    weights: Digest
    width: int = Field(ge=1, le=2**20)
    chunk_bytes: int = Field(ge=LEAST_CHUNK, le=MOST_CHUNK, multiple_of=FLOAT_BYTES)
    vectors: Digest
    chunks: tuple[Chunk, ...]
    adapters: ServedAdapters | None = None

    @model_validator(mode="after")
    def _chunks_make_up_the_vectors(self) -> Self:
        wanted = math.ceil(self.bytes / self.chunk_bytes)
        if len(self.chunks) != wanted:
            raise ValueError(
                f"{self.items} vectors of {self.width} numbers have {wanted} chunks, not {len(self.chunks)}"
            )
        return self

    @property
    def items(self) -> int:
        """Rows."""
        return self.agreement.items

    @property
    def bytes(self) -> int:
        """Of all vectors, before they were compressed."""
        return self.items * self.width * FLOAT_BYTES

    def bytes_of(self, number: int) -> int:
        """Return the bytes of a chunk before they were compressed."""
        return min(self.chunk_bytes, self.bytes - number * self.chunk_bytes)


class EncodeRequest(_Part):
    """Which vectors are to be made anew; the adapters follow in chunks."""

    vectors: Digest


class LearnRequest(_Part):
    """How adapters are to be trained (`models.item_reader.Lesson`); they follow in chunks, and then the gradient."""

    vectors: Digest
    frozen: tuple[Annotated[str, Field(max_length=1_000)], ...] = Field(max_length=100_000)
    rate: float = Field(ge=0, le=1, allow_inf_nan=False)
    warmup: int = Field(ge=0, le=10**9)
    weight_decay: float = Field(ge=0, le=1, allow_inf_nan=False)
    clip_norm: float = Field(gt=0, allow_inf_nan=False)
    seed: int = Field(ge=0, lt=2**63)


class ChunkRequest(_Part):
    """Which chunk of which vectors is asked for."""

    vectors: Digest
    number: int = Field(ge=0)


def parsed(data: bytes) -> Manifest:
    """Return the manifest in JSON.

    Raises:
        RunError: it is none.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise RunError(f"A manifest of item vectors cannot be read: {place}: {first['msg']}.") from problem


def agreement(settings: SequenceSettings, catalogue: Catalogue) -> Agreement:
    """Return what server and clients of a configuration must have in common.

    Raises:
        ConfigError: the settings name an attribute that the items do not have.
    """
    texts = item_texts(catalogue, settings.attributes)
    adapters = {**settings.adapter.model_dump(exclude={"ranks"}), "live_items": settings.live_items}
    return Agreement(
        items=len(catalogue),
        ids=_digest(catalogue.ids),
        texts=_digest(texts),
        item_tokens=settings.item_tokens,
        adapters=json.dumps(adapters, sort_keys=True) if settings.adapters else "none",
    )


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _digest(texts: Iterable[str]) -> str:
    """Return the SHA-256 over texts, each preceded by its length so that no two lists look alike."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
