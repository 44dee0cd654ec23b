"""In which precision large matrix products are made; parameters, optimisers, losses and scores stay in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

Precision = Annotated[
    Literal["float32", "bfloat16"],
    Field(
        description="What large matrix products are made in: the language model's (not where its adapters learn once a round), "
        "and those of training with the catalogue's items. bfloat16 keeps two to three digits, and is faster where the processor "
        "has it (pplr doctor tells). The same at all silos."
    ),
]


CHUNK = 128
"""Number of states whose logits are held at once: faster for large catalogues. On CUDA torch's op holds them as it likes."""


def arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which a model's matrix products are made in this precision (torch's autocast).

    One context for one pass: it keeps rounded parameters until it ends, so that none may be changed in it.
    """
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def linear(inputs: Tensor, weight: Tensor, precision: Precision) -> Tensor:
    """Return inputs [n, in] times weight [out, in], [n, out] float32; in bfloat16 both are rounded, and the result is."""
    with arithmetic(precision, inputs.device):
        return F.linear(inputs, weight).float()


def cross_entropy(states: Tensor, table: Tensor, bias: Tensor | None, targets: Tensor, precision: Precision) -> Tensor:
    """Return the cross-entropy of the logits states @ table.T + bias, summed over states.

    Products in bfloat16 become float32 before anything is added or exponentiated, and gradients are added up in float32. On a
    CPU, and in bfloat16, the logits of some states are held at once.

    Args:
        states: [n, width] float32.
        table: [items, width] float32.
        bias: [items] float32, or None.
        targets: [n] row of the table.
        precision: of the products.
    """
    if precision == "bfloat16":
        total: Tensor = _RoundedCrossEntropy.apply(states, table, bias, targets)  # type: ignore[no-untyped-call]
        return total
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK) if table.is_cpu else None
    return F.linear_cross_entropy(states, table, targets, linear_bias=bias, reduction="sum", options=options)


class _RoundedCrossEntropy(torch.autograd.Function):
    """The gradients are made with the loss, while the logits are there, and kept until they are asked for, once."""

    @staticmethod
    def forward(ctx: FunctionCtx, states: Tensor, table: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        rows, items = states.bfloat16(), table.bfloat16()
        by_state, by_item = torch.empty_like(states), torch.zeros_like(table)
        by_bias = None if bias is None else torch.zeros_like(bias)
        total = states.new_zeros(())
        for first in range(0, len(states), CHUNK):
            part = slice(first, first + CHUNK)
            own, wanted = rows[part], targets[part].unsqueeze(1)
            logits = (own @ items.T).float()
            if bias is not None:
                logits += bias
            most = logits.amax(1, keepdim=True)
            total += (most - logits.gather(1, wanted)).sum()
            shares = logits.sub_(most).exp_()
            sums = shares.sum(1, keepdim=True)
            total += sums.log().sum()
            shares /= sums
            shares.scatter_add_(1, wanted, -torch.ones_like(sums))
            if by_bias is not None:
                by_bias += shares.sum(0)
            rounded = shares.bfloat16()
            by_state[part] = (rounded @ items).float()
            by_item += (rounded.T @ own).float()
        ctx.save_for_backward(by_state, by_item, *([] if by_bias is None else [by_bias]))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        by_state, by_item, *by_bias = (kept * gradients[0] for kept in ctx.saved_tensors)
        return by_state, by_item, by_bias[0] if by_bias else None, None
