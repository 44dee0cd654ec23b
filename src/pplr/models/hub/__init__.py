"""Pretrained models: from a name to verified files, and from files to a frozen model.

`resolve("minilm")` returns the files, pulling them first where needed; `load_encoder` and `load_decoder` load them.
"""

from pplr.models.hub.cache import cache_folder
from pplr.models.hub.load import load_base, load_decoder, load_encoder, load_tokenizer, require
from pplr.models.hub.manifest import Manifest
from pplr.models.hub.registry import Kind, KnownModel, known
from pplr.models.hub.resolver import ModelFiles, config_folder, installed, pull, resolve

__all__ = [
    "Kind",
    "KnownModel",
    "Manifest",
    "ModelFiles",
    "cache_folder",
    "config_folder",
    "installed",
    "known",
    "load_base",
    "load_decoder",
    "load_encoder",
    "load_tokenizer",
    "pull",
    "require",
    "resolve",
]
