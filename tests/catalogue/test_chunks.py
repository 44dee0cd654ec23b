"""Vectors travel bit for bit; what is no chunk or no manifest of theirs is a sentence, and never fills the memory."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from pplr.catalogue.chunks import assembled, packed, raw_bytes, unpacked
from pplr.catalogue.folder import VectorFolder
from pplr.catalogue.manifest import agreement, parsed
from pplr.catalogue.stored import stored
from pplr.errors import RunError
from pplr.models.hub import Kind, ModelFiles
from pplr.models.lora import AdapterSettings
from pplr.models.sequence_settings import SequenceSettings

FILES = ModelFiles("tiny", Path(), Kind.ENCODER, "ab" * 32)


def folder_of(vectors: torch.Tensor, path: Path, chunk_bytes: int = 64) -> VectorFolder:
    made_from = agreement(SequenceSettings(), tiny.catalogue(len(vectors)))
    return stored(path, vectors, made_from, FILES, chunk_bytes)


@given(st.binary(max_size=400).map(lambda raw: raw[: len(raw) // 4 * 4]), st.integers(1, 40))
def test_bytes_come_back_whatever_they_are(raw: bytes, numbers: int) -> None:
    size = 4 * numbers
    chunks = list(packed(raw, size))
    sizes = [len(raw[start : start + size]) for start in range(0, len(raw), size)]
    assert b"".join(unpacked(chunk, size) for chunk, size in zip(chunks, sizes, strict=True)) == raw


def test_bytes_are_put_in_the_order_of_their_places() -> None:
    raw = np.asarray([1.5, -2.25, 1e-8], "<f4").tobytes()
    (chunk,) = packed(raw, 64)
    assert zlib.decompress(chunk) == raw[0::4] + raw[1::4] + raw[2::4] + raw[3::4]


def test_vectors_come_back_bit_for_bit(tmp_path: Path) -> None:
    vectors = torch.randn(30, 7, generator=torch.Generator().manual_seed(1))
    folder = folder_of(vectors, tmp_path / "a")
    again = VectorFolder.opened(tmp_path / "a")
    assert again is not None
    assert again.missing() == []
    assert torch.equal(again.vectors(), vectors)
    assert raw_bytes(vectors) == vectors.numpy().tobytes()
    assert len(folder.manifest.chunks) == -(-30 * 7 * 4 // 64)
    folder.chunk_path(3).unlink()
    folder.chunk_path(5).write_bytes(b"x")
    assert folder.missing() == [3, 5]


@pytest.mark.parametrize(
    "chunk", [b"", b"garbage", zlib.compress(b"12"), zlib.compress(bytes(9)), zlib.compress(bytes(8)) + b"x"]
)
def test_what_is_no_chunk_is_a_sentence(chunk: bytes) -> None:
    with pytest.raises(RunError, match=r"A chunk of item vectors"):
        unpacked(chunk, 8)


def test_numbers_that_are_not_finite_and_other_numbers_are_refused(tmp_path: Path) -> None:
    folder = folder_of(torch.full((4, 4), torch.nan), tmp_path / "a")
    with pytest.raises(RunError, match="not finite"):
        folder.vectors()
    other = folder_of(torch.ones(4, 4), tmp_path / "b")
    chunks = [other.chunk_path(0).read_bytes()]
    with pytest.raises(RunError, match="do not have the digest"):
        assembled(folder.manifest, chunks)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"version": 2}, "version"),
        ({"width": 5}, "have 2 chunks, not 1"),
        ({"chunk_bytes": 2**40}, "chunk_bytes"),
        ({"vectors": "../../etc"}, "vectors"),
        ({"more": 1}, "more"),
        ({"chunks": [{"digest": "x", "size": 3}]}, "chunks.0.digest"),
    ],
)
def test_what_is_no_manifest_is_a_sentence(tmp_path: Path, changed: dict[str, object], words: str) -> None:
    manifest = folder_of(torch.ones(4, 4), tmp_path / "a").manifest
    assert parsed(manifest.model_dump_json().encode()) == manifest
    given = json.loads(manifest.model_dump_json()) | changed
    with pytest.raises(RunError, match=f"manifest of item vectors cannot be read: .*{words}"):
        parsed(json.dumps(given).encode())
    with pytest.raises(RunError, match="cannot be read"):
        parsed(b"\xff not JSON")


def test_agreements_tell_what_differs() -> None:
    settings, catalogue = SequenceSettings(), tiny.catalogue()
    ours = agreement(settings, catalogue)
    assert ours.differences(ours) == []
    adapted = [SequenceSettings(adapters=True, adapter=AdapterSettings(ranks=ranks)) for ranks in ({}, {"client-0": 2})]
    first, second = (agreement(one, catalogue) for one in adapted)
    assert first == second, "which client has a lower rank is nothing to the server"
    assert first != ours
    fewer = agreement(settings, tiny.catalogue(29))
    assert ours.differences(fewer)[0] == "the number of items (30 here, 29 there)"
