"""Nobody who is attacked is in what the attacker learns from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from pplr.audit.sample import catalogue_texts, draw
from pplr.audit.texts import encoder_writing, generative_writing
from pplr.data.dataset import Part
from pplr.errors import ConfigError, DataError
from pplr.models.encoder import EncoderSettings
from pplr.models.generative import GenerativeSettings


@pytest.fixture(scope="module")
def writing(tiny_dataset):
    return generative_writing(GenerativeSettings(), tiny_dataset.catalogue, tiny.byte_tokenizer())


@pytest.mark.parametrize("seed", range(5))
def test_no_text_that_is_attacked_is_learned_from(tiny_dataset, writing, seed):
    sample = draw(tiny_dataset, writing, histories=15, public=20, seed=seed)
    assert len(sample.held) == len(set(sample.held_users)) == 15
    assert len(set(sample.public_users)) == 20
    assert not set(sample.held_users) & set(sample.public_users)
    attacked = {tuple(text.ids) for text in sample.held}
    assert not attacked & {tuple(text.ids) for text in sample.public}
    queries = tiny_dataset.queries(Part.TEST)
    histories = {user: writing.text(row).ids for user, row in zip(queries.users, queries.histories, strict=True)}
    assert [text.ids for text in sample.held] == [histories[user] for user in sample.held_users]


def test_a_text_equal_to_one_that_is_attacked_is_left_out(tiny_dataset, writing):
    rows = [[1, 2, 3, 4]] * 20 + [[5, 6, 7, 8]] * 20
    parts = [Part.TRAIN, Part.TRAIN, Part.VALIDATION, Part.TEST] * len(rows)
    data = tiny.Dataset(
        tiny_dataset.catalogue,
        tuple(f"u{i}" for i in range(len(rows))),
        tiny.Ragged.from_rows(rows),
        np.asarray(parts, np.int8),
    )
    sample = draw(data, writing, histories=15, public=20, seed=1)
    assert {tuple(text.ids) for text in sample.held} == {tuple(writing.text(np.array(r[:3])).ids) for r in rows}
    lists = {tuple(text.ids) for text in catalogue_texts(writing, 1)}
    assert {tuple(text.ids) for text in sample.public} <= lists, "all histories are the same two"


def test_popularity_is_counted_among_the_others(tiny_dataset, writing):
    sample = draw(tiny_dataset, writing, histories=15, public=10, seed=3)
    queries = tiny_dataset.queries(Part.TEST)
    expected = np.zeros(len(tiny_dataset.catalogue))
    for user, history in zip(queries.users, queries.histories, strict=True):
        if user not in sample.held_users:
            np.add.at(expected, history, 1)
    assert sample.popularity.tolist() == expected.tolist()


def test_every_title_of_the_catalogue_is_public(tiny_dataset, writing):
    encoder = encoder_writing(EncoderSettings(history_tokens=24), tiny_dataset.catalogue, tiny.word_tokenizer())
    for each in (writing, encoder):
        listed = [place.item for text in catalogue_texts(each, 4) for place in text.titles]
        assert sorted(listed) == list(range(len(tiny_dataset.catalogue)))


def test_the_seed_decides_who_is_attacked(tiny_dataset, writing):
    one, same, other = (draw(tiny_dataset, writing, 10, 15, seed) for seed in (1, 1, 2))
    assert one.held_users.tolist() == same.held_users.tolist() != other.held_users.tolist()
    assert torch.equal(one.public_tokens, same.public_tokens)


def test_too_few_histories_are_refused(tiny_dataset, writing):
    with pytest.raises(DataError, match="Set --histories to 30 or lower"):
        draw(tiny_dataset, writing, 35, 10, 1)
    for histories, public in ((1, 10), (5, 3)):
        with pytest.raises(ConfigError, match=f"--histories {histories} and --public {public} are too few"):
            draw(tiny_dataset, writing, histories, public, 1)
