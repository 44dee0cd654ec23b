from __future__ import annotations

import pytest

import tiny
from pplr.data.dataset import Catalogue
from pplr.errors import ConfigError
from pplr.models.encoder import EncoderBackbone, EncoderSettings
from pplr.models.text import item_texts

FILMS = Catalogue(
    ("a", "b"), ("Alien", "Brazil"), {"genres": ("Horror|Sci-Fi", ""), "year": ("1979", "1985"), "country": ("", "UK")}
)


def test_a_text_is_the_title_and_the_attributes_that_an_item_has():
    assert item_texts(FILMS) == ["Alien; genres: Horror, Sci-Fi; year: 1979", "Brazil; year: 1985; country: UK"]
    assert item_texts(FILMS, ["country", "year"]) == ["Alien; year: 1979", "Brazil; country: UK; year: 1985"]
    assert item_texts(FILMS, []) == ["Alien", "Brazil"]


def test_every_unknown_attribute_is_named_with_the_nearest_one_and_all_there_are():
    with pytest.raises(ConfigError) as caught:
        item_texts(FILMS, ["genre", "year", "budget"])
    assert caught.value.problems == (
        "backbone.attributes names 'genre', which is no attribute of the items. Did you mean 'genres'? "
        "They have: 'genres', 'year', 'country'.",
        "backbone.attributes names 'budget', which is no attribute of the items. They have: 'genres', 'year', 'country'.",
    )


def test_a_catalogue_of_titles_alone_has_no_attributes_to_name():
    with pytest.raises(ConfigError, match=r"names 'genre'.*They have none, so leave backbone\.attributes out\."):
        item_texts(Catalogue(("a",), ("Alien",)), ["genre"])


def test_both_backbones_that_read_attributes_refuse_an_unknown_one():
    data = tiny.dataset()
    with pytest.raises(ConfigError, match="Did you mean 'genre'"):
        tiny.sequence_backbone(data, attributes=("genres",))
    with pytest.raises(ConfigError, match="Did you mean 'genre'"):
        EncoderBackbone(
            EncoderSettings(attributes=("genres",)),
            data.catalogue,
            tiny.encoder("bert"),
            tiny.word_tokenizer(),
            tiny.CPU,
        )
