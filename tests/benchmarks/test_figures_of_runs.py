"""Scripts that measure finished runs, and the pages that are made of their figures."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

import pplr
import tiny
from benchmark_scripts import result_of
from pplr.data.dataset import Part
from pplr.errors import PplrError
from pplr.federation.strategies import Local, Pplr, Robust
from pplr.models.backbone import CatalogueScorer
from pplr.models.grounding import Written
from whole_runs import configuration, copied


def test_buckets_of_a_run_are_parts_of_what_it_has_measured(script, tmp_path, files, monkeypatch):
    events = (files / "events.csv").read_text(encoding="utf-8").splitlines()
    last = {line.split(",")[0]: number for number, line in enumerate(events[1:], start=1)}  # of each user
    for number in list(last.values())[:7]:
        user, _, *rest = events[number].split(",")
        events[number] = ",".join([user, "new-item", *rest])
    (tmp_path / "events.csv").write_text("\n".join(events), encoding="utf-8")
    items = (files / "items.csv").read_text(encoding="utf-8")
    (tmp_path / "items.csv").write_text(f"{items.rstrip()}\nnew-item,The New One,drama\n", encoding="utf-8")
    data = {"columns": {"silo": "silo"}} | {name: str(tmp_path / f"{name}.csv") for name in ("events", "items")}
    config = configuration(
        files,
        data=data,
        federation={"rounds": 1},
        fusion={"statistics": ["popularity", "transitions"]},
        evaluation={"max_users": 15},
    )
    metrics = pplr.run(config, tmp_path / "run").metrics
    output = tmp_path / "buckets.json"
    monkeypatch.setattr(sys, "argv", ["buckets.py", str(tmp_path / "run"), "--output", str(output)])
    script("buckets").main()
    entry = json.loads(output.read_text(encoding="utf-8"))["runs"]["run"]
    found = entry["buckets"]
    for name, key in (("run", "overall"), ("popularity", None)):
        expected = metrics[key] if key else metrics["baselines"][name]["overall"]
        for parts in (("all",), [bucket for bucket in found if bucket.startswith("histories")]):
            users = sum(found[bucket][name]["users"] for bucket in parts)
            total = sum(found[bucket][name]["users"] * found[bucket][name].get("ndcg@10", 0) for bucket in parts)
            assert users == metrics["overall"]["users"]
            assert total / users == pytest.approx(expected["ndcg@10"])
    new, known = (found[name]["run"]["users"] for name in ("new items", "known items"))
    assert new + known == users == 45
    assert 0 < new <= 7
    assert found["new items"]["popularity"]["recall@10"] == 0
    assert entry["share_of_targets_that_are_new"] == pytest.approx(7 / 60)
    events[3] = events[4]
    (tmp_path / "events.csv").write_text("\n".join(events), encoding="utf-8")
    with pytest.raises(PplrError, match="have changed since"):
        script("buckets").main()


def test_split_costs_are_those_of_the_same_training_whole_and_split(script, files, tmp_path, monkeypatch):
    module = script("split_costs")
    ours = module.configuration

    def small(options, choice):
        return configuration(
            files,
            "encoder",
            clients={"kind": "random", "count": 5},
            federation={"rounds": 1},
            training={"batch_tokens": 300, "max_examples": 25, "learning_rate": options.rounds / 1000},
            evaluation={"max_users": 4, "baselines": False, "examples": 0},
            placement=ours(options, choice).placement.model_dump(exclude_none=True),
        )

    monkeypatch.setattr(module, "configuration", small)
    given = ["--work", str(tmp_path / "runs"), "--ks", "0", "--codecs", "float32", "int8"]
    result = result_of(module, tmp_path / "r.json", *given)
    exact, rounded = result["choices"]
    assert [exact["codec"], rounded["codec"]] == ["float32", "int8"]
    assert exact["ndcg@10"] == pytest.approx(result["whole"]["ndcg@10"])
    assert exact["relative_difference"] == pytest.approx(0, abs=1e-9)
    assert 2 < exact["gigabytes"] / rounded["gigabytes"] < 4.2
    for one in (result["whole"], exact, rounded):
        assert 0 < one["memory_before_bytes"] <= one["peak_memory_bytes"]
    page = script("trunk_sections").costs(result)
    assert f"| 0 | int8 | {rounded['ndcg@10']:.4f} |" in page
    assert result_of(module, tmp_path / "again.json", *given)["choices"] == result["choices"], "nothing is run twice"
    with pytest.raises(SystemExit, match="has another configuration"):
        module.main([*given, "--output", str(tmp_path / "other.json"), "--rounds", "5"])


@pytest.mark.parametrize("grounding", ["catalogue", "embedding"])
def test_grounding_measures_a_run_as_the_run_measured_itself(script, files, tmp_path, monkeypatch, grounding):
    backbone = {"kind": "generative", "model": str(files / "llama"), "title_tokens": 30, "prompt_tokens": 500}
    config = configuration(
        files,
        backbone=backbone | {"grounding": grounding, "beams": 3},
        training={"batch_tokens": 600, "max_examples": 30},
        federation={"rounds": 1},
        evaluation={"max_users": 4, "baselines": False},
    )
    metrics = pplr.run(config, tmp_path / "run").metrics
    output = tmp_path / "grounding.json"
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "run"), "--beams", "1", "3", "--output", str(output)])
    script("grounding").main()
    states = json.loads(output.read_text(encoding="utf-8"))["runs"]["run"]["states"]
    ways = {(way["grounding"], way["beams"]): way for way in states["trained"]["grounding"]}
    assert set(ways) == {(kind, width) for kind in ("embedding", "catalogue") for width in (1, 3)}
    for key in ("recall@10", "ndcg@10"):
        assert ways[grounding, 3][key] == pytest.approx(metrics["overall"][key])
    writing = states["pretrained"]["writing"]
    assert writing["users"] == 12
    assert writing["best_is_title"] == writing["best_in_history"] == 0, "random letters are no titles"


def test_texts_that_are_titles_are_told_from_others(script, files, tmp_path, monkeypatch):
    module = script("grounding")
    backbone = {"kind": "generative", "model": str(files / "llama"), "title_tokens": 30, "prompt_tokens": 500}
    config = configuration(
        files, backbone=backbone | {"beams": 2}, federation={"rounds": 1}, evaluation={"max_users": 2}
    )
    pplr.run(config, tmp_path / "run")
    parts, rows = pplr.runner.open_run(tmp_path / "run")
    titles = parts.dataset.catalogue.titles
    spoken = iter([batch.histories for _, _, batch in module.asked(parts, parts.backbone, rows)])

    def texts(_, beams):
        """Of the two users of a client the first gets nonsense and a title, the second two titles of its history."""
        first, second = next(spoken)  # the batches of `asked`, in their order
        return [
            Written(("nonsense", titles[first[0]]), (0, 0)),
            Written((titles[second[0]], titles[second[-1]]), (0, 0)),
        ]

    def distances(scorer, beams, beam=0):
        """The second beam is nearest to the first one's item for the first user, to another item for the second."""
        return -torch.tensor([[0.0, 1, 2], [1, 0, 2] if beam else [0, 1, 2]])

    monkeypatch.setattr(module, "written_texts", texts)
    monkeypatch.setattr(module.EmbeddingGrounding, "grounded", distances)
    found = module.written(parts, parts.backbone, rows)
    assert found["users"] == 6
    assert found["best_is_title"] == found["best_in_history"] == pytest.approx(3 / 6)
    assert found["is_title"] == pytest.approx(9 / 12)
    assert found["duplicate"] == pytest.approx(3 / 6)
    assert found["distinct_best"] == len({"nonsense", *(titles[rows[0]] for rows in seconds(module, parts, rows))})


