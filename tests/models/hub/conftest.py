"""Tiny random models, a known model that lies on a shelf, and processes that pull it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_toys import describe, write_model, write_wheel

from pplr.models.hub import registry
from pplr.models.hub.registry import KnownModel, Packing

CHILD = """
import os, pickle, signal, sys, time
from pathlib import Path
from pplr.errors import PplrError
from pplr.models.hub import pull, registry

registry.KNOWN = (pickle.loads(Path(sys.argv[1]).read_bytes()),)
folder = Path(sys.argv[2])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def run(**arguments):
    try:
        arguments = {"source": folder} | arguments
        print("pulled", pull(registry.KNOWN[0].name, **arguments).digest, flush=True)
    except PplrError as error:
        print(type(error).__name__, error, flush=True)
        sys.exit(error.exit_code)
"""


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder that is in force during the test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PPLR_CACHE", str(folder))
    return folder


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Return the folder in which a test's wheels lie."""
    return tmp_path / "shelf"


@pytest.fixture
def toy(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    """Return the only known model `toy`: one wheel with a folder, among files that must stay behind."""
    model = write_model(tmp_path / "original")
    content = {f"toy/model/{path.name}": path.read_bytes() for path in model.iterdir()}
    content |= {"toy/__init__.py": b"raise SystemExit", "toy/model/README.md": b"", "toy/model/sub/config.json": b"{}"}
    entry = describe(Packing.FOLDER, (write_wheel(shelf, "toy", content),), "toy/model/")
    monkeypatch.setattr(registry, "KNOWN", (entry,))
    return entry


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, shelf: Path, empty_cache: Path) -> Iterator[Start]:
    """Return a function that starts a process which may pull `model` from the shelf; `code` runs in it."""
    running: list[subprocess.Popen[str]] = []

    def begin(model: KnownModel, code: str) -> subprocess.Popen[str]:
        description = tmp_path / "model.pickle"
        description.write_bytes(pickle.dumps(model))
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD + code, str(description), str(shelf)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PPLR_CACHE": str(empty_cache)},
        )
        running.append(child)
        return child

    yield begin
    for child in running:
        child.kill()
        child.communicate()


@pytest.fixture(scope="session")
def byte_tokens() -> list[str]:
    """Return a byte-level vocabulary: three special tokens, all bytes, and one merge of two spaces."""
    from tokenizers.pre_tokenizers import ByteLevel

    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ĠĠ"]


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory, byte_tokens: list[str]) -> Path:
    """Return a folder with a random Llama of two layers and a byte-level tokenizer that has no pad token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("decoder")
    vocabulary = {token: i for i, token in enumerate(byte_tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "Ġ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(byte_tokens),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                tie_word_embeddings=True,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random BERT of two layers, without pooler, and a tokenizer that pads to 128."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(128)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))  # as published: save_pretrained drops padding and truncation
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
