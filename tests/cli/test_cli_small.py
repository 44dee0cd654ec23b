import json
import tomllib

import pytest

from pplr.config import load_config
from pplr.doctor import ROOM_NEEDED, Gpu, Health, PulledModel, advise, examine


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("backbone", ["sequence", "generative", "encoder"])
def test_init_writes_a_configuration_that_runs_understand(cli, here, backbone):
    done = cli("init", "--backbone", backbone)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "pplr run pplr.toml" in done.stderr
    config = load_config(here / "pplr.toml")
    assert (config.backbone.kind, config.data.demo) == (backbone, "movietweetings")


def test_init_names_files_from_where_the_configuration_lies(cli, here):
    (here / "data").mkdir()
    (here / "conf").mkdir()
    for name in ("data/e.csv", "conf/i.csv"):
        (here / name).touch()
    assert cli("init", "conf/shop.toml", "--events", "data/e.csv", "--items", "conf/i.csv").exit_code == 0
    data = load_config(here / "conf/shop.toml").data
    assert (data.events, data.items) == ((here / "data/e.csv").resolve(), (here / "conf/i.csv").resolve())
    assert tomllib.loads((here / "conf/shop.toml").read_text())["data"]["items"] == "i.csv"


def test_init_overwrites_only_when_told_to(cli, here):
    (here / "pplr.toml").write_text("mine")
    done = cli("init")
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert (here / "pplr.toml").read_text() == "mine"
    assert cli("init", "--force").exit_code == 0
    assert (here / "pplr.toml").read_text() != "mine"


def test_init_lists_all_mistakes(cli, here):
    done = cli("init", "absent/x.toml", "--events", "no.csv")
    assert done.exit_code == 2
    assert [line[:2] for line in done.stderr.splitlines()[1:]] == ["- "] * 3
    assert not list(here.iterdir())


def test_data_check_of_a_folder_and_of_a_configuration(cli, workplace):
    report = json.loads(cli("data", "check", workplace, "--json").stdout)
    assert (report["users"], report["problems"]) == (40, [])
    assert json.loads(cli("data", "check", workplace / "shop.toml", "--json").stdout) == report
    text = cli("data", "check", workplace).stdout
    assert f"{report['events']:,}" in text
    assert all(" ".join(note.split()) in " ".join(text.split()) for note in report["notes"])


def test_data_check_fails_where_a_run_would(cli, tmp_path):
    (tmp_path / "events.csv").write_text(
        "user,item,time\n" + "".join(f"u{u},i{i},{i}\n" for u in "ab" for i in range(5))
    )
    (tmp_path / "items.csv").write_text("id,title\n" + "".join(f"i{i},Title {i}\n" for i in range(4)))
    done = cli("data", "check", tmp_path)
    assert done.exit_code == 3
    assert "a run would stop" in done.stdout
    assert cli("data", "check", tmp_path / "absent").exit_code == 3