def seconds(module, parts, rows):
    """The histories of the second users."""
    return [batch.histories[1] for _, _, batch in module.asked(parts, parts.backbone, rows)]


def test_the_page_of_grounding_holds_what_was_measured(script):
    way = {"users": 4, "recall@10": 0.25, "ndcg@10": 0.125, "distinct_first": 3}
    ways = [
        {**way, "grounding": "embedding", "beams": 1, "seconds_per_user": 3.0},
        {**way, "grounding": "catalogue", "beams": 10, "seconds_per_user": 2.0},
    ]
    writing = {"users": 4, "beams": 4, "best_is_title": 0.5, "best_in_history": 0.25, "is_title": 0.375}
    writing |= {"duplicate": 0.125, "distinct_best": 3}
    result = {"runs": {"run": {"states": {"trained": {"writing": writing, "grounding": ways}}}}}
    lines = script("study_pages").grounding(result).splitlines()
    assert lines[0] == "4 users."
    assert "| trained | embedding | 1 | 0.2500 | 0.1250 | 3 | 3.00 (1.5) |" in lines
    assert "| trained | 50.0% | 37.5% | 25.0% | 12.5% | 3 |" in lines


def test_mixing_in_place_is_the_matrix_of_a_loop_that_overwrites(script, files, tmp_path, monkeypatch):
    module = script("in_place")
    rng = np.random.default_rng(0)
    matrix, rows = rng.random((4, 4)), rng.random((4, 7))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        overwritten = rows.copy()
        for client in order:
            overwritten[client] = sum(matrix[client, other] * overwritten[other] for other in range(4))
        np.testing.assert_allclose(module.in_place(matrix, order) @ rows, overwritten)
    monkeypatch.setattr(module, "parse_config", lambda values, _: configuration(files, **SHORT))
    result = result_of(module, tmp_path / "r.json", "--work", str(tmp_path / "runs"))
    runs = {name: run["own_weight"] for name, run in result["runs"].items()}
    assert runs["forwards, seed 1"]["shop-0"] == runs["neither, seed 1"]["shop-0"], "the first one mixes with old rows"
    assert runs["forwards, seed 1"]["shop-2"] > runs["neither, seed 1"]["shop-2"]
    assert runs["backwards, seed 1"]["shop-0"] > runs["neither, seed 1"]["shop-0"]


