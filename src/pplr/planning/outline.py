"""What planning needs to know of a model, found without its weights.

transformers' own modules are built on torch's meta device, where tensors have shapes and no content: every family that
can be cut is counted by the same code that runs it.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pplr.errors import ModelError
from pplr.models.hub.digest import tensor_places
from pplr.models.hub.quiet import quiet
from pplr.models.hub.registry import Kind
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts import Cut, Which
from pplr.models.parts.families import family
from pplr.planning.flops import Shape

_UNREAD = ("query_global", "key_global", "value_global")
"""Maps for tokens that see everything, of which pplr has none: they have weights and do no work."""


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        parameters: its weights.
        linear: weights of the linear maps that run.
        attention: heads x width of a head.
        keys: width of its keys, and of its values.
        states: numbers per token that a backward pass needs, adapters left out.
        matrices: matrices of attention that it needs too, heads included; 0 where attention is fused.
        adapters: weights of its adapters.
        adapted: width of the inputs of its adapted maps, summed.
    """

    parameters: int
    linear: int
    attention: int
    keys: int
    states: int
    matrices: int
    adapters: int = 0
    adapted: int = 0

    @property
    def shape(self) -> Shape:
        """What its operations are counted from."""
        return Shape(self.linear, self.attention, self.adapters)


@dataclass(frozen=True)
class Outline:
    """A model without its weights.

    Attributes:
        model_type: transformers' name of the architecture.
        decoder: it writes text; otherwise it is an encoder.
        width: numbers of a hidden state.
        layers: its layers.
        embedding: weights before the layers.
        last: weights behind the layers, without the head.
        head: weights of the head, 0 for an encoder.
        tied: the head is the embedding, and costs no memory of its own.
        each: weights that serve all layers, of which every part has its own.
        outside: weights of adapters outside of the layers, which the client has.
    """

    model_type: str
    decoder: bool
    width: int
    layers: tuple[Layer, ...]
    embedding: int
    last: int
    head: int
    tied: bool
    each: int
    outside: int = 0

    @cached_property
    def parameters(self) -> int:
        """Weights of the whole model."""
        own = 0 if self.tied else self.head
        return self.embedding + sum(layer.parameters for layer in self.layers) + self.each + self.last + own

    def part(self, cut: Cut, which: Which) -> tuple[Layer, ...]:
        """Return the layers of a part.

        Raises:
            ConfigError: the cut leaves the trunk no layer.
        """
        numbers = cut.layers(which, len(self.layers))
        return self.layers[numbers.start : numbers.stop]

    def client_layers(self, cut: Cut) -> tuple[Layer, ...]:
        """Return the layers of bottom and top."""
        return self.part(cut, Which.BOTTOM) + self.part(cut, Which.TOP)

    def client_parameters(self, cut: Cut) -> int:
        """Return the weights of bottom and top; a head that is tied to the embedding counts once."""
        own = 0 if self.tied else self.head
        return (
            self.embedding
            + sum(layer.parameters for layer in self.client_layers(cut))
            + 2 * self.each
            + self.last
            + own
        )

    def server_parameters(self, cut: Cut) -> int:
        """Return the weights of the trunk."""
        return sum(layer.parameters for layer in self.part(cut, Which.TRUNK)) + self.each


def outline(folder: Path, kind: Kind, adapter: AdapterSettings) -> Outline:
    """Return the outline of the model whose config.json is in `folder`; weights need not be there.

    Raises:
        ModelError: the model cannot be cut, or has no such maps to adapt.
        ConfigError: the adapters' rank is too high.
    """
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = _read_config(folder)
    family(config.model_type)
    own = copy.deepcopy(config)
    own.tie_word_embeddings = False
    decoder = kind is Kind.DECODER
    loader: Any = AutoModelForCausalLM if decoder else AutoModel
    with quiet(), no_init_weights(), torch.device("meta"):
        model = loader.from_config(own, dtype=torch.float32)
    tied = decoder and bool(config.tie_word_embeddings) and "lm_head.weight" not in _stored_names(folder)
    found = replace(outlined(model), tied=tied)
    return _with_adapters(found, model, adapter)


