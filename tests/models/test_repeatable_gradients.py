"""The same batch gives the same gradient to the last bit, on several threads: else a resumed run ends elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from pplr.data.dataset import Ragged
from pplr.models.encoder import EncoderBackbone, EncoderSettings
from pplr.models.generative import GenerativeBackbone, GenerativeSettings
from pplr.models.layout import TrainableRow
from pplr.models.lora import AdapterSettings
from pplr.models.sequence import SequenceBackbone
from pplr.models.sequence_settings import SequenceSettings

ITEMS = 600
TIMES = 5
CATALOGUE = tiny.catalogue(ITEMS)
ALL_MAPS = AdapterSettings(rank=4, dropout=0.1, targets=("q_proj", "k_proj", "v_proj"))


def sequence():
    settings = SequenceSettings(width=128, layers=2, heads=2, positions=50, dropout=0.1)
    vectors = torch.randn(ITEMS, 32, generator=torch.Generator().manual_seed(0))
    return SequenceBackbone(settings, CATALOGUE, None, None, tiny.CPU, vectors=vectors)


def sequence_with_adapters():
    settings = SequenceSettings(width=128, layers=1, heads=2, positions=50, adapters=True, live_items=16)
    return SequenceBackbone(settings, CATALOGUE, wide_encoder(), tiny.word_tokenizer(), tiny.CPU)


def encoder(negatives=0):
    settings = EncoderSettings(negatives=negatives, history_tokens=100, item_tokens=12)
    return EncoderBackbone(settings, CATALOGUE, wide_encoder(), tiny.word_tokenizer(), tiny.CPU)


def encoder_with_negatives():
    return encoder(negatives=200)


def generative():
    model = tiny.decoder("llama", hidden_size=128, intermediate_size=256)
    settings = GenerativeSettings(adapter=ALL_MAPS, prompt_tokens=200)
    return GenerativeBackbone(settings, CATALOGUE, model, tiny.byte_tokenizer(), tiny.CPU)


def wide_encoder():
    return tiny.encoder("bert", hidden_size=128, intermediate_size=256)


@pytest.mark.parametrize("make", [sequence, sequence_with_adapters, encoder, encoder_with_negatives, generative])
def test_a_gradient_is_the_same_to_the_last_bit_on_two_threads(make):
    backbone = make()
    draws = np.random.default_rng(0)
    # few distinct items, so that many positions add to the same row of a table
    examples = backbone.examples(Ragged.from_rows([draws.integers(0, 20, 51).tolist() for _ in range(48)]))
    row = backbone.layout.initial_row(0) + 0.05 * torch.randn(
        backbone.layout.size, generator=torch.Generator().manual_seed(1)
    )
    catalogue = backbone.encode_catalogue(backbone.layout.views(row))
    torch.set_num_threads(2)
    found = set()
    for _ in range(TIMES):
        trained = TrainableRow(backbone.layout, row)
        torch.manual_seed(3)
        backbone.loss(trained.named, catalogue, examples, np.arange(48), training=True).total.backward()
        assert trained.gradient.abs().max() > 0
        found.add(trained.gradient.numpy().tobytes())
    different = len(found)
    assert different == 1