SHORT = {"federation": {"rounds": 1}, "evaluation": {"baselines": False}}


def test_labels_of_runs_say_what_is_not_the_default(script):
    label = script("fusion").label
    assert label(Pplr(), "kept", "known") == "pplr"
    assert label(Pplr(items="mean", similarity="parameters"), "fresh", "catalogue") == (
        "pplr, similarity of parameters, items averaged, moments fresh, whole catalogue"
    )
    assert label(Pplr(tau=0.5), "kept", None) == "pplr, tau 0.5"
    assert label(Local(), "kept", "catalogue") == "local"
    assert label(Local(), "kept", "own") == "local, own items"
    assert label(Robust(), "kept", None) == "robust"
    assert label(Robust(method="trimmed_mean"), "kept", None) != label(Robust(), "kept", None)


def test_references_are_means_over_seeds_and_what_was_not_measured_is_not_called_impossible(script):
    page = script("fusion_page")
    figures = {"overall": {"ndcg@10": 0.2}, "worst_client": 0.1}
    references = {
        "shop, leave-one-out": {"seeds": {"1": {"recent": figures}, "2": {"recent": figures | {"worst_client": 0.3}}}},
        "other, leave-one-out": {"seeds": {"1": {"transitions": figures}}},
    }
    found = page._references("shop, leave-one-out", references, {})
    assert page._both(found["recent popularity"], None) == "0.2000 / 0.2000"
    assert page._missing("recent popularity", "other, leave-one-out", references) == "no times"
    assert page._missing("recent popularity", "third, leave-one-out", references) == "not measured"
    assert page._missing("SASRec", "other, leave-one-out", references) == "not measured"
    runs = [{"stopped": {"round": 16, "best_round": best}} for best in (9, 16)]
    assert page._rounds(runs) == "16 (best: 9 to 16)"


def test_two_models_of_a_client_are_mixed_by_its_validation_users_and_only_with_the_same_clients(
    script, files, tmp_path
):
    runs = {}
    for name, changes in {
        "one": {},
        "other": {"strategy": {"kind": "fedavg"}},
        "others": {"clients": {"kind": "random", "count": 3}},
    }.items():
        runs[name] = pplr.run(configuration(files, **{**SHORT, **changes}), tmp_path / name)
    module, output = script("late_fusion"), tmp_path / "r.json"
    given = ["--name", "pair", "--output", str(output)]
    module.main([str(tmp_path / "one"), str(tmp_path / "other"), *given])
    found = json.loads(output.read_text(encoding="utf-8"))["pairs"]["pair"]
    for name, run in (("first", "one"), ("second", "other")):
        assert found[name]["overall"]["ndcg@10"] == pytest.approx(runs[run].metrics["overall"]["ndcg@10"])
        assert found[name]["worst_client"] == pytest.approx(runs[run].metrics["balance"]["ndcg@10"]["worst"])
    assert set(found["weights"]) == set(runs["one"].metrics["clients"])
    gain = found["mixed_minus"]["first"]["overall"]
    assert gain["first"] - gain["second"] == pytest.approx(
        found["mixed"]["overall"]["ndcg@10"] - found["first"]["overall"]["ndcg@10"]
    )
    assert "all" not in found
    with pytest.raises(SystemExit, match="have other clients"):
        module.main([str(tmp_path / "one"), str(tmp_path / "others"), *given])


