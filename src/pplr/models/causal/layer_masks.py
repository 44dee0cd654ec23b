"""What each layer of a model may attend to, in the form that the model takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pplr.errors import ModelError

KINDS = ("full_attention", "sliding_attention")
IMPLEMENTATIONS = ("eager", "sdpa")


class LayerMasks:
    """Turns one mask into what each kind of layer of a model needs: full attention, or attention within a window."""

    def __init__(self, model: Any) -> None:
        """Look at the layers of `model`, a causal language model of transformers.

        Raises:
            ModelError: the model's kind of attention cannot take a mask of its own.
        """
        config = model.config.get_text_config()
        implementation = str(config._attn_implementation)
        if implementation not in IMPLEMENTATIONS:
            raise ModelError(
                f"The model computes attention by {implementation!r}, which takes no mask of its own. "
                f"Load it with attn_implementation set to one of {list(IMPLEMENTATIONS)}."
            )
        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None) or [KINDS[window is not None]]
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ModelError(
                f"The model has layers of the kind {unknown[0]!r}, which beam search over a tree cannot mask. "
                f"Choose a model whose layers are of the kinds {list(KINDS)}."
            )
        self._kinds = set(kinds)
        self._window = window
        self._additive = model.dtype if implementation == "eager" else None

    def of(self, full: Tensor, queries: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the model's `attention_mask` for what new tokens may see at most.

        `full` is [rows, 1, new, all], true where a token may be seen; `queries` [rows, new] and `keys` [rows, all] are
        positions, whose difference a window limits.
        """
        masks = {}
        if "full_attention" in self._kinds:
            masks["full_attention"] = self._form(full)
        if "sliding_attention" in self._kinds:
            near = queries[:, :, None] - keys[:, None, :] < self._window
            masks["sliding_attention"] = self._form(full & near[:, None])
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _form(self, mask: Tensor) -> Tensor:
        """Return the mask as attention implementations take it: booleans, or numbers to be added."""
        if self._additive is None:
            return mask
        zeros = torch.zeros(mask.shape, dtype=self._additive, device=mask.device)
        return zeros.masked_fill(~mask, torch.finfo(self._additive).min)