def outlined(model: Any) -> Outline:
    """Return the outline of a model of transformers, without adapters; the head counts as one of its own."""
    base, config = model.base_model, model.config.get_text_config()
    kind = family(config.model_type)
    layers = [_layer(module, config) for module in base.get_submodule(kind.layers)]
    sizes = {"first": 0, "last": 0, "each": 0}
    for path, parameter in base.named_parameters():
        name = _holder(path, kind.layers, kind.first, kind.last, kind.unused)
        if name is not None:
            sizes[name] += parameter.numel()
    head = model.get_output_embeddings() if model is not base else None
    weights = 0 if head is None else sum(parameter.numel() for parameter in head.parameters())
    return Outline(
        model_type=config.model_type,
        decoder=head is not None,
        width=int(config.hidden_size),
        layers=tuple(layers),
        embedding=sizes["first"],
        last=sizes["last"],
        head=weights,
        tied=False,
        each=sizes["each"],
    )


def _holder(path: str, layers: str, first: str, last: str | None, unused: tuple[str, ...]) -> str | None:
    """Return who has a parameter that is in no layer, or None where it is in one or nobody needs it."""

    def below(parent: str | None) -> bool:
        return parent is not None and path.startswith(parent + ".")

    if below(layers) or any(below(name) for name in unused):
        return None
    return "first" if below(first) else "last" if below(last) else "each"


def _layer(module: nn.Module, config: Any) -> Layer:
    maps = {path: m for path, m in module.named_modules() if isinstance(m, nn.Linear)}
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    eager = config._attn_implementation == "eager"
    gated = any(path.endswith("gate_proj") for path in maps)
    inner = max(max(m.in_features, m.out_features) for m in maps.values())
    inner = int(getattr(config, "intermediate_size", 0) or getattr(config, "hidden_dim", 0) or inner)
    normed = 0
    for path, part in module.named_modules():
        if type(part).__name__.endswith("Norm"):
            repeated = {"q_norm": heads, "k_norm": key_heads}.get(path.rpartition(".")[2], 1)
            normed += repeated * int(sum(p.numel() for n, p in part.named_parameters() if n == "weight"))
    return Layer(
        parameters=sum(p.numel() for p in module.parameters()),
        linear=sum(m.weight.numel() for path, m in maps.items() if not path.endswith(_UNREAD)),
        attention=heads * width,
        keys=key_heads * width,
        states=normed + 4 * heads * width + (3 if gated else 1) * inner,  # keys are repeated for their heads
        matrices=heads * (2 if getattr(config, "attn_logit_softcapping", None) else 1) if eager else 0,
    )


def _with_adapters(found: Outline, model: Any, settings: AdapterSettings) -> Outline:
    """Return the outline with the adapters that the settings put into the model, which is used up."""
    base = model.base_model
    kind = family(model.config.get_text_config().model_type)
    for path in kind.unused:
        if getattr(base, path, None) is not None:
            setattr(base, path, None)
    prefix = f"{base.base_model_prefix}.{kind.layers}." if model is not base else f"{kind.layers}."
    layers, outside = list(found.layers), 0
    for spec in Lora(model, settings).specs:
        if not spec.name.startswith(prefix):
            outside += spec.size
            continue
        number = int(spec.name.removeprefix(prefix).partition(".")[0])
        width = spec.shape[1] if spec.name.endswith(".lora_A") else 0
        layer = layers[number]
        layers[number] = replace(layer, adapters=layer.adapters + spec.size, adapted=layer.adapted + width)
    return replace(found, layers=tuple(layers), outside=outside)


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    with quiet():
        try:
            config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError) as problem:
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0].rstrip(".")
            raise ModelError(f"The config.json in {folder} cannot be used ({reason}).") from problem
    return config.get_text_config()


def _stored_names(folder: Path) -> set[str]:
    """Return the names of the tensors that are stored beside the configuration; their content is not read."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        try:
            return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as problem:
            raise ModelError(f"{index} has no table 'weight_map'. Copy it again from where it came from.") from problem
    return set(tensor_places(single)) if single.is_file() else set()
