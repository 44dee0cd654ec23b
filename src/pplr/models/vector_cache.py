"""Item vectors on disk: item texts are public and a language model is frozen, so they are computed once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pplr.models.hub import cache_folder
from pplr.models.vectors import texts_digest


def vectors_key(model_digest: str, texts: Sequence[str], max_tokens: int) -> str:
    """Return the name of the vectors of `texts`, each cut to `max_tokens`, by the model with this digest of weights."""
    text = f"{model_digest} {max_tokens} {texts_digest(texts)}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_vectors(key: str, items: int) -> Tensor | None:
    """Return the cached vectors [items, hidden], or None where there are none or they are damaged."""
    path = cache_folder() / "vectors" / f"{key}.safetensors"
    try:
        vectors = load_file(path)["vectors"]
    except (OSError, KeyError, SafetensorError):
        return None
    return vectors if len(vectors) == items else None


def store_vectors(key: str, vectors: Tensor) -> None:
    """Keep vectors for the next run. A cache that cannot be written is no reason to stop: it is only slower then."""
    folder = cache_folder() / "vectors"
    partial = folder / f".{key}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": vectors.contiguous()}, partial)
        partial.replace(folder / f"{key}.safetensors")
    except (OSError, SafetensorError):
        partial.unlink(missing_ok=True)
