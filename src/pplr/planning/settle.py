"""What a plan is for: from a configuration, where one is given, and what is said beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pplr.config import Config
from pplr.errors import ConfigError
from pplr.models.hub import config_folder
from pplr.models.hub.registry import Kind
from pplr.models.lora import AdapterSettings
from pplr.models.parts.settings import SplitPlacement
from pplr.models.settings import GenerativeSettings, SequenceSettings
from pplr.planning.batch import Reading
from pplr.planning.estimate import Speeds
from pplr.planning.lengths import typical_lengths
from pplr.planning.outline import outline
from pplr.planning.plan import Circumstances, Plan, make_plan
from pplr.trunk.codecs import codec


@dataclass(frozen=True)
class Asked:
    """What is said beside a configuration; None leaves a value to it, or to what is usual.

    Attributes:
        model: name of the model.
        codec: how states travel.
        top: m, layers before the head that stay with a client.
        pieces: pieces of a batch under way at once.
        batch_tokens: tokens of a training batch.
        prompt_tokens: typical tokens of a prompt or history.
        common_tokens: tokens that all prompts begin with.
        title_tokens: typical tokens of a title.
        clients: clients that the server serves at once.
        device_memory: bytes that the client may use.
    """

    model: str | None = None
    codec: str | None = None
    top: int | None = None
    pieces: int | None = None
    batch_tokens: int | None = None
    prompt_tokens: int | None = None
    common_tokens: int | None = None
    title_tokens: int | None = None
    clients: int = 1
    device_memory: int | None = None


def plan_of(
    config: Config | None, asked: Asked, speeds: Speeds, *, tell: Callable[[str], None] = lambda text: None
) -> Plan:
    """Return the plan for what is asked; `tell` receives what is done about a model that is not here yet.

    Raises:
        ConfigError: no model is named, or its backbone is never split.
        ModelError: the model cannot be cut, or not be found.
        DataError: the configuration's data cannot be read.
    """
    model = asked.model or _model_of(config)
    folder, kind = config_folder(model, progress=tell, terms=tell)
    adapter, placement = AdapterSettings(), SplitPlacement()
    if config is not None and not isinstance(config.backbone, SequenceSettings):
        adapter = config.backbone.adapter
    if config is not None and isinstance(config.placement, SplitPlacement):
        placement = config.placement
    found = outline(folder, kind, adapter)
    circumstances = Circumstances(
        reading=_reading(config, asked, model, folder, kind, asked.pieces or placement.pieces),
        codec=codec(asked.codec or placement.codec),
        bucket=placement.bucket,
        top=asked.top or placement.top,
        clients=asked.clients,
        speeds=speeds,
        device_memory=asked.device_memory,
    )
    return make_plan(model, found, circumstances)


def _model_of(config: Config | None) -> str:
    if config is None:
        raise ConfigError("Name a model with --model, or a configuration with --config.")
    if isinstance(config.backbone, SequenceSettings):
        raise ConfigError(
            "backbone.kind is 'sequence', whose language model is never split: it reads each item once. Plan for the "
            "backbones 'generative' and 'encoder'."
        )
    return config.backbone.model


def _reading(config: Config | None, asked: Asked, model: str, folder: Path, kind: Kind, pieces: int) -> Reading:
    usual = Reading()
    prompt, common, title = usual.prompt, usual.common, usual.title
    if config is not None and None in (asked.prompt_tokens, asked.common_tokens, asked.title_tokens):
        lengths = typical_lengths(config, model, folder, kind)
        prompt, common, title = lengths.prompt, lengths.common, lengths.title
    settings = None if config is None else config.backbone
    reading = Reading(
        prompt=prompt if asked.prompt_tokens is None else asked.prompt_tokens,
        common=common if asked.common_tokens is None else asked.common_tokens,
        title=title if asked.title_tokens is None else asked.title_tokens,
        beams=settings.beams if isinstance(settings, GenerativeSettings) else usual.beams,
        batch_tokens=asked.batch_tokens or (usual.batch_tokens if config is None else config.training.batch_tokens),
        pieces=pieces,
    )
    if reading.common >= reading.prompt and kind is Kind.DECODER:
        raise ConfigError(
            f"Prompts of {reading.prompt} tokens cannot all begin with the same {reading.common}. Set --common-tokens to "
            f"{reading.prompt - 1} or lower."
        )
    return reading
