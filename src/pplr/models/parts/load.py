"""One part of a cut model, loaded by itself from the safetensors of the whole.

A part is transformers' own model with fewer layers: its code, masks, rotary embeddings and windows are those of the
whole model. What belongs to another part is not there, and was never read.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pplr.errors import ModelError
from pplr.models.hub.quiet import quiet
from pplr.models.parts.cut import Cut, Which
from pplr.models.parts.families import PER_LAYER, Family, family
from pplr.models.parts.tensors import TensorFiles

_OLD_NAMES = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))


class Absent(nn.Module):
    """Stands where another party has the module."""

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """Refuse."""
        raise RuntimeError("This part of the model is with the other party.")


class Handed(nn.Module):
    """Stands for the embedding where states come from the part before: they pass as they are."""

    def forward(self, _: Any = None, inputs_embeds: Tensor | None = None, *__: Any, **___: Any) -> Tensor:
        """Return `inputs_embeds` [batch, length, width]."""
        if inputs_embeds is None:
            raise RuntimeError("The token embeddings are with the other party.")
        return inputs_embeds


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        which: bottom, trunk or top.
        module: transformers' base model with this part's layers; the top of a decoder has its head too.
        config: configuration of the whole model.
        layers: numbers of this part's layers in the whole model.
        layers_path: path of the list of layers in `module`.
        prefix: what stands before a base model's path in the whole model ("model." in a decoder with a head).
    """

    which: Which
    module: nn.Module
    config: Any
    layers: range
    layers_path: str
    prefix: str

    @property
    def base(self) -> Any:
        """The base model, without a head."""
        return self.module.base_model

    def path_in_whole(self, path: str) -> str:
        """Return the path in the whole model of what has `path` in `module`."""
        if not path.startswith(self.layers_path + "."):
            return self.prefix + path.removeprefix(self.prefix)
        number, _, rest = path.removeprefix(self.layers_path + ".").partition(".")
        plain = self.layers_path.removeprefix(self.prefix)
        return f"{self.prefix}{plain}.{int(number) + self.layers.start}.{rest}"


def load_part(
    folder: Path,
    files: TensorFiles | Sequence[Path],
    which: Which,
    cut: Cut,
    *,
    head: bool,
    dtype: torch.dtype = torch.float32,
    embedding: Tensor | None = None,
) -> Part:
    """Return one part of the model in `folder`, frozen, in evaluation mode, on the CPU.

    Args:
        folder: holds the model's config.json.
        files: its safetensors files; of their tensors only this part's are read.
        which: the part.
        cut: where the model is cut.
        head: the whole model is a decoder with a language-model head, which goes to the top.
        dtype: of the weights.
        embedding: token embeddings [vocabulary, width] that are in memory already: a top whose head is tied to them
            uses these.

    Raises:
        ModelError: the model cannot be cut, or tensors are missing.
        ConfigError: the cut leaves the trunk no layer.
    """
    tensors = files if isinstance(files, TensorFiles) else TensorFiles(files)
    part = _outlined(folder, which, cut, head=head, dtype=dtype)
    for path, source in _sources(part, tensors, embedding):
        value = source if isinstance(source, Tensor) else tensors.read(source)
        _assign(part.module, path, value.to(dtype) if value.is_floating_point() else value)
    part.module.requires_grad_(False)
    part.module.eval()
    return part


def stored_tensors(folder: Path, tensors: TensorFiles, which: Which, cut: Cut, *, head: bool) -> list[str]:
    """Return the names of the stored tensors that `load_part` reads for a part, without reading any.

    Raises:
        ModelError, ConfigError: as `load_part`.
    """
    with torch.device("meta"):
        part = _outlined(folder, which, cut, head=head, dtype=torch.float32)
    return [name for _, name in _sources(part, tensors, None) if isinstance(name, str)]


def whole_config(folder: Path) -> Any:
    """Return transformers' configuration of the whole model, as far as it is about text."""
    from transformers import AutoConfig

    with quiet():
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()


def _outlined(folder: Path, which: Which, cut: Cut, *, head: bool, dtype: torch.dtype) -> Part:
    """Return a part whose weights have no values yet."""
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = whole_config(folder)
    kind = family(config.model_type)
    layers = cut.layers(which, config.num_hidden_layers)
    headed = head and which is Which.TOP
    own = _own_config(config, layers, vocabulary=headed or which is Which.BOTTOM)
    loader: Any = AutoModelForCausalLM if headed else AutoModel
    with quiet(), no_init_weights():
        module = loader.from_config(own, dtype=dtype)
    base = module.base_model
    prefix = f"{base.base_model_prefix}." if head else ""
    layers_path = f"{prefix if headed else ''}{kind.layers}"
    _remove_what_others_have(base, kind, which, decoder=kind.last is not None)
    return Part(which, module, config, layers, layers_path, prefix)


def _own_config(config: Any, layers: range, *, vocabulary: bool) -> Any:
    own = copy.deepcopy(config)
    own.tie_word_embeddings = False
    for name in PER_LAYER:
        values = getattr(own, name, None)
        if isinstance(values, list):
            setattr(own, name, values[layers.start : layers.stop])
    own.num_hidden_layers = len(layers)
    if not vocabulary:
        own.vocab_size, own.pad_token_id = 2, 0  # the table is thrown away; some models insist on a padding id below
    return own


def _remove_what_others_have(base: nn.Module, kind: Family, which: Which, *, decoder: bool) -> None:
    if which is not Which.BOTTOM:
        base.set_submodule(kind.first, Absent() if decoder else Handed())
    if kind.last is not None and which is not Which.TOP:
        base.set_submodule(kind.last, nn.Identity())
    for path in kind.unused:
        if getattr(base, path, None) is not None:
            setattr(base, path, None)


def _sources(part: Part, tensors: TensorFiles, embedding: Tensor | None) -> Iterator[tuple[str, str | Tensor]]:
    """Yield the path of every parameter and buffer of the part, and the name of the stored tensor with its value.

    A head that is tied to `embedding`, which is in memory already, has this for its value.
    """
    base_prefix = f"{part.base.base_model_prefix}."
    tied = bool(part.prefix) and part.config.tie_word_embeddings
    for path in list(part.module.state_dict()):
        whole = part.path_in_whole(path) if path != "lm_head.weight" else path
        if path == "lm_head.weight" and tied and path not in tensors:
            if embedding is not None:
                yield path, embedding
                continue
            whole = f"{part.prefix}{family(part.config.model_type).first}.weight"
        name = _stored_name(whole, part.prefix, base_prefix, tensors)
        if name is None:
            raise ModelError(
                f"The weights of the model lack {whole}, which its {part.which} needs. They do not belong to its "
                "config.json, or are stored under other names; save the model again with save_pretrained."
            )
        yield path, name


def _stored_name(whole: str, prefix: str, base_prefix: str, tensors: TensorFiles) -> str | None:
    plain = whole.removeprefix(prefix)
    names = [whole, plain, base_prefix + plain]
    names += [name.replace(new, old) for name in names for new, old in _OLD_NAMES if new in name]
    return next((name for name in names if name in tensors), None)


def _assign(module: nn.Module, path: str, value: Tensor) -> None:
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    old = getattr(owner, name)
    if old.shape != value.shape:
        raise ModelError(
            f"The weights of the model have the shape {tuple(value.shape)} for {path} instead of {tuple(old.shape)}. They do "
            "not belong to its config.json; copy the whole model again."
        )
    if isinstance(old, nn.Parameter):
        setattr(owner, name, nn.Parameter(value, requires_grad=False))
    else:
        owner.register_buffer(name, value)
