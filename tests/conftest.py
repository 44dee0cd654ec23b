"""Fixtures that several rooms share; what they are made of is in tiny.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

import pplr
import tiny
from whole_runs import configuration, write_files

settings.register_profile("shared", deadline=None, max_examples=50)  # machines are shared: time limits lie
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny tensors are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_catalogue():
    return tiny.catalogue()


@pytest.fixture(scope="session")
def tiny_dataset():
    return tiny.dataset()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return tiny.byte_tokenizer()


@pytest.fixture(scope="session")
def tiny_word_tokenizer():
    return tiny.word_tokenizer()


@pytest.fixture
def tiny_llama():
    return tiny.decoder("llama")


@pytest.fixture
def tiny_bert():
    return tiny.encoder("bert")


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A data set as CSV files, and a tiny encoder and decoder as local model folders; nobody changes them."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@pytest.fixture(scope="session")
def finished(files, tmp_path_factory):
    """A finished run on `files`; nobody changes it."""
    return pplr.run(configuration(files), tmp_path_factory.mktemp("finished") / "run")
