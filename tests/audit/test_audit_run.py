"""The whole audit on small models."""

from __future__ import annotations

import pytest

import tiny
from pplr.audit.run import AuditSettings, audit_hidden_states
from pplr.errors import ConfigError
from pplr.models.encoder import EncoderSettings
from pplr.models.hub import resolve

SMALL = {"histories": 10, "public": 25}


def audited(files, model, bottom, **changes):
    spoken: list[str] = []
    settings = AuditSettings(bottom, **(SMALL | changes))
    backbone = EncoderSettings(history_tokens=64)
    report = audit_hidden_states(resolve(str(files / model)), tiny.dataset(60), backbone, settings, spoken.append)
    assert spoken
    return report


@pytest.fixture(scope="module")
def deeper(tmp_path_factory):
    """A decoder and an encoder of four layers."""
    folder = tmp_path_factory.mktemp("deeper")
    for name, model, tokenizer in (
        ("bert", tiny.encoder("bert", num_hidden_layers=4), tiny.word_tokenizer()),
        ("llama", tiny.decoder("llama", num_hidden_layers=4), tiny.byte_tokenizer()),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def test_behind_a_decoders_embedding_the_nearest_token_reads_everything(deeper):
    report = audited(deeper, "llama", 0)
    figures = {f.name: f for f in report.outcome.figures}
    for value in ("tokens", "titles", "rouge_l"):
        assert getattr(figures["nearest token"], value).value == 1.0
    assert figures["popularity"].titles.value < 0.9
    assert report.outcome.best.attack == "nearest token"


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_behind_layers_every_attack_beats_popularity(deeper, model):
    outcome = audited(deeper, model, 2).outcome
    names = [figures.name for figures in outcome.figures]
    assert names == [
        "popularity",
        "nearest token",
        "nearest token + catalogue",
        "inverter",
        "inverter + catalogue",
    ]
    for figures in outcome.figures[1:]:
        assert figures.tokens.value > outcome.popularity.tokens.value + 2 * figures.tokens.error
    assert len(outcome.examples) == 3
    assert set(outcome.examples[0].recovered) == set(names)


def test_states_of_another_model_say_nothing(deeper, monkeypatch):
    """Where the attacked states are not those of the texts, attacks read no more than popularity does."""
    from pplr.audit import run

    def broken(part, rows):
        import torch

        generator = torch.Generator().manual_seed(1)
        return [torch.randn(len(row), 16, generator=generator) for row in rows]

    monkeypatch.setattr(run, "behind", broken)
    outcome = audited(deeper, "llama", 1).outcome
    read = {figures.name: figures.titles.value for figures in outcome.figures}
    assert read["nearest token"] == read["inverter"] == 0.0


def test_a_k_that_leaves_nothing_for_the_server_is_refused(deeper):
    with pytest.raises(ConfigError, match=r"--k 3 .* Give 0 to 2"):
        audited(deeper, "llama", 3)
    with pytest.raises(ConfigError, match="no codec 'int9'"):
        audited(deeper, "llama", 1, codec="int9")


def test_the_report_as_json(deeper):
    report = audited(deeper, "bert", 1, codec="int8").as_json()
    assert (report["layers"], report["bottom"], report["codec"], report["histories"]) == (4, 1, "int8", 10)
    best = max(report["figures"][1:], key=lambda f: f["titles"]["value"])
    assert report["best"] in {f["name"] for f in report["figures"] if f["titles"] == best["titles"]}
