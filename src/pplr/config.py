"""The configuration of a run: TOML in, one typed and frozen object out, all mistakes at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pplr.config_history import as_meant, of_run
from pplr.config_overrides import apply_overrides
from pplr.config_problems import prepared, sentences
from pplr.config_schema import written
from pplr.data.clients import ClientSettings, KMeansClients
from pplr.data.settings import DataSettings, absolute, resolve_paths
from pplr.errors import ConfigError, command
from pplr.federation.settings import FederationSettings
from pplr.federation.strategies import STRATEGIES, Pplr, Strategy
from pplr.fusion.settings import FusionSettings
from pplr.models.backbone import Contrast
from pplr.models.hub.registry import find
from pplr.models.parts.settings import PlacementSettings, WholePlacement
from pplr.models.settings import BackboneSettings, GenerativeSettings, SequenceSettings, Where
from pplr.training.settings import TrainingSettings

if TYPE_CHECKING:
    StrategySettings = Strategy
else:  # whatever is registered can be configured
    StrategySettings = Annotated[Union[tuple(STRATEGIES.values())], Field(discriminator="kind")]  # noqa: UP007

_NAME_LENGTH = 60
"""Characters of a run's name; four bytes each, they fit into the 255 bytes that file systems give a folder's name."""

_LAST_GPU = 127
"""The largest index that torch takes."""


class EvaluationSettings(BaseModel):
    """What is measured, on whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ks: tuple[Annotated[int, Field(ge=1, le=100_000)], ...] = Field(
        (5, 10, 20, 50),
        min_length=1,
        description="Cut-offs K of Recall@K and NDCG@K on test data.",
    )
    max_users: int | None = Field(
        None, ge=1, description="Held-out users per client and part, sampled once by the seed; absent: all of them."
    )
    validation_users: int | None = Field(
        None,
        ge=1,
        description="Fewer of them for validation, where measuring after every round takes long; absent: as many as for the test.",
    )
    mask_history: bool = Field(
        True, description="Items of the history cannot be recommended. Set false where people choose the same again."
    )
    select_by: Literal["auto", "ndcg@10", "loss"] = Field(
        "auto", description="Validation measure that keeps rows and stops runs; auto: what suits the backbone."
    )
    baselines: bool = Field(True, description="Measure popularity, transitions, and the others beside the model.")
    references: tuple[Literal["federated_mf"], ...] = Field(
        (),
        description="Models of others that are trained and measured beside it. federated_mf: matrix factorisation whose "
        "item factors are averaged over the clients.",
    )
    examples: int = Field(3, ge=0, le=100, description="Recommendations per client that are shown in the report.")


