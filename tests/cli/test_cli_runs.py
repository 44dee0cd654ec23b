import json
import math

import pytest


def test_run_shows_a_line_per_client_and_round_and_the_tables(finished):
    out, stdout, stderr = finished
    metrics = json.loads((out / "metrics.json").read_text())
    assert sum(line.startswith("Round 1 of 1, client-") for line in stderr.splitlines()) == 2
    assert sum(line.startswith("Round 1 of 1: validation NDCG@10") for line in stderr.splitlines()) == 1
    assert f"Report: {out / 'report.html'}" in stderr
    assert "Report" not in stdout
    for name, client in metrics["clients"].items():
        row = next(line.split() for line in stdout.splitlines() if line.split()[:1] == [name])
        assert row[1] == str(client["users"])
        assert f"{client['ndcg@10']:.4f}" in row
        assert f"{metrics['baselines']['popularity']['clients'][name]['ndcg@10']:.4f}" in row
    this = next(line.split() for line in stdout.splitlines() if line.strip().startswith("this run (pplr)"))
    spread = metrics["balance"]["ndcg@10"]
    assert this[3:6] == [
        f"{x:.4f}" for x in (metrics["overall"]["recall@10"], metrics["overall"]["ndcg@10"], spread["worst"])
    ]
    assert f"Worst client: {spread['worst_client']}" in stdout


def test_an_occupied_folder_is_left_alone(cli, workplace, finished):
    before = (finished[0] / "metrics.json").read_bytes()
    done = cli("run", workplace / "shop.toml", "--out", finished[0])
    assert done.exit_code == 5
    assert "--resume" in done.stderr
    assert "--overwrite" in done.stderr
    assert (finished[0] / "metrics.json").read_bytes() == before


def test_run_with_json_is_json_and_quiet_is_quiet(cli, workplace):
    out = workplace / "second"
    done = cli(
        "run", workplace / "shop.toml", "--out", out, "--set", "seed=2", "--set", "strategy.kind=fedavg", "-q", "--json"
    )  # fmt: skip
    assert (done.exit_code, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result.pop("folder") == str(out)
    assert result == json.loads((out / "metrics.json").read_text())
    assert (result["seed"], result["strategy"]["kind"]) == (2, "fedavg")


def test_evaluate_measures_the_same_again(cli, finished):
    done = cli("evaluate", finished[0], "--quiet", "--json")
    assert done.exit_code == 0
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    again = json.loads(done.stdout)
    assert again["overall"] == pytest.approx(metrics["overall"], rel=1e-6)
    assert "this run (pplr)" in cli("evaluate", finished[0], "--quiet").stdout


def test_a_user_of_the_data_needs_no_client(cli, finished):
    out = finished[0]
    example = json.loads((out / "examples.json").read_text())[-1]
    words = ("--user", example["user"], "-k", 3, "--quiet", "--json")
    named = cli("recommend", out, "--client", example["client"], *words)
    assert cli("recommend", out, *words).stdout == named.stdout
    assert json.loads(named.stdout)["client"] == example["client"]
    assert cli("recommend", out, "--user", "nobody", "--quiet").exit_code == 2


def test_recommend_to_a_user_of_the_data(cli, finished):
    out = finished[0]
    example = json.loads((out / "examples.json").read_text())[0]
    done = cli("recommend", out, "--client", example["client"], "--user", example["user"], "-k", 3, "--quiet")
    assert done.exit_code == 0
    assert f"{example['client']}: history" in done.stdout
    ranked = json.loads(
        cli("recommend", out, "--client", example["client"], "--user", example["user"], "-k", 3, "--json").stdout
    )
    assert [item["rank"] for item in ranked["items"]] == [1, 2, 3]
    for item in ranked["items"]:
        assert item["title"] in done.stdout
    assert not {item["id"] for item in ranked["items"]} & {item["id"] for item in ranked["history"]}


def test_recommend_to_a_history_of_titles(cli, finished, workplace):
    titles = [line.split(",")[1] for line in (workplace / "items.csv").read_text().splitlines()[1:4]]
    given = f"{titles[0].upper()}; {titles[1]} ;i2"
    done = cli("recommend", finished[0], "--client", "client-1", "--history", given, "--json")
    found = json.loads(done.stdout)
    assert [item["id"] for item in found["history"]] == ["i0", "i1", "i2"]
    assert len(found["items"]) == 10


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (
            ["--history", "x"],
            "Say with --client whose model is asked about this history. This run has client-0, client-1.",
        ),
        (["--client", "client-0"], "give either --user"),
        (["--client", "client-0", "--user", "u1", "--history", "x"], "give either --user"),
        (["--client", "klient-0", "--user", "u1"], "Did you mean 'client-0'?"),
        (["--client", "client-0", "--user", "u11111"], "There is no user 'u11111'"),
        (["--client", "client-0", "--history", "nothing like it"], "'nothing like it'"),
    ],
)
def test_mistakes_in_recommend(cli, finished, words, sentences):
    done = cli("recommend", finished[0], *words, "--quiet")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert sentences in done.stderr


def test_compare_shows_every_run(cli, finished, workplace):
    other = workplace / "third"
    assert cli("run", workplace / "shop.toml", "--out", other, "--set", "strategy.kind=local", "-q").exit_code == 0
    done = cli("compare", finished[0], other, "--samples", 50, "--json")
    found = json.loads(done.stdout)
    assert [run["strategy"] for run in found["runs"]] == ["pplr", "local"]
    difference = found["runs"][1]["difference"]
    assert difference["low"] <= difference["high"]
    assert difference["estimate"] == pytest.approx(found["runs"][1]["overall"] - found["runs"][0]["overall"])
    table = cli("compare", finished[0], other, "--samples", 50).stdout
    assert f"{difference['low']:+.4f} to {difference['high']:+.4f}" in table
    assert not math.isnan(difference["low"])


def test_compare_needs_two_runs(cli, finished):
    done = cli("compare", finished[0])
    assert done.exit_code == 2
    assert "at least two" in done.stderr
