"""Settings that fit no model, or not the model at hand, are refused with numbers that do."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import tiny
from pplr.config import parse_config
from pplr.data.dataset import Catalogue
from pplr.errors import ConfigError
from pplr.models.encoder import EncoderSettings
from pplr.models.generative import GenerativeBackbone, GenerativeSettings
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.sequence import SequenceBackbone
from pplr.models.sequence_settings import SequenceSettings
from pplr.models.vectors import encode, tokenise


def test_heads_that_do_not_divide_the_width_are_refused_in_one_sentence_of_the_section(tmp_path):
    with pytest.raises(ConfigError) as caught:
        parse_config({"backbone": {"width": 128, "heads": 3}, "sed": 1}, tmp_path)
    assert len(caught.value.problems) == 2
    expected = "backbone.heads = 3 does not divide backbone.width = 128. Set heads to 2 or 4, or width to 126 or 129."
    assert sum(expected in problem for problem in caught.value.problems) == 1


@given(st.integers(8, 4096), st.integers(1, 64))
def test_the_numbers_that_a_refusal_offers_are_allowed_and_the_nearest(width, heads):
    if width % heads == 0:
        assert SequenceSettings(width=width, heads=heads).heads == heads
        return
    with pytest.raises(ValidationError) as caught:
        SequenceSettings(width=width, heads=heads)
    offered = re.search(r"Set heads to (.*), or width to (.*)\.", str(caught.value.errors()[0]["ctx"]["error"]))
    other_heads, other_widths = ([int(n) for n in part.split(" or ")] for part in offered.groups())
    fitting = [n for n in range(1, 65) if width % n == 0]
    assert set(other_heads) == {n for n in fitting if not any(min(n, heads) < m < max(n, heads) for m in fitting)}
    fitting = [n for n in range(8, 4097) if n % heads == 0]
    assert set(other_widths) == {n for n in fitting if not any(min(n, width) < m < max(n, width) for m in fitting)}


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_factors_that_are_not_finite_are_refused(value):
    for settings, name in ((AdapterSettings, "scale"), (EncoderSettings, "temperature")):
        with pytest.raises(ValidationError, match="finite number"):
            settings(**{name: value})


def test_a_rank_above_the_smaller_side_of_a_map_is_refused():
    model = tiny.decoder("llama")  # queries 16 -> 16, values 16 -> 8
    assert Lora(tiny.decoder("llama"), AdapterSettings(rank=8)).specs[0].shape == (8, 16)
    with pytest.raises(ConfigError, match=r"adapter\.rank = 9 .*v_proj.* 16 to 8 .*Set it to 8 or lower\."):
        Lora(model, AdapterSettings(rank=9))
    assert not any("base" in name for name, _ in model.named_modules() if name.startswith("model.layers")), (
        "a refused model is left as it was"
    )
    assert Lora(model, AdapterSettings(rank=16, targets=("q_proj",))).specs[0].shape == (16, 16)


def test_texts_longer_than_the_model_reads_are_refused():
    body, tokenizer = tiny.encoder("bert"), tiny.word_tokenizer()  # reads 130 tokens
    catalogue = Catalogue(("a", "b"), ("red " * 200, "blue"))
    settings = SequenceSettings(width=8, item_tokens=131)
    with pytest.raises(ConfigError, match=r"131 tokens.*reads 130.*item_tokens"):
        SequenceBackbone(settings, catalogue, body, tokenizer, tiny.CPU)
    assert encode(body, tokenise(tokenizer, ["red " * 200, "blue"], 130)).shape == (2, 16)


def test_prompts_and_titles_longer_than_the_model_reads_are_refused():
    catalogue = Catalogue(("a", "b"), ("red star", "blue"))  # 8 tokens at most, one per byte

    def backbone(history_items, **settings):
        return GenerativeBackbone(
            GenerativeSettings(prompt_tokens=700, history_items=history_items, **settings),
            catalogue,
            tiny.decoder("llama"),
            tiny.byte_tokenizer(),
            tiny.CPU,
        )

    few = backbone(5)
    assert few.prompts.most == len(few.prompts.prompt(np.zeros(9, np.int64))), "the longest title, as often as it may"
    each = backbone(6).prompts.most - few.prompts.most
    fitting = 5 + (512 - 8 - few.prompts.most) // each
    assert 512 - each < backbone(fitting).prompts.most + 8 <= 512
    with pytest.raises(ConfigError, match="reads 512 at most"):
        backbone(fitting + 1)
    with pytest.raises(ConfigError, match=r"prompt_tokens = 700 .*title 8, .*reads 512 .*Set prompt_tokens to 504"):
        backbone(100)
    with pytest.raises(ConfigError, match=r"title 500, .*Set prompt_tokens and title_tokens lower"):
        backbone(5, grounding="embedding", title_tokens=500)
