"""Low-rank adapters inside a frozen transformers model, with the factors kept outside of it.

The model's linear maps are wrapped once. Which client's factors they use is bound for the duration of a `with` block:
one row for all samples, or one row per sample. The base model is never copied and never changed.

    y = W x + (scale / rank) B A x        (Hu et al., arXiv:2106.09685, section 4.1)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from pplr.errors import ConfigError, ModelError, nearest
from pplr.models.layout import ParameterSpec, kaiming, zeros
from pplr.models.parts import Part
from pplr.seeds import torch_generator

TARGETS = {
    "mpnet": ("q", "v"),
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "xlm-roberta": ("query", "value"),
    "camembert": ("query", "value"),
    "longformer": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
}
"""The maps that are adapted where the configuration names none: queries and values, by model type."""

SEQUENCE_FIRST = {"longformer": ("query", "key", "value", "query_global", "key_global", "value_global")}
"""The maps that transformers' code applies to [length, batch, in] rather than [batch, length, in], by model type."""


class AdapterSettings(BaseModel):
    """Low-rank adapters in the language model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(8, ge=1, le=1024, description="Rank r of the update B A.")
    scale: float = Field(
        16.0, gt=0, allow_inf_nan=False, description="Numerator of the factor scale / rank (PEFT's lora_alpha)."
    )
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout on the adapter's input while training.")
    targets: tuple[str, ...] = Field(
        (), description="Names of the linear maps to adapt; empty: queries and values of every layer."
    )
    ranks: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Lower ranks of single clients, such as { client-0 = 2 }; the others have the rank above."
    )

    @model_validator(mode="after")
    def _ranks_fit(self) -> Self:
        for name, rank in self.ranks.items():
            if rank > self.rank:
                raise ValueError(
                    f"adapter.ranks gives client {name!r} the rank {rank}, and rows are made for adapter.rank = "
                    f"{self.rank}. Raise adapter.rank, which is the highest of all"
                )
        return self


FACTOR_A, FACTOR_B = ".lora_A", ".lora_B"


def factor_spec(name: str, shape: tuple[int, int]) -> ParameterSpec:
    """Return the parameter of one factor; its name says which one it is.

    Raises:
        ValueError: it is neither A nor B.
    """
    if not name.endswith((FACTOR_A, FACTOR_B)):
        raise ValueError(f"{name!r} is no factor of an adapter.")
    return ParameterSpec(name, shape, kaiming if name.endswith(FACTOR_A) else zeros)


class Draws:
    """Where one map's dropout is drawn from: a generator per piece of the batch, each of a size of its own.

    A piece draws as much as it would draw alone, whatever stands beside it in the batch.
    """

    def __init__(self, generators: Sequence[torch.Generator], sizes: list[tuple[int, int]]) -> None:
        """`sizes` are (rows, length) of the pieces, in the order of the rows; empty where there is one piece."""
        self._generators = generators
        self._sizes = sizes

    def kept(self, z: Tensor, share: float) -> Tensor:
        """Return ones for about `share` of the numbers in z [batch, length, in], and zeros for the others."""
        if len(self._generators) == 1:
            return torch.empty_like(z).bernoulli_(share, generator=self._generators[0])
        result, row = torch.zeros_like(z), 0
        for generator, (rows, length) in zip(self._generators, self._sizes, strict=True):
            piece = z.new_empty(rows, length, z.shape[-1]).bernoulli_(share, generator=generator)
            result[row : row + rows, :length] = piece
            row += rows
        return result


class LoraLinear(nn.Module):
    """A frozen linear map plus the low-rank update that is bound at the moment.

    Attributes:
        factor_a: A of the update, or None.
        factor_b: B of the update, or None.
        draws: where dropout is drawn from; None outside of training.
    """

    def __init__(self, base: nn.Linear, scaling: float, dropout: float, *, sequence_first: bool = False) -> None:
        super().__init__()
        self.base = base
        self.scaling = scaling
        self.dropout = dropout
        self.sequence_first = sequence_first
        self.factor_a: Tensor | None = None
        self.factor_b: Tensor | None = None
        self.draws: Draws | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return W x, plus the update where one is bound; x is [batch, ..., in], or [length, batch, in].

        A bound A of [rank, in] serves the whole batch; one of [batch, rank, in] gives each sample its own row.
        """
        y: Tensor = self.base(x)
        a, b = self.factor_a, self.factor_b
        if a is None or b is None:
            return y
        z = x.to(a.dtype)
        if self.draws is not None and self.dropout > 0:
            kept = self.draws.kept(z, 1 - self.dropout)
            z = z * kept.div_(1 - self.dropout)
        if a.dim() == 2:
            return y + F.linear(F.linear(z, a) * self.scaling, b).to(y.dtype)
        if self.sequence_first:
            return y + self._update_per_sample(z.transpose(0, 1), a, b).transpose(0, 1).to(y.dtype)
        return y + self._update_per_sample(z, a, b).to(y.dtype)

    def _update_per_sample(self, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        flat = z.reshape(z.shape[0], -1, z.shape[-1])
        update = (flat @ a.transpose(1, 2) * self.scaling) @ b.transpose(1, 2)
        return update.reshape(*z.shape[:-1], -1)


class Elsewhere(Protocol):
    """The adapters of layers that another party holds."""

    def bound(self) -> AbstractContextManager[None]:
        """Have them used inside the block."""

    def training(self, seed: int) -> AbstractContextManager[None]:
        """Have their dropout applied inside the block."""


class Adapted(Protocol):
    """What is known of a model's adapters also where the model is not.

    Attributes:
        settings: rank, scale, dropout; `settings.targets` is what was really adapted.
        specs: two parameters per map, as `Lora.specs`.
    """

    @property
    def settings(self) -> AdapterSettings: ...  # noqa: D102

    @property
    def specs(self) -> tuple[ParameterSpec, ...]: ...  # noqa: D102


class Lora:
    """The adapted maps of one model.

    Attributes:
        elsewhere: the adapters of those layers that are not in this process, or None.
        settings: rank, scale, dropout; `settings.targets` is what was really adapted.
        specs: two parameters per map, `PATH.lora_A` [rank, in] and `PATH.lora_B` [out, rank].
    """

    def __init__(self, model: nn.Module | Sequence[Part], settings: AdapterSettings) -> None:
        """Wrap the maps of `model` that the settings name: of a whole model, or of parts of a cut one.

        Names are those in the whole model, so that the adapters of parts are pieces of the whole model's adapters.

        Raises:
            ModelError: the model has no such map.
            ConfigError: the rank is higher than a map's full rank.
        """
        self.elsewhere: Elsewhere | None = None
        parts = None if isinstance(model, nn.Module) else model
        model_type = parts[0].config.model_type if parts else getattr(getattr(model, "config", None), "model_type", "")
        targets = settings.targets or TARGETS.get(model_type, ("q_proj", "v_proj"))
        self.settings = settings.model_copy(update={"targets": tuple(targets)})
        places = _linear_maps(model) if isinstance(model, nn.Module) else [p for part in model for p in _maps_of(part)]
        self._modules = _wrap(places, self.settings, SEQUENCE_FIRST.get(model_type, ()))
        self.specs: tuple[ParameterSpec, ...] = tuple(
            spec
            for path, module in self._modules.items()
            for spec in (
                factor_spec(f"{path}{FACTOR_A}", (settings.rank, module.base.in_features)),
                factor_spec(f"{path}{FACTOR_B}", (module.base.out_features, settings.rank)),
            )
        )

    def together_with(self, elsewhere: Elsewhere) -> Lora:
        """Return the same adapters, which from now on are used together with those `elsewhere`."""
        other = copy.copy(self)
        other.elsewhere = elsewhere
        return other

    @contextmanager
    def bound(self, parameters: Mapping[str, Tensor], clients: Tensor | None = None) -> Iterator[None]:
        """Use the factors in `parameters` inside the block.

        With `clients` [batch] given, `parameters` are those of a bank, [clients, *shape], and sample i uses row
        `clients[i]`.
        """
        try:
            for path, module in self._modules.items():
                a, b = parameters[f"{path}.lora_A"], parameters[f"{path}.lora_B"]
                module.factor_a = a if clients is None else a[clients]
                module.factor_b = b if clients is None else b[clients]
            with self.elsewhere.bound() if self.elsewhere else nullcontext():
                yield
        finally:
            for module in self._modules.values():
                module.factor_a = module.factor_b = None

    @contextmanager
    def training(self, seed: int) -> Iterator[None]:
        """Apply the adapters' dropout inside the block; the base model stays in evaluation mode throughout.

        Each map draws from a generator of its own, made of `seed` and the map's name: which maps are in this process,
        and the order in which they run, change no draw.
        """
        with self.training_each([seed]), self.elsewhere.training(seed) if self.elsewhere else nullcontext():
            yield

    @contextmanager
    def training_each(self, seeds: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
        """Apply dropout inside the block to a batch of several pieces, each as `training` with its own seed does it.

        Gives the list in which the pieces' sizes (rows, length) stand; whoever runs the model changes it as needed.
        """
        sizes: list[tuple[int, int]] = []
        try:
            for path, module in self._modules.items():
                device = module.base.weight.device
                module.draws = Draws([torch_generator(seed, path, device=device) for seed in seeds], sizes)
            yield sizes
        finally:
            for module in self._modules.values():
                module.draws = None


class _Place(NamedTuple):
    """Where a linear map is: its path in the whole model, and the module that has it under `name`."""

    path: str
    owner: nn.Module
    name: str
    linear: nn.Linear


def _linear_maps(model: nn.Module) -> list[_Place]:
    found = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            parent, _, name = path.rpartition(".")
            found.append(_Place(path, model.get_submodule(parent), name, module))
    return found


def _maps_of(part: Part) -> list[_Place]:
    return [place._replace(path=part.path_in_whole(place.path)) for place in _linear_maps(part.module)]


def _wrap(places: list[_Place], settings: AdapterSettings, sequence_first: tuple[str, ...]) -> dict[str, LoraLinear]:
    chosen = [place for place in places if any(_is_named(place.path, target) for target in settings.targets)]
    unmatched = [t for t in settings.targets if not any(_is_named(place.path, t) for place in chosen)]
    if unmatched:
        names = sorted({place.name for place in places})
        raise ModelError(
            f"The model has no linear map named {unmatched[0]!r} to adapt.{nearest(unmatched[0], names)} "
            f"Choose adapter.targets from {names}."
        )
    _check_rank(settings.rank, {place.path: place.linear for place in chosen})
    wrapped = {}
    for path, owner, name, linear in chosen:
        scaling = settings.scale / settings.rank
        module = LoraLinear(linear, scaling, settings.dropout, sequence_first=name in sequence_first)
        setattr(owner, name, module)
        wrapped[path] = module
    return wrapped


def _check_rank(rank: int, maps: Mapping[str, nn.Linear]) -> None:
    path, smallest = min(maps.items(), key=lambda entry: min(entry[1].in_features, entry[1].out_features))
    most = min(smallest.in_features, smallest.out_features)
    if rank > most:
        raise ConfigError(
            f"adapter.rank = {rank} is more than the map {path} of the model can have: it goes from "
            f"{smallest.in_features} to {smallest.out_features} numbers, so {most} is its full rank. "
            f"Set it to {most} or lower."
        )


def _is_named(path: str, target: str) -> bool:
    return path == target or path.endswith("." + target)
