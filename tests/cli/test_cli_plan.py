"""`pplr plan`: tables that fit a terminal, documents for programs, and mistakes in sentences."""

from __future__ import annotations

import json
import shutil

import pytest

import tiny
from pplr.audit.measured import Recovery

QUICK = ["--device-flops", "50GFLOPS"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder that has nothing but the config.json of a 7B-class decoder."""
    folder = tmp_path_factory.mktemp("large")
    tiny.transformers.LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory, workplace):
    """A configuration of a split decoder over the tiny data."""
    folder = tmp_path_factory.mktemp("split")
    for name in ("events.csv", "items.csv"):
        shutil.copy(workplace / name, folder)
    tiny.decoder("llama", num_hidden_layers=4).save_pretrained(folder / "llama")
    tiny.byte_tokenizer().save_pretrained(folder / "llama")
    (folder / "shop.toml").write_text(
        '[data]\nevents = "events.csv"\nitems = "items.csv"\n'
        '[backbone]\nkind = "generative"\nmodel = "./llama"\nprompt_tokens = 500\nhistory_items = 3\nbeams = 2\n'
        "[backbone.adapter]\nrank = 4\n[training]\nbatch_tokens = 900\n"
        '[placement]\nkind = "split"\nbottom = 1\ntop = 2\ncodec = "int8"\npieces = 3\nbucket = 8\n'
    )
    return folder / "shop.toml"


def test_a_model_without_weights_in_a_table_of_100_columns(cli, bare):
    done = cli("plan", "--model", bare, *QUICK, "--device-memory", "16GB", "--codec", "int8")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    table = [line.split() for line in lines if line.strip()[:2].strip().isdigit()]
    assert [int(row[0]) for row in table] == list(range(31))
    assert "6.74 B" in done.stdout
    assert {row[-1] for row in table} == {"yes", "no"}
    assert "Take k = " in done.stdout
    assert "…" not in done.stdout


def test_the_document_says_the_same_and_more(cli, bare):
    document = json.loads(cli("plan", "--model", bare, *QUICK, "--server-flops", "10TFLOPS", "--json").stdout)
    assert document["parameters"] == 6_738_415_616
    assert document["speeds"]["server"] == 1e13
    two = document["choices"][2]
    assert two["client"]["memory"]["weights"] == 4 * two["client"]["parameters"]
    assert two["client"]["parameters"] / document["parameters"] < 0.15
    assert two["step_bytes"]["total"] > 4 * 4096 * 4 * 300
    assert two["fits"] is None
    assert document["device_flops_measured"] is False
    assert two["step_seconds"]["total"] > two["step_seconds"]["wire"] > 0


def test_a_configuration_says_what_is_planned(cli, shop):
    document = json.loads(cli("plan", "--config", shop, *QUICK, "--json").stdout)
    assert (document["top"], document["codec"], document["bucket"]) == (2, "int8", 8)
    reading = document["reading"]
    assert (reading["batch_tokens"], reading["beams"], reading["pieces"]) == (900, 2, 3)
    assert 60 < reading["prompt"] < 300
    assert 0 < reading["common"] < reading["prompt"]
    assert 1 < reading["title"] < 32
    assert len(document["choices"]) == 2
    assert document["choices"][1]["client"]["memory"]["adapters"] == 24 * 3 * (4 * (16 + 16) + 4 * (16 + 8))
    other = json.loads(cli("plan", "--config", shop, *QUICK, "--codec", "float32", "--top", "1", "--json").stdout)
    assert (other["codec"], other["top"], len(other["choices"])) == ("float32", 1, 3)


def test_an_encoder_at_this_machines_own_speed(cli, workplace):
    document = json.loads(cli("plan", "--model", workplace / "model", "--json").stdout)
    assert [choice["bottom"] for choice in document["choices"]] == [0]
    assert document["device_flops_measured"] is True
    assert document["speeds"]["client"] > 1e8
    wide = cli("plan", "--model", workplace / "model", "--wide").stdout
    assert "histories of 100 tokens" in wide
    assert "MB down" in wide


def test_risk_stands_beside_cost(cli, bare, monkeypatch):
    found = {2: Recovery("inverter", 0.62, 0.31, 0.6)}
    monkeypatch.setattr("pplr.planning.plan.best_recovery", lambda model, bottom: found.get(bottom))
    text = cli("plan", "--model", bare, *QUICK, "--device-memory", "20GB").stdout
    row = next(line for line in text.splitlines() if line.split()[:1] == ["2"])
    assert row.split()[-3:-1] == ["62%", "31%"]
    assert max(map(len, text.splitlines())) <= 100
    document = json.loads(cli("plan", "--model", bare, *QUICK, "--json").stdout)
    assert document["choices"][2]["recovery"] == {"attack": "inverter", "tokens": 0.62, "titles": 0.31, "rouge_l": 0.6}
    assert document["choices"][3]["recovery"] is None


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 2, "Name a model with --model"),
        (["--model", "BARE", "--device-memory", "4 elephants"], 2, "'4 elephants' is no size of memory"),
        (["--model", "BARE", "--bandwidth", "fast"], 2, "'fast' is no bandwidth"),
        (["--model", "BARE", "--device-flops", "0"], 2, "'0' is no speed"),
        (["--model", "BARE", "--top", "32"], 2, "leave no layer for the server"),
        (["--model", "BARE", "--prompt-tokens", "10", "--common-tokens", "10"], 2, "cannot all begin with the same 10"),
        (["--model", "no-such-model"], 4, "no-such-model"),
        (["--config", "SHOP"], 2, "whose language model is never split"),
        (["--config", "SHOP", "--model", "BARE"], 2, "whose language model is never split"),
        (["--config", "SPLIT", "--model", "BERT"], 4, "text can only be generated by a decoder"),
    ],
)
def test_mistakes(cli, bare, shop, workplace, words, code, sentence):
    names = {"BARE": bare, "SHOP": workplace / "shop.toml", "SPLIT": shop, "BERT": workplace / "model"}
    done = cli("plan", *(names.get(word, word) for word in words))
    assert done.exit_code == code
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.output


def test_a_model_that_cannot_be_cut_is_named(cli, tmp_path):
    tiny.transformers.GPT2Config(architectures=["GPT2LMHeadModel"]).save_pretrained(tmp_path)
    done = cli("plan", "--model", tmp_path)
    assert done.exit_code == 4
    assert "type 'gpt2' cannot be split" in " ".join(done.stderr.split())