class Config(BaseModel):
    """Everything that decides a run's result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        "run", description="Name of the run, and of its folder below runs/; absent: the configuration file's name."
    )
    seed: int = Field(1, ge=0, description="All randomness comes from it.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; auto takes a GPU if any.")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; absent: torch's choice.")
    data: DataSettings = Field(default_factory=lambda: DataSettings(demo="movietweetings"), description="The data.")
    clients: ClientSettings = Field(default=KMeansClients(), description="Who owns which users.")
    backbone: BackboneSettings = Field(default=SequenceSettings(), description="The recommender.")
    placement: PlacementSettings = Field(
        default=WholePlacement(), description="Who holds which layers of the language model."
    )
    training: TrainingSettings = Field(default=TrainingSettings(), description="Local training of one client.")
    federation: FederationSettings = Field(default=FederationSettings(), description="Rounds.")
    strategy: StrategySettings = Field(default=Pplr(), description="How the clients' rows are combined.")
    fusion: FusionSettings = Field(
        default=FusionSettings(), description="What each client counts on its own data beside its model."
    )
    evaluation: EvaluationSettings = Field(default=EvaluationSettings(), description="What is measured.")

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", name) or len(name) > _NAME_LENGTH:
            raise ValueError(
                f"a run's name names a folder: up to {_NAME_LENGTH} letters, digits, '_', '-' and '.', the first a letter or digit"
            )
        return name

    @model_validator(mode="after")
    def _has_layers_to_split(self) -> Self:
        if self.placement.kind == "split" and isinstance(self.backbone, SequenceSettings):
            raise ValueError(
                "placement.kind = 'split' cuts the language model of the backbones 'generative' and 'encoder', and "
                "backbone.kind is 'sequence'. Set placement.kind to 'whole'"
            )
        return self

    @model_validator(mode="after")
    def _splits_what_is_in_full_precision(self) -> Self:
        if self.placement.kind == "split" and self.backbone.precision != "float32":
            raise ValueError(
                "placement.kind = 'split' has the numbers of the whole model, in float32, and backbone.precision is "
                f"{self.backbone.precision!r}. Leave the precision out, or set placement.kind to 'whole'"
            )
        return self

    @model_validator(mode="after")
    def _has_no_lower_ranks_at_a_server(self) -> Self:
        if self.backbone.adapter.ranks and self.placement.kind == "split" and self.placement.server is not None:
            raise ValueError(
                "backbone.adapter.ranks cuts whole rows, and a part of each is at the trunk's server. Leave "
                "placement.server or the ranks out"
            )
        return self

    @model_validator(mode="after")
    def _has_no_lower_ranks_of_one_row_for_all(self) -> Self:
        if self.backbone.adapter.ranks and self.strategy.pools_data:
            raise ValueError(
                "strategy.kind names one that trains a single row on all data, and backbone.adapter.ranks are of single "
                "clients. Leave the ranks out, or set backbone.adapter.rank for all"
            )
        return self

    @model_validator(mode="after")
    def _has_rounds_for_a_server(self) -> Self:
        if self.federation.rounds == 0 and self.placement.kind == "split" and self.placement.server is not None:
            raise ValueError("federation.rounds = 0 leaves the trunk's server without rows. Leave placement.server out")
        return self

    @model_validator(mode="after")
    def _reads_vectors_only(self) -> Self:
        if self.placement.kind != "catalogue":
            return self
        if not isinstance(self.backbone, SequenceSettings):
            raise ValueError(  # noqa: TRY004 (pydantic turns only this one into a sentence)
                "placement.kind = 'catalogue' serves the item vectors of the backbone 'sequence', and backbone.kind is "
                f"{self.backbone.kind!r}, which reads texts itself. Set placement.kind to 'whole' or 'split'"
            )
        if self.backbone.adapters and self.backbone.adapter_updates == "step":
            raise ValueError(
                "backbone.adapter_updates = 'step' reads items with the language model at every step, which with "
                "placement.kind = 'catalogue' is at its server alone. Set backbone.adapter_updates to 'round', "
                "backbone.adapters to false, or placement.kind to 'whole'"
            )
        return self

    @model_validator(mode="after")
    def _has_a_row_per_client(self) -> Self:
        if self.placement.kind == "split" and self.placement.server is not None and self.strategy.pools_data:
            raise ValueError(
                "This strategy pools all data in one place, which has no rows at the trunk's "
                "server. Leave placement.server out"
            )
        if self.placement.kind == "split" and self.placement.server is not None and self.strategy.whole_rows:
            others = [name for name, cls in STRATEGIES.items() if not (cls.pools_data or cls().whole_rows)]
            raise ValueError(
                "This strategy, as it is set, needs whole rows in one place, and a part of each is at the trunk's server. "
                f"Leave placement.server out, or set strategy.kind to one of {', '.join(others)} with its defaults"
            )
        return self

    @property
    def item_vectors(self) -> Where:
        """Return where trained vectors of items are: shared, private, or none."""
        return self.backbone.residual if isinstance(self.backbone, SequenceSettings) else "none"

    @model_validator(mode="after")
    def _has_vectors_of_items_where_their_rate_is_set(self) -> Self:
        if self.training.item_rate != 1 and self.item_vectors == "none":
            raise ValueError(
                "training.item_rate is the rate of trained vectors of items, which only the backbone 'sequence' has, unless "
                "backbone.residual is 'none'. Leave it out"
            )
        return self

    @model_validator(mode="after")
    def _refuses_to_keep_moments_of_what_is_made_anew(self) -> Self:
        if self.training.moments == "kept" and "moments" in self.training.model_fields_set and (why := self._made_anew):
            raise ValueError(
                f"training.moments = 'kept' goes on with averages of single numbers, and {why} makes adapters anew from their "
                "products. Set training.moments to 'fresh', or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _tells_known_items_where_it_says_so(self) -> Self:
        if self._contrast == "known" and "contrast" in self.backbone.model_fields_set and self._hears_of_no_items:
            raise ValueError(
                "backbone.contrast = 'known' needs a table of items that others change too. Leave it out, set it to 'catalogue' "
                "or 'own', set backbone.bias or backbone.residual to 'shared', or take a strategy other than 'local'"
            )
        return self

    @model_validator(mode="after")
    def _says_what_will_be_done(self) -> Self:
        return self._resolved()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values, which pydantic does not check; values that follow from others do so in it too."""
        return super().model_copy(update=update, deep=deep)._resolved()

    def _resolved(self) -> Self:
        if self.training.moments == "kept" and self._made_anew:
            self._becomes("training", moments="fresh")
        if self._contrast == "known" and self._hears_of_no_items:
            self._becomes("backbone", contrast="catalogue")
        return self

    def _becomes(self, section: Literal["training", "backbone"], **values: str) -> None:
        # A configuration is frozen, but while it is made: a run's folder has to say what was done.
        object.__setattr__(self, section, getattr(self, section).model_copy(update=values))

    @property
    def _contrast(self) -> Contrast | None:
        return None if isinstance(self.backbone, GenerativeSettings) else self.backbone.contrast

    @property
    def _hears_of_no_items(self) -> bool:
        """Return whether no table of items reaches a client from others, which would tell what these have."""
        tables = {getattr(self.backbone, name, "none") for name in ("bias", "residual")}
        return "shared" not in tables or not (self.strategy.exchanges or self.strategy.pools_data)

    @property
    def _made_anew(self) -> str:
        """Return the setting by which adapters are made anew in every round, or ""."""
        if self.strategy.refactors:
            return "the strategy"
        return "backbone.adapter.ranks" if self.backbone.adapter.ranks else ""

    @model_validator(mode="after")
    def _bounds_what_one_client_can_do(self) -> Self:
        if not (self.item_vectors == "shared" and isinstance(self.strategy, Pplr)):
            return self
        if self.strategy.clip is not None and self.strategy.items != "mean":
            raise ValueError(
                f"strategy.clip bounds how far one client can move another, and strategy.items = {self.strategy.items!r} lets "
                "one client decide on an item that few have. Set strategy.items to 'mean', "
                "backbone.residual to 'private', or leave clip out"
            )
        return self

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        number = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,3}))?", device)
        if number is None or int(number[1] or 0) > _LAST_GPU:
            raise ValueError(f'write "auto", "cpu", "cuda", or "cuda:N" with N from 0 to {_LAST_GPU}')
        return device


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration in a TOML file, with `overrides` such as "training.epochs=3" applied.

    Relative paths in it start at the file's folder. A file that gives no name is the configuration of a run of its own
    name: shop.toml of `shop`. In one that a run has written into its folder, keys that were not there yet stand for what was
    done then, whatever the default is now.

    Raises:
        ConfigError: one sentence for each thing that is wrong.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise ConfigError(
            f"The configuration {path} does not exist. Write one with `{command('pplr', 'init', path)}`."
        ) from problem
    except IsADirectoryError as problem:
        raise ConfigError(f"{path} is a folder. Name the configuration file in it.") from problem
    except UnicodeDecodeError as problem:
        raise ConfigError(
            f"{path} is no TOML: byte {problem.start} is not UTF-8 text. Name a configuration, and save it as UTF-8."
        ) from problem
    except OSError as problem:
        raise ConfigError(f"The configuration {path} cannot be read: {problem}.") from problem
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"The configuration {path} is not valid TOML: {problem}.") from problem
    data = as_meant(data) if of_run(path) else data
    problems = apply_overrides(data, overrides, Config)
    try:
        config = parse_config({"name": _name_of(path), **data}, path.parent.resolve())
    except ConfigError as problem:
        raise ConfigError([*problems, *problem.problems]) from problem
    if problems:
        raise ConfigError(problems)
    return config