def test_two_models_beside_counts_are_what_fusion_makes_of_the_first_and_its_counts(script, files, tmp_path):
    statistics = ["popularity", "recent", "transitions", "item_knn"]
    catalogue = {**SHORT, "backbone": {**configuration(files).backbone.model_dump(), "contrast": "catalogue"}}
    fused = pplr.run(configuration(files, **catalogue, fusion={"statistics": statistics}), tmp_path / "one")
    pplr.run(configuration(files, **catalogue, strategy={"kind": "fedavg"}), tmp_path / "other")
    module, output = script("late_fusion"), tmp_path / "r.json"
    runs = [str(tmp_path / "one"), str(tmp_path / "other")]
    module.main([*runs, "--counts", "--name", "pair", "--output", str(output)])
    found = json.loads(output.read_text(encoding="utf-8"))["pairs"]["pair"]
    assert found["counted"]["overall"]["ndcg@10"] == pytest.approx(fused.metrics["overall"]["ndcg@10"])
    assert found["counted"]["overall"] != found["first"]["overall"]
    for client, weights in found["weights_with_counts"]["counted"].items():
        learned = fused.metrics["clients"][client]["fusion"]["weights"]
        assert weights["first"] == pytest.approx(learned["model"], abs=1e-3)
        assert [weights[name] for name in statistics] == pytest.approx([learned[name] for name in statistics], abs=1e-3)
    assert set(found["all_minus"]) == {"counted", "mixed"}
    for weights in found["weights_with_counts"]["all"].values():
        assert list(weights) == ["first", "second", *statistics]


def test_two_models_beside_counts_of_data_without_times(script, files, tmp_path):
    data = copied(files, tmp_path / "data")
    pl.read_csv(data / "events.csv").sort("time").drop("time").write_csv(data / "events.csv")
    for name, strategy in {"one": "pplr", "other": "fedavg"}.items():
        pplr.run(configuration(data, **SHORT, strategy={"kind": strategy}), tmp_path / name)
    module, output = script("late_fusion"), tmp_path / "r.json"
    runs = [str(tmp_path / "one"), str(tmp_path / "other")]
    module.main([*runs, "--counts", "--name", "pair", "--output", str(output)])
    found = json.loads(output.read_text(encoding="utf-8"))["pairs"]["pair"]
    assert all("recent" not in weights for weights in found["weights_with_counts"]["all"].values())


def test_of_two_models_the_one_that_knows_gets_the_weight(script):
    module, data = script("late_fusion"), tiny.dataset()
    queries, items = data.queries(Part.VALIDATION), len(data.catalogue)
    parts = SimpleNamespace(dataset=data, config=SimpleNamespace(evaluation=SimpleNamespace(mask_history=True)))
    targets = dict(zip(queries.users.tolist(), [row[0] for row in queries.targets], strict=True))

    class Knows(CatalogueScorer):
        def scores(self, asked, wanted=0):
            rows = torch.zeros(len(asked), items)
            for place, user in enumerate(asked.users.tolist()):
                rows[place, targets[user]] = 3.0
            return rows

    class Guesses(CatalogueScorer):
        def scores(self, asked, wanted=0):
            return torch.rand(len(asked), items, generator=torch.Generator().manual_seed(len(asked)))

    client = SimpleNamespace(users=np.arange(len(data.user_ids)), queries=lambda part: queries)

    def learned(first: CatalogueScorer, second: CatalogueScorer) -> dict[str, float]:
        return module.mixes(parts, client, first, second, counts=False)[1]["mixed"]

    weights = learned(first=Guesses(), second=Knows())
    assert weights["second"] > 2 * weights["first"]
    assert learned(first=Knows(), second=Guesses())["second"] < 0.3
    beside = module.mixes(parts, client, Guesses(), Knows(), counts=True)[1]
    assert beside["all"]["second"] > 2 * beside["all"]["first"]
    assert "second" not in beside["counted"]
    assert learned(first=Knows(), second=Knows()) == {"first": 1.0, "second": 0.0}, "the mix ranks no better"
