"""The whole audit on small models."""

from __future__ import annotations

import pytest
import torch

import pplr
import tiny
from pplr.audit.client import load_client
from pplr.audit.hidden_states import run_attacks
from pplr.audit.run import AuditSettings, audit_hidden_states
from pplr.backbones import load_backbone
from pplr.errors import ConfigError
from pplr.federation.events import ignore
from pplr.models.encoder import EncoderSettings
from pplr.models.hub import resolve
from pplr.models.hub.parts import load_parts
from pplr.models.parts import Cut, Which
from pplr.runner import load_run
from whole_runs import configuration

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


@pytest.fixture(scope="module")
def trained(deeper, files, tmp_path_factory):
    """A finished run of a four-layer encoder, whose adapters moved."""
    config = configuration(
        files, "encoder", backbone={"kind": "encoder", "model": str(deeper / "bert"), "history_tokens": 64}
    )
    return pplr.run(config, tmp_path_factory.mktemp("trained") / "run").folder


def test_a_clients_adapters_are_in_what_is_attacked_and_not_in_what_is_known(trained, monkeypatch):
    found = load_client(trained, "shop-1")
    seen = {}

    def spy(*arguments, **options):
        seen["held"], seen["public"] = arguments[3], arguments[4]
        return run_attacks(*arguments, **options)

    monkeypatch.setattr("pplr.audit.run.run_attacks", spy)

    def states(client, bottom):
        settings = AuditSettings(bottom, **SMALL)
        report = audit_hidden_states(found.files, found.dataset, found.config.backbone, settings, str, client)
        assert report.as_json()["client"] == (None if client is None else "shop-1")
        return seen["held"].states, seen["public"].states

    for bottom in (0, 2):
        (held, public), (adapted, public_too) = states(None, bottom), states(found.client, bottom)
        assert torch.equal(public, public_too)
        assert torch.equal(held, adapted) == (bottom == 0)


def test_adapted_states_are_those_of_the_run_itself(trained):
    """Against the whole model with the run's row bound, through transformers' own hidden states."""
    found = load_client(trained, "shop-1")
    (bottom,) = load_parts(found.files, Cut(2), Which.BOTTOM)
    ids = [torch.tensor([2, 12, 13, 14, 3])]
    (states,) = found.client.states(bottom, ids)
    backbone, _ = load_backbone(found.config, found.dataset.catalogue, ignore)
    row = load_run(trained)[1]["shop-1"]
    with backbone.lora.bound(backbone.layout.views(row)):
        whole = backbone._body(input_ids=ids[0][None], output_hidden_states=True).hidden_states[2][0]
    assert torch.allclose(states, whole, atol=1e-5)


def test_only_clients_of_runs_that_send_states_are_audited(trained, finished):
    with pytest.raises(ConfigError, match="Did you mean 'shop-1'"):
        load_client(trained, "shop1")
    with pytest.raises(ConfigError, match="sends no hidden states"):
        load_client(finished.folder, "shop-1")
