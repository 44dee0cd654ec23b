"""Writing to disk so that what is there is whole: temporary name, flush, rename."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from pplr.errors import StorageError

BEFORE = ".before"
"""Ending of a folder's name while a new one takes its place."""


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_file(path, lambda partial: partial.write_bytes(content))


def write_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a file whole or not at all: `fill` writes a temporary one, which then takes its name, also from an older one.

    Raises:
        StorageError: the disk is full or not writable.
    """
    partial = path.with_name(f".{path.name}.partial")
    with _disk(path):
        try:
            fill(partial)
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Create a folder whole or not at all: `fill` writes into a temporary one, which is then renamed.

    A folder of that name that is already there is replaced: it is there until the new one is whole, and for a moment
    under another name, from which `bring_back` takes it if that moment was the last one.

    Raises:
        StorageError: the disk is full or not writable.
    """
    partial, before = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}{BEFORE}")
    with _disk(path):
        bring_back(path)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            fill(partial)
            for file in partial.rglob("*"):
                _sync(file)
            if path.exists():
                path.rename(before)
            partial.rename(path)
            _sync(path.parent)
            if before.exists():
                shutil.rmtree(before)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def bring_back(path: Path) -> None:
    """Finish what `write_folder` has begun in a process that was killed: the old folder is there, or nothing of it.

    Raises:
        StorageError: the disk is not writable.
    """
    before = path.with_name(f".{path.name}{BEFORE}")
    with _disk(path):
        if before.exists() and path.exists():
            shutil.rmtree(before)
        elif before.exists():
            before.rename(path)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, where they are not there yet.

    Raises:
        StorageError: the disk is full or not writable.
    """
    with _disk(path):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            _sync(path.parent)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes that use this function from writing into `folder` until the block ends; they wait.

    Raises:
        StorageError: the disk is not writable.
    """
    lock = FileLock(folder / ".lock")
    with _disk(folder):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def check_writable(folder: Path) -> str:
    """Return in words that a folder can be written, which is made where it is not there yet.

    Raises:
        StorageError: it cannot.
    """
    make_folder(folder)
    probe = folder / ".probe"
    write_text(probe, "")
    probe.unlink()
    return f"{folder} can be written"


def delete(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it; nothing happens where there is none.

    Raises:
        StorageError: it cannot be deleted.
    """
    with _disk(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append one line to a file.

    Raises:
        StorageError: the disk is full or not writable.
    """
    with _disk(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def append_durably(path: Path, line: str) -> None:
    """Append one line to a file, which is on the disk when this returns.

    Raises:
        StorageError: the disk is full or not writable; what was written of the line is then taken back.
    """
    with _disk(path):
        known = path.exists()
        with path.open("ab") as file:
            start = file.tell()
            try:
                file.write(line.encode("utf-8") + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise
        if not known:
            _sync(path.parent)


def cut(path: Path, size: int) -> None:
    """Leave the first `size` bytes of a file.

    Raises:
        StorageError: it cannot be written.
    """
    with _disk(path), path.open("rb+") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as problem:  # safetensors reports a full disk as its own error
        reason = getattr(problem, "strerror", None) or problem
        raise StorageError(
            f"{path} cannot be written: {reason}. Make room on the disk, or write to another place; what was complete "
            "before is still there."
        ) from problem
