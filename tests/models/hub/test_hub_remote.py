"""A model hub on the loopback, as far as the hub's client needs one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hub_toys import write_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = """
import sys
from pplr.errors import PplrError
from pplr.models.hub import resolve
try:
    files = resolve(sys.argv[1])
    print(files.name, files.kind, files.digest, files.manifest.revision, files.path)
except PplrError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def hub(tmp_path):
    """Serve the folder `served` as `somebody/small`; yield its address, the folder, and what was asked."""
    folder = write_model(tmp_path / "served")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            asked.append(self.path)
            name = self.path.split("?")[0].rpartition("/")[2]
            entries = [
                {
                    "type": "file",
                    "path": path.name,
                    "size": path.stat().st_size,
                    "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                }
                for path in sorted(folder.iterdir())
            ]
            if "somebody/small" not in self.path:
                self.send_response(404)
                self.send_header("X-Error-Code", "GatedRepo" if "somebody/gated" in self.path else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif "/tree/" in self.path:
                self.answer(json.dumps(entries).encode())
            elif self.path.startswith("/api/models/"):
                siblings = [{"rfilename": entry["path"], "size": entry["size"]} for entry in entries]
                body = {"id": "somebody/small", "sha": COMMIT, "siblings": siblings, "private": False}
                self.answer(json.dumps(body).encode())
            else:
                self.answer((folder / name).read_bytes())

        def answer(self, body):
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder, asked
    server.shutdown()
    thread.join()
    server.server_close()


def run(name, tmp_path, **environment):
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, name],
        env=os.environ
        | {"PPLR_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_safetensors_are_pulled_once_and_nothing_else(hub, tmp_path):
    address, _, asked = hub
    first = run("somebody/small", tmp_path, HF_ENDPOINT=address)
    assert first.startswith("somebody/small decoder ")
    assert COMMIT in first
    folder = tmp_path / "cache/models/somebody--small"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (folder / "model.safetensors").stat().st_nlink == 2, "shared with the hub client's own cache"
    assert not any("pytorch_model.bin" in path or ".py" in path for path in asked if "/resolve/" in path)
    asked.clear()
    assert run("hub:somebody/small", tmp_path, HF_HUB_OFFLINE="1", HF_ENDPOINT=address) == first
    assert asked == []


def test_only_pickles_are_refused(hub, tmp_path):
    address, folder, _ = hub
    (folder / "model.safetensors").unlink()
    said = run("somebody/small", tmp_path, HF_ENDPOINT=address)
    assert said.startswith("ModelError 'somebody/small' is published without safetensors.")
    assert not (tmp_path / "cache/models/somebody--small").exists()


def test_absent_gated_and_unreachable(hub, tmp_path):
    address, *_ = hub
    said = run("sentence-transformers/all-MiniLM-L7-v2", tmp_path, HF_ENDPOINT=address)
    assert said.startswith("ModelUnavailable The model hub has no model 'sentence-transformers/all-MiniLM-L7-v2'")
    assert "Did you mean 'sentence-transformers/all-MiniLM-L6-v2'?" in said
    assert "Accept them on the model's page, and set HF_TOKEN" in run("somebody/gated", tmp_path, HF_ENDPOINT=address)
    said = run("somebody/small", tmp_path, HF_HUB_OFFLINE="1", HF_ENDPOINT=address)
    assert "is not in the cache, and the model hub is not reachable" in said
    assert "hf download somebody/small --local-dir FOLDER" in said
