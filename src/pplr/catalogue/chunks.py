"""Vectors to compressed chunks and back, bit for bit.

The bytes of a chunk are put in the order of their places in a number (first bytes first, as Blosc's shuffle does): signs
and exponents, which resemble each other, then stand side by side for zlib.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from pplr.catalogue.manifest import FLOAT_BYTES, Manifest, ServedAdapters
from pplr.errors import RunError

LEVEL = 6
"""Of zlib: higher levels gain nothing on numbers."""


def raw_bytes(vectors: Tensor) -> bytes:
    """Return vectors [items, width] as float32, little-endian."""
    numbers = vectors.detach().cpu().contiguous().float().numpy()
    return numbers.astype("<f4", copy=False).tobytes()


def sizes(total: int, chunk_bytes: int) -> list[int]:
    """Return the bytes of each chunk of `total` bytes."""
    return [min(chunk_bytes, total - start) for start in range(0, total, chunk_bytes)]


def numbers(raw: bytes | bytearray) -> Tensor:
    """Return the float32 numbers in little-endian bytes.

    Raises:
        RunError: one of them is not finite.
    """
    values = np.frombuffer(raw, "<f4").astype("=f4")
    if not bool(np.isfinite(values).all()):
        raise RunError("A number that is not finite came over the wire.")
    return torch.from_numpy(values)


def named_factors(raw: bytes, adapters: ServedAdapters) -> dict[str, Tensor]:
    """Return the factors, by name, whose numbers travelled as `raw`.

    Raises:
        RunError: one of them is not finite.
    """
    values, named, start = numbers(raw), {}, 0
    for factor in adapters.factors:
        size = factor.rows * factor.columns
        named[factor.name] = values[start : start + size].view(factor.rows, factor.columns)
        start += size
    return named


def packed(raw: bytes, chunk_bytes: int) -> Iterator[bytes]:
    """Yield the compressed chunks of bytes; `chunk_bytes` is a multiple of a number's."""
    for start in range(0, len(raw), chunk_bytes):
        piece = np.frombuffer(raw[start : start + chunk_bytes], np.uint8)
        yield zlib.compress(piece.reshape(-1, FLOAT_BYTES).T.tobytes(), LEVEL)


def unpacked(chunk: bytes, size: int) -> bytes:
    """Return the bytes of one chunk, which are `size` many; never more than that is unpacked.

    Raises:
        RunError: it holds something else.
    """
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(chunk, size)
        more = reader.decompress(reader.unconsumed_tail, 1)
    except zlib.error as problem:
        raise RunError(f"A chunk of item vectors cannot be unpacked: {problem}.") from problem
    if len(found) != size or more or not reader.eof or reader.unused_data:
        raise RunError(f"A chunk of item vectors does not hold the {size:,} bytes that its manifest says.")
    return np.frombuffer(found, np.uint8).reshape(FLOAT_BYTES, -1).T.tobytes()


def assembled(manifest: Manifest, chunks: Iterable[bytes]) -> Tensor:
    """Return the vectors [items, width] of all chunks, in order.

    Raises:
        RunError: they are not the manifest's, or hold a number that is not finite.
    """
    raw = bytearray()
    for number, chunk in enumerate(chunks):
        raw += unpacked(chunk, manifest.bytes_of(number))
    if hashlib.sha256(raw).hexdigest() != manifest.vectors:
        raise RunError("The item vectors do not have the digest that their manifest says. Start their server again.")
    return numbers(raw).reshape(manifest.items, manifest.width)
