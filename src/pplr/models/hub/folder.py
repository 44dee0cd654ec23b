"""What makes a folder a model: configuration, safetensors weights, and a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pplr.errors import ModelError
from pplr.models.hub.registry import Kind

SINGLE = "model.safetensors"
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_INDEX = "model.safetensors.index.json"
_DECODER_ENDINGS = ("ForCausalLM", "LMHeadModel")


def model_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a whole model's folder, which has a tokenizer too.

    Raises:
        ModelError: a file that a model needs is missing, or the weights are only there as pickles.
    """
    _require_config(folder)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError(
            f"{folder} has no tokenizer: none of {', '.join(TOKENIZERS)} is there. "
            "Copy the tokenizer files of the model into it."
        )
    return weight_files(folder)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that make up the weights in a folder, of a whole model or of a part.

    Raises:
        ModelError: a file that weights need is missing, or they are only there as pickles.
    """
    _require_config(folder)
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds an adapter beside a model (adapter_config.json). Merge it into the weights, or remove it."
        )
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / _INDEX).is_file():
        return _shards(folder)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder} holds its weights as pickles ({', '.join(pickles)}). A pickle can run any code when it is "
            "loaded, so pplr reads safetensors only. Save the model again with save_pretrained, which "
            "writes model.safetensors."
        )
    raise ModelError(f"{folder} has no weights: neither {SINGLE} nor {_INDEX} is there.")


def _require_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} has no config.json, so it is no model folder. Name a folder made by save_pretrained."
        )


def _shards(folder: Path) -> list[Path]:
    index = read_json(folder / _INDEX)
    try:
        names = sorted(set(index["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{folder / _INDEX} has no table 'weight_map'. Copy it again from where it came from."
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {', '.join(missing)}, which {_INDEX} names. Copy the rest of the model there."
        )
    return [folder / name for name in names]


def model_kind(folder: Path) -> Kind:
    """Return the kind of the model whose config.json is in `folder`.

    Raises:
        ModelError: it is neither an encoder nor a decoder of text.
    """
    config = read_json(folder / "config.json")
    family = str(config.get("model_type", ""))
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"The model in {folder} ({family}) is an encoder-decoder. pplr uses decoders (Llama, Qwen, Gemma) "
            "and encoders (BERT, MPNet) only."
        )
    architectures = [str(name) for name in config.get("architectures") or []]
    if any(name.endswith(_DECODER_ENDINGS) for name in architectures):
        return Kind.DECODER
    return _kind_of_family(family, folder)


def _kind_of_family(family: str, folder: Path) -> Kind:
    # an import of seconds, needed only for a bare base model
    from transformers.models.auto import modeling_auto

    if family in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return Kind.ENCODER
    if family in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return Kind.DECODER
    raise ModelError(
        f"The model in {folder} has the type '{family}', which transformers knows neither as an encoder "
        "nor as a decoder of text. Choose another model."
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Raises:
        ModelError: it cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}). Copy it again from where it came from.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__} instead of an object.")
    return content
