"""What is attacked is what the backbones write."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from pplr.audit.texts import Writing, encoder_writing, generative_writing
from pplr.errors import ConfigError
from pplr.models.encoder import EncoderBackbone, EncoderSettings
from pplr.models.generative import GenerativeBackbone, GenerativeSettings

HISTORIES = [np.array(row) for row in ([3], [4, 9, 1], list(range(30)), [7, 7, 2, 11, 12, 13, 14, 15, 16, 17, 18])]


@pytest.mark.parametrize("tokens", [384, 260])
def test_the_generative_backbone_writes_the_same(tiny_catalogue, tiny_llama, tokens):
    settings = GenerativeSettings(prompt_tokens=tokens, history_items=8)
    tokenizer = tiny.byte_tokenizer(bos=True)
    backbone = GenerativeBackbone(settings, tiny_catalogue, tiny_llama, tokenizer, tiny.CPU)
    writing = generative_writing(settings, tiny_catalogue, tokenizer)
    for history in HISTORIES:
        text = writing.text(history)
        assert text.ids == backbone.prompts.prompt(history)
        _assert_titles(text, tiny_catalogue, tokenizer, history[::-1][: len(text.titles)][::-1])


@pytest.mark.parametrize("tokens", [64, 20])
def test_the_encoder_backbone_writes_the_same(tiny_catalogue, tokens):
    settings = EncoderSettings(history_tokens=tokens)
    tokenizer = tiny.word_tokenizer()
    backbone = EncoderBackbone(settings, tiny_catalogue, tiny.encoder("bert"), tokenizer, tiny.CPU)
    writing = encoder_writing(settings, tiny_catalogue, tokenizer)
    for history in HISTORIES:
        text = writing.text(history)
        assert text.ids == backbone._history_ids(history)
        _assert_titles(text, tiny_catalogue, tokenizer, history[::-1][: len(text.titles)])
        assert len(text.listed) > sum(place.stop - place.start for place in text.titles), "attributes are no titles"


def test_template_text_around_a_title_is_no_title(tiny_catalogue, tmp_path):
    path = tmp_path / "numbered.toml"
    path.write_text('prompt = "Seen: {history} Next:"\nitem = "<<{title}>>"\nseparator = ", "\n')
    tokenizer = tiny.byte_tokenizer()
    writing = generative_writing(GenerativeSettings(prompt=str(path)), tiny_catalogue, tokenizer)
    text = writing.text(np.array([2, 8]))
    _assert_titles(text, tiny_catalogue, tokenizer, [2, 8])
    assert tokenizer.decode(text.listed) == "<<{}>>, <<{}>>".format(*(tiny_catalogue.titles[i] for i in (2, 8)))


def test_an_encoder_text_that_does_not_fit_is_refused(tiny_catalogue):
    with pytest.raises(ConfigError, match="history_tokens = 8"):
        encoder_writing(EncoderSettings(history_tokens=8), tiny_catalogue, tiny.word_tokenizer())


def _assert_titles(text, catalogue, tokenizer, items):
    assert [place.item for place in text.titles] == list(items)
    for place in text.titles:
        decoded = tokenizer.decode(text.listed[place.start : place.stop])
        assert decoded == catalogue.titles[place.item]


def test_texts_begin_and_end_alike(tiny_catalogue):
    writing: Writing = generative_writing(GenerativeSettings(), tiny_catalogue, tiny.byte_tokenizer())
    for history in HISTORIES:
        text = writing.text(history)
        assert text.ids == [*writing.before, *text.listed, *writing.after]