def test_models_of_an_empty_cache(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PPLR_CACHE", str(tmp_path))
    models = {model["name"]: model for model in json.loads(cli("models", "list", "--json").stdout)}
    assert models["minilm"]["kind"] == "encoder"
    assert all(model["path"] is None for model in models.values())
    assert "smollm2-135m" in cli("models", "list").stdout


def test_models_that_cannot_be_pulled(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PPLR_CACHE", str(tmp_path / "cache"))
    done = cli("models", "pull", "minilmm")
    assert done.exit_code == 4
    assert "Did you mean 'minilm'?" in done.stderr
    (tmp_path / "empty").mkdir()
    done = cli("models", "pull", "minilm", "--from", tmp_path / "empty")
    assert done.exit_code == 4
    assert done.stdout == ""


def test_a_model_is_parted_for_both_or_for_one(cli, files, tmp_path):
    done = cli("models", "part", files / "llama", "--bottom", "0", "--to", tmp_path / "parts")
    assert done.exit_code == 0
    folders = [tmp_path / "parts" / party for party in ("client", "server")]
    assert done.stdout.split() == [str(folder) for folder in folders]
    assert "the server's part (layer 1 of 2)" in " ".join(done.stderr.split())
    assert [(folder / "tokenizer.json").exists() for folder in folders] == [True, False]
    done = cli("models", "part", files / "bert", "--bottom", "0", "--party", "server", "--to", tmp_path / "mine", "-q")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads((tmp_path / "mine" / "manifest.json").read_text())["part"]["party"] == "server"
    done = cli("models", "part", files / "llama", "--bottom", "3", "--to", tmp_path / "other")
    assert done.exit_code == 2
    assert "leave no layer for the server" in " ".join(done.stderr.split())


def test_doctor_tells_programs_what_it_tells_people(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PPLR_CACHE", str(tmp_path))
    found = json.loads(cli("doctor", "--json").stdout)
    assert found["cache"] == str(tmp_path)
    assert found["models"] == []
    assert any("pplr models pull minilm" in advice["text"] for advice in found["advice"])
    text = cli("doctor").stdout
    assert found["versions"]["torch"] in text
    assert "pplr models pull minilm" in " ".join(text.split())


def test_the_size_of_the_cache_is_that_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PPLR_CACHE", str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x" * 1000)
    (tmp_path / "c").write_bytes(b"x" * 234)
    health = examine()
    assert health.cache_bytes == 1234
    assert health.memory_bytes > health.available_bytes > 0
    assert 1 <= health.cores <= 4096


def healthy(**changes):
    values = {
        "versions": {"gguf": "1", "accelerate": "1"}, "conflicts": (), "python": "3.11", "system": "Linux",
        "processor": "P", "cores": 4, "threads": 4, "bfloat16_times": 1.0, "memory_bytes": 16_000_000_000, "available_bytes": 8_000_000_000,
        "cuda": "12", "gpus": (Gpu("G", 10**10, 10**10),), "nvidia_device": True, "cache": "/c", "cache_bytes": 0,
        "cache_writable": True, "cache_free_bytes": 10 * ROOM_NEEDED, "here_free_bytes": 10 * ROOM_NEEDED,
        "models": (PulledModel("minilm", "encoder", 1),),
    }  # fmt: skip
    return Health(**(values | changes))


def test_nothing_to_advise_where_all_is_well():
    assert advise(healthy()) == ()


@pytest.mark.parametrize(
    ("changes", "serious", "words"),
    [
        ({"conflicts": ("torch is old.",)}, True, "torch is old."),
        ({"cache_writable": False}, True, "PPLR_CACHE"),
        ({"cache_free_bytes": 1_000_000}, True, "1 MB free"),
        ({"here_free_bytes": 1_000_000}, True, "--out"),
        ({"available_bytes": 2_000_000_000}, False, "2.0 GB"),
        ({"threads": 1}, False, "OMP_NUM_THREADS"),
        ({"gpus": ()}, False, "nvidia-smi"),
        ({"gpus": (), "cuda": None}, False, "without CUDA"),
        ({"gpus": (), "cuda": None, "nvidia_device": False}, False, "no GPU"),
        ({"models": ()}, False, "models pull minilm"),
        ({"versions": {"gguf": None, "accelerate": "1"}}, False, "gguf must be installed"),
    ],
)
def test_advice(changes, serious, words):
    (advice,) = advise(healthy(**changes))
    assert advice.serious is serious
    assert words in advice.text


def test_rounding_is_advised_where_it_is_faster_and_there_is_no_gpu():
    (_, advice) = advise(healthy(gpus=(), cuda=None, nvidia_device=False, bfloat16_times=4.26))
    assert "4.3 times" in advice.text and "backbone.precision" in advice.text
    assert advise(healthy(bfloat16_times=4.26)) == ()


def test_serious_advice_comes_first():
    found = advise(healthy(threads=1, cache_writable=False))
    assert [advice.serious for advice in found] == [True, False]
