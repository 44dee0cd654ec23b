"""Each benchmark runs on tiny data and writes the figures that the page is made of."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from benchmark_scripts import SCRIPTS, result_of
from pplr.data.dataset import Part
from pplr.models.hub import Kind
from pplr.models.hub.parts import load_parts
from pplr.models.hub.resolver import ModelFiles
from pplr.models.lora import AdapterSettings
from pplr.models.parts import Cut, Which
from pplr.planning import outline
from whole_runs import configuration


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.decoder("llama").save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    tiny.decoder("llama", num_hidden_layers=4).save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data_options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    data = tiny.dataset()
    events = [f"{user},{item},{at}" for user, row in enumerate(data.items) for at, item in enumerate(row)]
    items = [f"{item},{title} {item}" for item, title in enumerate(data.catalogue.titles)]
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,pos", *events]), encoding="utf-8")
    (folder / "items.csv").write_text("\n".join(["item_id,title", *items]), encoding="utf-8")
    return ["--events", str(folder / "events.csv"), "--items", str(folder / "items.csv")]


@pytest.mark.filterwarnings("ignore")  # of Trainer and PEFT
def test_training_throughput_compares_the_same_task(script, tmp_path, data_options, model_folder):
    pytest.importorskip("peft")
    small = ["--model", str(model_folder), "--examples", "12", "--batch", "3", "--repeats", "1"]
    result = result_of(script("training_throughput"), tmp_path / "r.json", *data_options, *small)
    assert result["loss_before"]["ours"] == pytest.approx(result["loss_before"]["theirs"], rel=1e-5)
    assert result["ours_examples_per_step"] >= 3
    ours, theirs = result["ours"]["seconds"]["median"], result["theirs"]["seconds"]["median"]
    assert result["ratio"] == pytest.approx(theirs / ours)


def test_useful_flops_are_those_of_a_closed_form(script):
    pytest.importorskip("peft")
    useful_flops = script("training_throughput").useful_flops
    attention = 16 * 16 * 2 + 16 * 8 * 2  # queries and output, keys and values
    linear = 2 * (attention + 3 * 16 * 24)
    total = useful_flops(tiny.decoder("llama"), np.array([3, 5]), logits=4)
    assert total == 4 * linear * 8 + 6 * (2 * 16) * 34 + 4 * (tiny.BYTES * 16) * 4


def test_a_plan_is_measured_on_a_client_a_server_and_the_whole(script, capsys, tmp_path, data_options, tiny_decoder):
    options = ["--model", str(tiny_decoder), "--examples", "6", "--users", "2", "--server-steps", "2", "--threads", "1"]
    options += [*data_options, "--output", str(tmp_path / "r.json"), "--batch-tokens", "400", "--worker"]
    found = {}
    for worker in ("whole", "client:1", "server:1"):
        script("plan_measured").main([*options, worker])
        found[worker] = json.loads(capsys.readouterr().out.splitlines()[-1])
    whole, client, server = found.values()
    assert 0 < client["weights_bytes"] < whole["weights_bytes"]
    assert client["steps"] == whole["steps"]
    sent = client["traffic"]["up"]
    assert sent["forward"]["frames"] == sent["backward"]["frames"] == sent["step"]["frames"] == client["steps"]
    assert client["step_bytes"] > 4 * 16 * 2 * client["tokens"] / client["steps"] / 2
    for process in found.values():
        assert process["peak_bytes"] >= 0.99 * process["loaded_bytes"] > 10**8  # Linux counts pages a little late
        assert process["step_seconds"] > 0
    assert server["tokens_per_step"] > 0


def test_a_sparse_model_is_planned_and_loaded_in_part(script, tmp_path):
    module = script("sparse_model")
    config = module.llama_7b()
    config.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "vocab_size": 500})
    config.update({"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16})
    module.SHARD_BYTES = 100_000
    total = module.write_sparse(config, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert sum(path.stat().st_blocks for path in tmp_path.glob("*.safetensors")) * 512 < total / 2
    parts = load_parts(ModelFiles("m", tmp_path, Kind.DECODER, ""), Cut(2), *Which, dtype=torch.bfloat16)
    sizes = [sum(p.nbytes for p in part.module.parameters()) for part in parts]
    assert sum(sizes) == total
    found = outline(tmp_path, Kind.DECODER, AdapterSettings())
    assert 2 * found.client_parameters(Cut(2)) == sizes[0] + sizes[2]


def test_aggregation_equals_the_bare_products(script, tmp_path):
    result = result_of(script("aggregation"), tmp_path / "r.json", "--clients", "20", "--parameters", "5000")
    assert max(result["largest_difference"].values()) < 1e-5
    assert set(result["seconds"]) == {"bare gram", "gram", "bare mix", "mix"}
    assert result["bank_bytes"] == 20 * 5000 * 4


def test_peak_memory_sees_what_was_freed(script):
    memory = script("peak_memory")
    memory.reset_peak()
    before = memory.resident_bytes()
    block = torch.ones(16 * 2**20)
    del block
    assert memory.peak_bytes() - before >= 50 * 2**20
    memory.reset_peak()
    assert memory.peak_bytes() - memory.resident_bytes() < 20 * 2**20


def test_memory_of_one_federation(script, capsys, tmp_path, data_options, model_folder):
    small = ["--model", str(model_folder), "--examples", "2", "--rounds", "1", "--output", str(tmp_path / "r.json")]
    script("memory").main([*data_options, *small, "--threads", "1", "--worker", "2"])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (
        printed["peak_bytes"] >= 0.99 * printed["loaded_bytes"] > printed["row_bytes"] > 0
    )  # pages count a little late


def test_engine_overhead_is_what_is_left(script, tmp_path, data_options, model_folder):
    models = ["--encoder", str(model_folder), "--decoder", str(model_folder)]
    small = ["--rounds", "1", "--generative-examples", "2"]
    result = result_of(script("engine_overhead"), tmp_path / "r.json", *data_options, *models, *small)
    for seconds in result["backbones"].values():
        parts = [seconds[name] for name in ("encode", "forward", "backward", "optimiser", "evaluation", "overhead")]
        assert sum(parts) == pytest.approx(seconds["total"])
        assert 0 < seconds["overhead_share"] < 1


def test_sequence_speed_learns_while_it_is_timed(script, tmp_path, data_options, model_folder):
    small = ["--model", str(model_folder), "--repeats", "2"]
    result = result_of(script("sequence_speed"), tmp_path / "r.json", *data_options, *small)
    events = sum(len(row) - 1 for row in tiny.dataset().training())
    assert result["events"] == events
    assert result["training_loss"][1] < result["training_loss"][0]
    assert result["flops_per_epoch"] > 6 * events * 30 * 128


def test_both_precisions_train_the_same_examples_by_turns(script, tmp_path, data_options, model_folder):
    small = ["--model", str(model_folder), "--repeats", "1", "--examples", "9"]
    result = result_of(script("precision"), tmp_path / "r.json", *data_options, *small)
    (run,) = result["runs"].values()
    for full, rounded in zip(*run["loss_of_each_epoch"].values(), strict=True):
        assert rounded != full
        assert rounded == pytest.approx(full, rel=0.01)
    assert run["times_as_fast"] == pytest.approx(
        run["seconds"]["float32"]["median"] / run["seconds"]["bfloat16"]["median"]
    )
    assert f"{run['loss_of_each_epoch']['bfloat16'][1]:.4f}" in script("report")._precision(result)


def test_what_a_catalogues_server_sends_is_counted_as_it_travels(script, tmp_path, data_options, model_folder):
    small = ["--model", str(model_folder), "--repeats", "1"]
    result = result_of(script("catalogue_vectors"), tmp_path / "r.json", *data_options, *small)
    assert result["vectors"]["bytes"] == result["gradient"]["bytes"] == result["items"] * result["width"] * 4
    for part in ("vectors", "gradient", "adapters"):
        assert 0 < result[part]["packed_bytes"] < 1.2 * result[part]["bytes"]
    assert "items of" in script("report")._catalogue_vectors(result)


@pytest.mark.filterwarnings("ignore")  # of generate
def test_beam_search_is_compared_on_equal_results(script, tmp_path, data_options, model_folder):
    module = script("beam_search")
    small = ["--model", str(model_folder), "--users", "3", "--batch", "2", "--beams", "2", "--repeats", "1"]
    result = result_of(module, tmp_path / "r.json", *data_options, *small)
    assert [run["users"] for run in result["runs"]] == [2, 1]
    seconds = [(run["transformers_seconds"], run["pplr_seconds"]) for run in result["runs"]]
    assert result["ratio"] == pytest.approx(sum(theirs / ours for theirs, ours in seconds) / 2)


def test_beam_search_refuses_unequal_results(script):
    module = script("beam_search")
    one = torch.ones(1, 1, 2, dtype=torch.long)
    length, zero = torch.full((1, 1), 2), torch.zeros(1, 1)
    found = module.Beams(tokens=one, lengths=length, log_probs=zero, scores=zero, leaves=one[..., 0])
    with pytest.raises(SystemExit, match="differ"):
        module._check_equal(found, one, torch.full((1, 1), 0.1))
    module._check_equal(found, one, torch.zeros(1, 1))


def test_hidden_states_are_measured_once_per_k(script, tmp_path, data_options, model_folder):
    module, table = script("hidden_states"), tmp_path / "measured.json"
    small = ["--model", str(model_folder), "--histories", "6", "--public", "20", "--measured", str(table)]
    result_of(module, tmp_path / "r.json", *data_options, *small, "--k", "0")
    text = (tmp_path / "r.json").read_text(encoding="utf-8").replace(str(model_folder), "toy")
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    module.main([*data_options, *small, "--output", str(tmp_path / "r.json"), "--threads", "1", "--k", "0"])
    runs = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["runs"]
    assert len(runs) == 2, "the model of another name was not measured yet"
    for name in ("figures", "best", "public_tokens"):
        assert runs[0][name] == runs[1][name]
    best = json.loads(table.read_text(encoding="utf-8"))["toy"]["0"]
    assert best["titles"] == pytest.approx(max(f["titles"]["value"] for f in runs[0]["figures"].values()), abs=1e-4)


def test_hidden_states_behind_more_layers_are_those_of_a_fresh_start(script, tmp_path, data_options):
    module = script("hidden_states")
    tiny.decoder("llama", num_hidden_layers=4).save_pretrained(tmp_path / "toy")
    tiny.byte_tokenizer().save_pretrained(tmp_path / "toy")
    small = ["--model", str(tmp_path / "toy"), "--histories", "6", "--public", "20", "--threads", "1"]
    small += ["--measured", str(tmp_path / "m.json"), *data_options]
    module.main([*small, "--k", "1", "--k", "2", "--output", str(tmp_path / "both.json")])
    module.main([*small, "--k", "2", "--output", str(tmp_path / "one.json")])
    both, one = (json.loads((tmp_path / name).read_text())["runs"] for name in ("both.json", "one.json"))
    assert [run["bottom"] for run in both] == [1, 2]
    assert both[1]["figures"]["nearest token"] == one[0]["figures"]["nearest token"]


def test_all_benchmarks_that_are_run_together_exist(script):
    plan = script("run_all").planned(Path("games"), Path("runs"), slow=True)
    assert all((SCRIPTS / f"{name}.py").is_file() for name in plan)
    assert set(script("report").SECTIONS) <= set(plan)


def test_the_page_has_what_was_measured_and_says_what_was_not(script, tmp_path):
    result_of(script("aggregation"), tmp_path / "aggregation.json", "--clients", "3", "--parameters", "50")
    script("report").main(["--results", str(tmp_path), "--page", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "3 clients of 50 parameters" in text
    assert "Not measured yet: `benchmarks/memory.py`" in text
    assert ("met" in text) or ("missed" in text)


def test_benchmarks_leave_no_modules_that_shadow_others():
    assert not {path.stem for path in SCRIPTS.glob("*.py")} & set(sys.stdlib_module_names)


def test_strategies_are_compared_by_their_best_validation(script, tmp_path, files, monkeypatch):
    module = script("strategies_demo")
    monkeypatch.setattr(module, "demo_config", lambda *_, **__: configuration(files))
    options = ["--work", str(tmp_path / "runs"), "--rounds", "2", "--only", "local", "robust median"]
    result = result_of(module, tmp_path / "r.json", *options)
    for one in result["runs"]:
        assert one["worst"] == min(one["clients"].values())
        assert one["overall"] >= max(one["by_round"]) - 1e-12, "each client keeps the row that was best for itself"
    assert [one["strategy"]["kind"] for one in result["runs"]] == ["local", "robust"]
    assert result_of(module, tmp_path / "again.json", *options)["runs"] == result["runs"], "nothing is trained twice"


def test_a_soak_counts_kills_and_finds_no_wrong_row(script, tmp_path):
    small = ["--clients", "4", "--active", "2", "--hosts", "1", "--examples", "8", "--width", "32", "--layers", "4"]
    module = script("trunk_soak")
    result = result_of(module, tmp_path / "r.json", *small, "--seconds", "6", "--kill-every", "3", "--warm-up", "1")
    assert result["kills"] >= 1
    assert result["rounds"] >= 1
    assert result["rows_compared"] == 4 * result["rounds"]
    assert (result["wrong_rows"], result["stuck_streams"]) == (0, 0)
    assert result["memory"]["curve"][-1]["sessions"] > 0
    assert "0 wrong" in script("trunk_sections").soak(result)


def test_a_fuzz_gets_an_error_for_each_frame_and_each_session(script, tmp_path):
    small = ["--parsed", "2000", "--sessions", "200", "--clients", "3"]
    result = result_of(script("trunk_fuzz"), tmp_path / "r.json", *small)
    assert result["frames"] == 2200
    assert result["server"]["unexpected"] == []
    assert result["server"]["server_alive"]
    assert result["server"]["well_behaved"]["row_off_by"] < 1e-3
    for part in ("parser", "server"):
        assert sum(result[part]["ways"].values()) == result[part]["refused"]
    assert result["parser"]["most_bytes_allocated"] < result["parser"]["frame_bytes_allowed"]
    assert result["server"]["memory_growth_bytes"] < result["server"]["memory_allowed_bytes"]
    assert "2,200 wrong frames" in script("trunk_sections").fuzz(result)


def test_baselines_and_references_are_measured_with_the_clients_of_each_seed(
    script, data_options, tmp_path, monkeypatch
):
    output = tmp_path / "references.json"
    for name in ("one", "two"):
        words = ["references.py", *data_options, "--name", name, "--seeds", "1", "2", "--output", str(output)]
        monkeypatch.setattr(sys, "argv", words)
        script("references").main()
    data = json.loads(output.read_text())["data"]
    assert list(data) == ["one, leave-one-out", "two, leave-one-out"]
    for figures in data["two, leave-one-out"]["seeds"].values():
        assert {"popularity", "transitions", "item_knn", "federated_mf"} <= set(figures)
        assert figures["federated_mf"]["worst_client"] == min(figures["federated_mf"]["clients"].values())


def test_what_sasrec_is_given_holds_no_target_and_its_vectors_rank_by_dot_product(script, tmp_path):
    sasrec, data = script("sasrec"), tiny.dataset()
    sasrec.export(data, tmp_path / "split.npz")
    split = np.load(tmp_path / "split.npz")
    queries, items = data.queries(Part.TEST), len(data.catalogue)
    assert set(split) == {
        f"{part}_{what}" for part in ("training", "validation", "test") for what in ("items", "offsets")
    }
    np.testing.assert_array_equal(split["test_items"], queries.histories.values)
    assert len(split["training_items"]) == len(split["test_items"]) - len(queries)  # the test's history has validation
    rng = np.random.default_rng(0)
    known = np.arange(0, items, 2)
    rows = np.arange(1, len(queries))  # the first history had no known item
    arrays = {"test_rows": rows, "test_vectors": rng.normal(size=(len(rows), 3)).astype(np.float32)}
    arrays |= {"items": known, "item_vectors": rng.normal(size=(len(known), 3)).astype(np.float32)}
    order = rng.permutation(len(queries))
    scores = sasrec.DotProducts(queries, arrays, "test", items).scores(queries.select(order)).numpy()[np.argsort(order)]
    np.testing.assert_allclose(scores[1:][:, known], arrays["test_vectors"] @ arrays["item_vectors"].T, rtol=1e-5)
    others = np.setdiff1d(np.arange(items), known)
    assert (scores[:, others].max(axis=1) < scores[:, known].min(axis=1)).all()
    assert len(np.unique(scores[0, known])) == 1
