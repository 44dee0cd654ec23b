"""Converting a GGUF file to a model folder, once.

Weights are stored in float32. A 4-bit GGUF weight is `scale * q + minimum` with half-precision scale and minimum:
float32 holds that to its last bit, bfloat16 does not, and a reader may still ask for bfloat16 when it loads. It costs
disk (4 bytes a weight) but no memory beyond what the model itself needs, because safetensors are mapped.
"""

from __future__ import annotations

import io
import json
import mmap
from contextlib import redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pplr.errors import ModelError, ModelUnavailable
from pplr.models.hub.quiet import quiet

_LIBRARIES = ("gguf", "safetensors", "tokenizers", "torch", "transformers")

# llama.cpp's names of pre-tokenizers that split every digit off before they split words
_DIGIT_SPLITTERS = {"smollm"}
_PRE_TOKENIZER_KEY = b"tokenizer.ggml.pre"


def convert_gguf(gguf: Path, folder: Path) -> dict[str, str]:
    """Write the model in the file `gguf` to the existing `folder`, in float32, with its tokenizer.

    Returns the libraries that did it, with their versions.

    Raises:
        ModelUnavailable: the libraries that read GGUF are not installed.
        ModelError: the file cannot be read, or is of a kind that transformers cannot convert.
    """
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ModelUnavailable(
            f"This model comes as a GGUF file, and reading it needs {' and '.join(missing)}, which this Python lacks. "
            "Install them with `pip install 'pplr[gguf]'`."
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # the GGUF reader draws its progress bar on stderr whatever transformers is told
    with quiet(), redirect_stderr(io.StringIO()):
        try:
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:
            raise ModelError(f"The GGUF file of this model could not be converted ({error}).") from error
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    # safetensors keeps its files from everybody else; a cache may be shared
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    _restore_digit_splitter(folder / "tokenizer.json", _pre_tokenizer_name(gguf))
    return {name: version(name) for name in _LIBRARIES}


def _pre_tokenizer_name(gguf: Path) -> str:
    """Return the text under the key `tokenizer.ggml.pre`, "" where there is none.

    The key is looked up in the bytes, because a full parse of the header, which holds the whole vocabulary, takes
    seconds. In a GGUF file a text follows its key as a type (4 bytes), a length (8 bytes), and UTF-8.
    """
    with gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = content.find(_PRE_TOKENIZER_KEY)
        if found < 0:
            return ""
        start = found + len(_PRE_TOKENIZER_KEY) + 4
        length = int.from_bytes(content[start : start + 8], "little")
        return content[start + 8 : start + 8 + length].decode(errors="replace")


def _restore_digit_splitter(path: Path, pre_tokenizer: str) -> None:
    """Put the digit splitter, which transformers loses on the way from GGUF, back before the word splitter.

    No merge of such a vocabulary holds a digit, so it matters only where a digit follows two spaces or more: as part
    of a word it would take the last space with it, and the run of spaces would become other tokens than in training.
    """
    if pre_tokenizer not in _DIGIT_SPLITTERS:
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
