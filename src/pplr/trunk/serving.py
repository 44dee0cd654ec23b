"""From a configuration and a state folder to a trunk's server that is ready to serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError

from pplr.backbones import choose_device
from pplr.config import Config
from pplr.errors import ConfigError, RunError, nearest
from pplr.models.hub import Kind, ModelFiles, require, resolve
from pplr.models.parts.settings import SplitPlacement
from pplr.trunk.build import LoadedTrunk, agreement, split_placement
from pplr.trunk.desk import Desk
from pplr.trunk.fields import Limits
from pplr.trunk.service import TrunkServer
from pplr.trunk.store import StateFolder

LOCK = ".lock"

JOINT_TOKENS_CPU = 1024
"""What a CPU computes at least as fast in one batch as in several: larger ones only add padding and miss its caches."""

JOINT_TOKENS = 8192
"""The same for other devices."""


def open_server(
    config: Config,
    state: Path,
    certificates: Path | None,
    limits: Mapping[str, float],
    joint_tokens: int | None,
    tell: Callable[[str], None] = lambda text: None,
) -> TrunkServer:
    """Return a server with the trunk that `config` describes; of the model only the trunk's tensors are read.

    The folder `state` belongs to this process until it ends. Batches of several clients have `joint_tokens` at most, or
    what suits the device.

    Raises:
        ConfigError: there is nothing to serve, or a limit that is none.
        RunError: another server uses the state, or it is of another run.
        ModelError: the model cannot be cut, or is of the wrong kind.
    """
    placement = split_placement(config)
    bounds = _limits(limits)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    folder = StateFolder(state)
    _hold(state)
    trunk, files = load_trunk(config, tell)
    if joint_tokens is None:
        joint_tokens = JOINT_TOKENS_CPU if choose_device(config.device).type == "cpu" else JOINT_TOKENS
    desk = Desk(trunk, agreement(config, files), folder, bounds)
    tell(_described(trunk, placement, desk))
    return TrunkServer(desk, certificates or Path(placement.certificates), joint_tokens=joint_tokens)


def load_trunk(config: Config, tell: Callable[[str], None]) -> tuple[LoadedTrunk, ModelFiles]:
    """Return the trunk that a configuration describes, and the files of its model.

    Raises:
        ConfigError: the configuration splits no model.
        ModelError: the model is not there, cannot be cut, or is of the wrong kind.
    """
    files = resolve(config.backbone.model, progress=tell)
    wanted = Kind.DECODER if config.backbone.kind == "generative" else Kind.ENCODER
    require(files, wanted, f"the backbone {config.backbone.kind} was asked for")
    return LoadedTrunk(config, files, choose_device(config.device)), files


def _described(trunk: LoadedTrunk, placement: SplitPlacement, desk: Desk) -> str:
    layers = trunk.model.part.layers
    held = "no run yet" if desk.clients is None else f"rows of {len(desk.clients)} clients"
    return (
        f"Layers {layers.start + 1} to {layers.stop} of {layers.stop + placement.top}; {held}, "
        f"{trunk.layout.size:,} parameters each."
    )


def _limits(given: Mapping[str, float]) -> Limits:
    fields = Limits.model_fields
    if unknown := [name for name in given if name not in fields]:
        raise ConfigError(
            f"There is no limit {unknown[0]!r}.{nearest(unknown[0], fields)} Limits: {', '.join(fields)}."
        )
    try:
        return Limits.model_validate(dict(given))
    except ValidationError as problem:
        raise ConfigError(
            [f"--limit {error['loc'][0]}={error['input']:g} cannot be: {error['msg']}." for error in problem.errors()]
        ) from problem


def _hold(state: Path) -> None:
    """Keep all other servers from the state folder as long as this process lives."""
    try:
        FileLock(state / LOCK, is_singleton=True).acquire(timeout=0)
    except Timeout as problem:
        raise RunError(
            f"Another server uses the state in {state} right now. Stop it, or choose another folder (--state)."
        ) from problem
