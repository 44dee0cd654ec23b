"""Comparing runs: the estimates are plain means, the intervals behave, and runs that cannot be compared are refused."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from scipy import stats

from pplr.errors import ConfigError, RunError
from pplr.report.comparison import Variant, compare_runs, compare_variants
from pplr.report.comparison_figures import comparison_figures
from pplr.report.comparison_text import markdown


def test_estimates_are_means_and_intervals_agree_with_the_paired_t_interval(build_run):
    one, two = build_run("one", name="one"), build_run("two", name="two", quality=0.2, seed=2)
    comparison = compare_runs([one, two], samples=1000)
    a, b = (pl.read_parquet(folder / "per_user.parquet").sort("user") for folder in (one, two))
    first, second = comparison.runs
    gain = (b["ndcg@10"] - a["ndcg@10"]).to_numpy()
    assert second.overall == pytest.approx(b["ndcg@10"].mean())
    assert second.difference.estimate == pytest.approx(gain.mean())
    reference = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain))
    assert [second.difference.low, second.difference.high] == pytest.approx(reference, abs=0.1 * np.ptp(reference))
    by_client = b.group_by("client").agg(pl.col("ndcg@10").mean()).sort("ndcg@10")
    assert second.balance.worst == pytest.approx(by_client["ndcg@10"][0])
    assert second.balance.worst_client == by_client["client"][0]
    assert second.balance.std == pytest.approx(by_client["ndcg@10"].std(ddof=0))
    worst_before = a.group_by("client").agg(pl.col("ndcg@10").mean())["ndcg@10"].min()
    assert second.worst_difference.estimate == pytest.approx(by_client["ndcg@10"][0] - worst_before)
    assert first.difference is None
    assert comparison.notes == ()


def test_runs_that_were_asked_other_questions_are_refused(build_run):
    """The same users and the same counts, but other held-out items: as after a new export of the same shop."""
    folders = [build_run(name) for name in ("one", "two", "three")]
    for folder, digest in zip(folders[:2], ("a", "b"), strict=True):
        (folder / "run.json").write_text(json.dumps({"version": 1, "made_from": {"held-out events": digest}}))
    compare_runs([folders[0], folders[2]], samples=10)  # nothing is known of one of them
    with pytest.raises(RunError, match="measured on different held-out events"):
        compare_runs(folders, samples=10)


def test_a_run_does_not_differ_from_itself(build_run):
    folder = build_run()
    twin = compare_runs([folder, folder], samples=50).runs[1]
    assert (twin.difference.low, twin.difference.high, twin.difference.clear) == (0.0, 0.0, False)
    assert twin.label == "movies-pplr (run)"


def test_runs_of_one_name_are_told_apart_by_as_much_of_their_folders_as_it_takes(build_run):
    folders = [build_run("monday/shop"), build_run("tuesday/shop"), build_run("tuesday/other")]
    labels = [run.label for run in compare_runs(folders, samples=10).runs]
    assert labels == [f"movies-pplr ({name})" for name in ("monday/shop", "tuesday/shop", "tuesday/other")]


def test_the_order_of_rows_in_the_file_does_not_matter(build_run):
    one, two = build_run("one"), build_run("two", seed=2)
    before = compare_runs([one, two], samples=100).as_dict()
    table = pl.read_parquet(two / "per_user.parquet")
    table.sample(fraction=1.0, shuffle=True, seed=3).write_parquet(two / "per_user.parquet")
    assert compare_runs([one, two], samples=100).as_dict() == before


def test_json_and_markdown_tell_the_same(build_run):
    comparison = compare_runs([build_run("a", name="a|b"), build_run("b", name="c", quality=0.25)], samples=100)
    content = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
    second = content["runs"][1]
    assert second["difference"]["estimate"] == pytest.approx(second["overall"] - content["runs"][0]["overall"])
    lines = markdown(comparison).splitlines()
    assert lines[2].startswith("| a\\|b | pplr | 1 |")
    assert f"**{second['difference']['estimate']:+.4f} [" in lines[3]
    assert len({line.replace("\\|", "").count("|") for line in lines[:4]}) == 1


def test_other_clients_leave_out_the_worst_client(build_run):
    comparison = compare_runs([build_run("a", clients=5), build_run("b", clients=3)], samples=50)
    assert comparison.runs[1].worst_difference is None
    assert comparison.runs[1].balance is None
    assert comparison.runs[1].difference is not None
    assert "different clients" in comparison.notes[0]
    assert "different clients" in markdown(comparison)
    json.dumps(comparison.as_dict(), allow_nan=False)


def test_where_seeds_have_other_clients_their_places_are_drawn(build_run):
    names = ["a", "b", "c"]
    groups = {1: names, 2: [names[2], names[0], names[1]]}
    folders = {
        (label, seed): build_run(f"{label}-{seed}", seed=seed, client_names=groups[seed], quality=quality)
        for label, quality in (("one", 0.1), ("two", 0.2))
        for seed in groups
    }
    variants = [Variant(label, (folders[label, 1], folders[label, 2])) for label in ("one", "two")]
    comparison = compare_variants(variants, samples=10)
    assert [dict(run.clients) for run in comparison.runs] == [{}, {}]
    figures = comparison_figures(comparison)
    assert "NDCG@10 by client" not in figures
    bars = figures["NDCG@10 of clients, from the worst to the best"]["data"]
    for trace, label in zip(bars, ("one", "two"), strict=True):
        rising = [
            pl.read_parquet(folders[label, seed] / "per_user.parquet")
            .group_by("client")
            .agg(pl.col("ndcg@10").mean())["ndcg@10"]
            .sort()
            for seed in groups
        ]
        assert trace["x"] == ["worst", "no. 2", "best"]
        assert trace["y"] == pytest.approx([(one + two) / 2 for one, two in zip(*rising, strict=True)])
    alone = [Variant(label, (folders[label, 1],)) for label in ("one", "two")]
    assert comparison_figures(compare_variants(alone, samples=10))["NDCG@10 by client"]["data"][0]["x"] == names


def test_users_without_a_value_are_left_out_of_both(build_run):
    one, two = build_run("one"), build_run("two", seed=2)
    table = pl.read_parquet(one / "per_user.parquet")
    missing = table.with_columns(
        pl.when(pl.col("user") == "10003").then(None).otherwise(pl.col("ndcg@10")).alias("ndcg@10")
    )
    missing.write_parquet(one / "per_user.parquet")
    comparison = compare_runs([one, two], samples=50)
    assert [run.users for run in comparison.runs] == [599, 600]
    assert comparison.runs[1].difference.users == 599


def test_different_users_are_refused(build_run):
    one, two = build_run("one", users=600), build_run("two", users=500)
    with pytest.raises(RunError, match="different users: 600 and 500, 500 of them in both"):
        compare_runs([one, two])


def test_different_data_is_refused(build_run):
    one, two = build_run("one"), build_run("two")
    content = json.loads((two / "metrics.json").read_text())
    content["data"]["items"] = 99
    (two / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"different data \(items: 2414 and 99\)"):
        compare_runs([one, two])


def test_an_unknown_metric_names_the_nearest(build_run):
    folder = build_run()
    with pytest.raises(RunError, match=r"no metric 'ndgc@10'\. Choose from .*Did you mean 'ndcg@10'\?"):
        compare_runs([folder, folder], metric="ndgc@10")


def test_settings_that_make_no_sense(build_run):
    folder = build_run()
    with pytest.raises(ConfigError, match="at least two"):
        compare_runs([folder])
    with pytest.raises(ConfigError, match="1 or more samples"):
        compare_runs([folder, folder], samples=0)
