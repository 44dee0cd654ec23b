"""The tensors in frames: states, masks and positions written, and read back checked.

Every reader raises WireError where a tensor is missing, has another shape or type than the frame's fields announce, or
holds numbers that are not finite.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pplr.errors import RunError
from pplr.models.causal.interface import Sight
from pplr.trunk.codecs import packed, unpacked
from pplr.trunk.fields import Contract
from pplr.trunk.frames import Frame, WireError
from pplr.trunk.work import States


def state_tensors(states: States, contract: Contract, *, present: bool) -> dict[str, Tensor]:
    """Return the tensors in which states travel; `present` only where the other end does not know it."""
    found = _encoded("rows", packed(states.rows, states.present), contract)
    if present:
        found["present"] = bits_of(states.present)
    if states.start is not None:
        found |= _encoded("start", states.start[0], contract)
    return found


def received_states(frame: Frame, present: Tensor, start: int, contract: Contract) -> States:
    """Return the states in an answer; `start` is the length of the start, 0 for none.

    Raises:
        WireError: they are not those of this pass.
    """
    rows, names = states_in(frame, "rows", int(present.sum()), contract)
    first = None
    if start:
        states, used = states_in(frame, "start", start, contract)
        first, names = states[None], names | used
    only_tensors(frame, names)
    return States(unpacked(rows, present.cpu()), present, first)


def read_tensors(states: Tensor, positions: Tensor, sight: Sight, contract: Contract) -> dict[str, Tensor]:
    """Return the tensors in which new tokens of a reading travel."""
    found = _encoded("rows", states.flatten(0, 1), contract)
    found["positions"] = positions.cpu().long()
    if sight.full is not None and sight.keys is not None:
        return found | {"full": bits_of(sight.full.flatten(0, 2)), "keys": sight.keys.cpu().long()}
    return found if sight.seen is None else found | {"seen": bits_of(sight.seen)}


def plain_tensors(states: Tensor, contract: Contract) -> dict[str, Tensor]:
    """Return the tensors in which states [rows, new, width] of a reading travel back."""
    return _encoded("rows", states.flatten(0, 1), contract)


def matrix_of(frame: Frame, clients: int) -> Tensor:
    """Return the matrix [clients, clients] float64 in an answer.

    Raises:
        WireError: it is another one.
    """
    (matrix,) = exact_tensors(frame, matrix=((clients, clients), torch.float64))
    if not bool(torch.isfinite(matrix).all()):
        raise WireError("A matrix of the trunk's server holds numbers that are not finite. Lower the learning rate.")
    return matrix


def plain_states(frame: Frame, shape: tuple[int, int], contract: Contract) -> Tensor:
    """Return states [rows, new, width] of a reading's answer."""
    states, names = states_in(frame, "rows", shape[0] * shape[1], contract)
    only_tensors(frame, names)
    return states.reshape(*shape, contract.width)


def bits_of(mask: Tensor) -> Tensor:
    """Return a mask as bits, eight to a byte."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().astype(bool)))


def _encoded(name: str, states: Tensor, contract: Contract) -> dict[str, Tensor]:
    filled = _filled(len(states), contract.bucket)
    if filled > len(states):
        states = torch.cat([states, states.new_zeros(filled - len(states), states.shape[1])])
    return {f"{name}.{key}": value for key, value in contract.codec.encode(states).items()}


def states_in(frame: Frame, name: str, tokens: int, contract: Contract) -> tuple[Tensor, set[str]]:
    """Return the states [tokens, width] under `name`, and the names of the tensors that they were in."""
    filled = _filled(tokens, contract.bucket)
    prefix = name + "."
    own = {key.removeprefix(prefix): value for key, value in frame.tensors.items() if key.startswith(prefix)}
    try:
        states = contract.codec.decode(own, filled, contract.width)
    except RunError as problem:
        raise WireError(str(problem)) from problem
    return states[:tokens], {prefix + key for key in own}


def _filled(tokens: int, bucket: int) -> int:
    return -(-tokens // bucket) * bucket


def bits_in(frame: Frame, name: str, shape: tuple[int, int]) -> Tensor:
    """Return the mask [rows, length] under `name`."""
    count = shape[0] * shape[1]
    tensor = frame.tensors.get(name)
    if tensor is None or tensor.dtype != torch.uint8 or tuple(tensor.shape) != (-(-count // 8),):
        raise WireError(f"A frame of kind {frame.kind} has no bits {name!r} for {shape[0]} x {shape[1]} tokens.")
    return torch.from_numpy(np.unpackbits(tensor.numpy(), count=count).astype(bool)).reshape(shape)


def counts_in(frame: Frame, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return the whole numbers of `shape` under `name`, from 0 to 2**24."""
    tensor = frame.tensors.get(name)
    if tensor is None or tensor.dtype != torch.int64 or tuple(tensor.shape) != shape:
        raise WireError(f"A frame of kind {frame.kind} has no whole numbers {name!r} of shape {shape}.")
    if bool((tensor < 0).any()) or bool((tensor >= 2**24).any()):
        raise WireError(f"A frame of kind {frame.kind} has {name!r} out of range.")
    return tensor


def exact_tensors(frame: Frame, **wanted: tuple[tuple[int, ...], torch.dtype]) -> list[Tensor]:
    """Return the `wanted` tensors; a frame with others is refused."""
    only_tensors(frame, set(wanted))
    for name, (shape, dtype) in wanted.items():
        if name not in frame.tensors or tuple(frame.tensors[name].shape) != shape or frame.tensors[name].dtype != dtype:
            raise WireError(f"A frame of kind {frame.kind} has no {name!r} of shape {shape}.")
    return [frame.tensors[name] for name in wanted]


def only_tensors(frame: Frame, names: set[str]) -> None:
    """Refuse a frame with other tensors than those of `names`."""
    if more := set(frame.tensors) - names:
        raise WireError(f"A frame of kind {frame.kind} has a tensor {min(more)!r} that nobody asked for.")
