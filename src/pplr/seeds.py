"""Named random generators.

Every use of randomness has a name and a place (client, round, ...). A generator is derived from the run's seed and
that address alone, so the order in which things run, a resume, or another engine changes no draw.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *address: str | int) -> int:
    """Return a 63-bit seed for `address`, for example `derive(1, "train", "client-3", 7)`."""
    text = "\x1f".join([str(seed), *(str(part) for part in address)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, *address: str | int) -> np.random.Generator:
    """Return NumPy's default generator for `address`."""
    return np.random.default_rng(derive(seed, *address))


def torch_generator(seed: int, *address: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on `device` for `address`."""
    return torch.Generator(device).manual_seed(derive(seed, *address))


def drawn_seed() -> int:
    """Return a seed drawn from torch's own generator, for what draws from generators of its own."""
    return int(torch.randint(2**62, ()))
