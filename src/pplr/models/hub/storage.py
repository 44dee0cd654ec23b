"""Turning what a full or forbidden disk does into sentences."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pplr.errors import PplrError, StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_FULL_PHRASES = ("no space left on device", "disk quota exceeded", "file too large", "not enough space")

_ADVICE = "Make room there, or set PPLR_CACHE to a folder on another disk, and pull again; no model was changed."


def says_full(text: str) -> bool:
    """Return whether the message of another program or library says that the disk is full."""
    return any(phrase in text.lower() for phrase in _FULL_PHRASES)


def full(folder: Path, doing: str) -> StorageError:
    """Return the error for a disk that got full under `folder` while `doing`."""
    return StorageError(f"The disk of {folder} is full: {doing} failed. {_ADVICE}")


@contextmanager
def storage_errors(folder: Path, doing: str) -> Iterator[None]:
    """Turn errors of writing below `folder` into `StorageError`; other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full(folder, doing) from error
        if error.errno in _FORBIDDEN and Path(error.filename or folder).is_relative_to(folder):
            raise StorageError(
                f"{error.filename or folder} cannot be written ({error.strerror}): {doing} failed. "
                "Set PPLR_CACHE to a folder that you may write to."
            ) from error
        raise
    except PplrError:
        raise
    except Exception as error:
        # safetensors reports a failed write as an exception of its own, with the system's words in it
        if says_full(str(error)):
            raise full(folder, doing) from error
        raise


def require_room(folder: Path, needed: int, doing: str) -> None:
    """Raise `StorageError` where the disk of the existing `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"{doing} needs {needed / 1e6:,.0f} MB below {folder}, where {free / 1e6:,.0f} MB are free. {_ADVICE}"
        )
