"""The fixed order in which all trained parameters of one client stand in one row.

A row is theta_c, all that client c trains: every LoRA factor and every small head parameter, flattened. Shared parameters
come first and private ones last, so that what travels is one contiguous piece of the row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pplr.seeds import torch_generator

Initial = Callable[[tuple[int, ...], torch.Generator], Tensor]


def zeros(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return zeros (LoRA's B: the adapter starts as the base model)."""
    return torch.zeros(shape)


def ones(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return ones (gains of normalisations)."""
    return torch.ones(shape)


def kaiming(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return uniform draws in +-1/sqrt(in) for a weight [out, in]: LoRA's usual A, and torch's usual linear map."""
    bound = 1 / math.sqrt(shape[-1])
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def normal(deviation: float) -> Initial:
    """Return an initialiser that draws from a normal distribution with mean 0 and the given standard deviation."""

    def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator) * deviation

    return draw


@dataclass(frozen=True)
class ParameterSpec:
    """One named parameter of a client.

    Attributes:
        name: unique; for adapters the module's path in the model followed by `.lora_A` or `.lora_B`.
        shape: its shape within one client.
        initial: how its first value is drawn; the draw is the same for all clients.
        private: True keeps it with its client: it is never sent and never mixed.
        decay: whether weight decay applies.
        frozen: True keeps its first value, which is the same for all clients; it is then private too.
        table: True where its first axis is that of the catalogue's items: a client may train those of its own items only.
    """

    name: str
    shape: tuple[int, ...]
    initial: Initial
    private: bool = False
    decay: bool = True
    frozen: bool = False
    table: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def kept(self) -> ParameterSpec:
        """Return the same parameter, kept with its client."""
        return replace(self, private=True)

    def fixed(self) -> ParameterSpec:
        """Return the same parameter, never trained and therefore never sent."""
        return replace(self, private=True, decay=False, frozen=True)


class Layout:
    """Where each parameter stands in a row.

    Attributes:
        specs: the parameters in row order, shared ones first.
        size: P, the length of a row.
        shared: S, the length of its shared part, `row[:shared]`.
    """

    def __init__(self, specs: Sequence[ParameterSpec]) -> None:
        self.specs = tuple(sorted(specs, key=lambda spec: spec.private))  # stable: the order within each half is kept
        names = [spec.name for spec in self.specs]
        if len(set(names)) != len(names):
            raise ValueError(f"Parameter names must be unique, got {sorted(n for n in names if names.count(n) > 1)}.")
        self.size = sum(spec.size for spec in self.specs)
        self.shared = sum(spec.size for spec in self.specs if not spec.private)

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Return named views of `rows` [..., P] (or [..., S]: then of the shared part only); no memory is copied.

        A row [P] gives tensors of the parameters' own shapes; a bank [clients, P] gives [clients, *shape].
        """
        specs = self.specs if rows.shape[-1] == self.size else self.specs[: self._shared_count]
        named, start = {}, 0
        for spec in specs:
            named[spec.name] = rows[..., start : start + spec.size].view(*rows.shape[:-1], *spec.shape)
            start += spec.size
        return named

    def initial_row(self, seed: int) -> Tensor:
        """Return the row [P] that every client starts from: each parameter drawn from its own generator."""
        row = torch.empty(self.size)
        for spec, view in zip(self.specs, self.views(row).values(), strict=True):
            view.copy_(spec.initial(spec.shape, torch_generator(seed, "initial", spec.name)))
        return row

    @cached_property
    def decay_mask(self) -> Tensor:
        """[P] one where weight decay applies, zero elsewhere."""
        return torch.cat([torch.full((spec.size,), float(spec.decay)) for spec in self.specs])

    @property
    def _shared_count(self) -> int:
        return sum(not spec.private for spec in self.specs)

    @cached_property
    def digest(self) -> str:
        """A hash of names, shapes and who keeps what: two rows can be mixed only if their layouts agree."""
        text = "\n".join(f"{s.name} {s.shape} {s.private}{' frozen' if s.frozen else ''}" for s in self.specs)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class TrainableRow:
    """A working copy of one row whose named parts collect gradients.

    All parts share one storage with `values` [P] and their gradients share one with `gradient` [P], so that clipping
    and the optimiser see two flat vectors, however many adapters there are. Frozen parts have no gradient.
    """

    def __init__(self, layout: Layout, row: Tensor) -> None:
        self.values = row.detach().clone()
        self.gradient = torch.zeros_like(self.values)
        self.values.grad = self.gradient
        self.named: dict[str, Tensor] = {}
        gradients = layout.views(self.gradient)
        for spec, view in zip(layout.specs, layout.views(self.values).values(), strict=True):
            leaf = view.detach()
            if not spec.frozen:
                leaf.requires_grad_().grad = gradients[spec.name]
            self.named[spec.name] = leaf

    def frozen(self) -> Mapping[str, Tensor]:
        """Return the named parts without gradients."""
        return {name: leaf.detach() for name, leaf in self.named.items()}