def parse_config(data: Mapping[str, Any], base: Path) -> Config:
    """Return the configuration in a nested mapping; relative paths start at `base`.

    Raises:
        ConfigError: one sentence for each thing that is wrong.
    """
    filled, problems = prepared(data, Config)
    try:
        config = Config.model_validate(filled)
    except ValidationError as problem:
        raise ConfigError([*problems, *sentences(problem, Config)]) from problem
    if problems:
        raise ConfigError(problems)
    return config.model_copy(
        update={
            "data": resolve_paths(config.data, base),
            "backbone": _with_absolute_paths(config.backbone, base),
            "placement": _with_absolute_certificates(config.placement, base),
        }
    )


def config_toml(config: Config) -> str:
    """Return the resolved configuration as TOML: every value, also those that were defaults."""
    return tomlkit.dumps(_without_none(config.model_dump(mode="json")))


def changes(one: Config, other: Config) -> list[str]:
    """Return what has to change in `one` to become `other`, a line per value: "training.epochs: 1 → 2".

    Values are written as in TOML, so that 1 (a count) and 1.0 (a share) differ. Where a section's kind differs, keys that
    only one of the kinds has follow from it and are not named.
    """
    old, new = ({key: written(value) for key, value in _flat(c.model_dump(mode="json"))} for c in (one, other))
    kinds = {key.removesuffix("kind") for key in old if key.endswith(".kind") and old[key] != new.get(key)}
    lines = []
    for key in sorted(old.keys() | new.keys()):
        implied = any(key.startswith(section) for section in kinds) and not (key in old and key in new)
        if old.get(key) != new.get(key) and not implied:
            lines.append(f"{key}: {old.get(key, 'not there')} → {new.get(key, 'not there')}")
    return lines


def _with_absolute_paths(backbone: BackboneSettings, base: Path) -> BackboneSettings:
    """Return the settings with the model's folder and the prompt's file as absolute paths, where they name such."""
    update = {}
    model, prompt = backbone.model, getattr(backbone, "prompt", "")
    named = find(model) is not None or model.startswith("hub:")
    if model.startswith((".", "~")) or (model and not named and (base / model).is_dir()):
        update["model"] = str(absolute(Path(model), base))
    if prompt.endswith(".toml"):
        update["prompt"] = str(absolute(Path(prompt), base))
    return backbone.model_copy(update=update)


def _with_absolute_certificates(placement: PlacementSettings, base: Path) -> PlacementSettings:
    """Return the settings with the folder of certificates as an absolute path, where a server asks for them."""
    if placement.kind == "whole" or placement.server is None:
        return placement
    return placement.model_copy(update={"certificates": str(absolute(Path(placement.certificates), base))})


def _name_of(path: Path) -> str:
    """Return the name of a file without its ending, as a run can have it."""
    plain = re.sub(r"[^\w.-]+", "-", path.stem)[:_NAME_LENGTH]
    return re.sub(r"^[^\w]+|[^\w]+$", "", plain) or "run"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value
