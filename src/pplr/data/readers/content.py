"""Files that are not the text that their name promises, recognised by how they begin."""

from __future__ import annotations

import gzip
from pathlib import Path

from pplr.errors import DataError

_SAMPLE_BYTES = 1 << 16
_GZIP = b"\x1f\x8b"
_PACKED = {
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "Save its table as CSV, or unpack it"),
    b"PAR1": ("Parquet", "Set data.format to parquet, or let its name end in .parquet"),
    b"\xfd7zXZ": ("packed with xz", "Unpack it, or pack it with gzip"),
    b"BZh": ("packed with bzip2", "Unpack it, or pack it with gzip"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "Unpack it, or pack it with gzip"),
}
_WIDE = (b"\xff\xfe", b"\xfe\xff")


def check_text(path: Path) -> None:
    """Raise DataError where the file, unpacked where it is gzip, does not begin like text in one byte per character.

    Raises:
        DataError: it is empty, packed in another way, in UTF-16 or UTF-32, or holds zero bytes.
        OSError, EOFError: it cannot be read or unpacked.
    """
    start = beginning(path)
    if not start.strip():
        raise DataError(f"{path} is empty. Give a file with a header line and rows.")
    for magic, (what, advice) in _PACKED.items():
        if start.startswith(magic):
            raise DataError(f"{path} is {what}, not text. {advice}.")
    if start.startswith(_WIDE):
        raise DataError(f"{path} is UTF-16 or UTF-32 text. Convert it, for example with 'iconv -f utf-16 -t utf-8'.")
    if b"\0" in start:
        raise DataError(
            f"{path} holds zero bytes (the first is byte {start.index(0)}), so it is damaged or no text. Export it again "
            "as UTF-8 text."
        )


def beginning(path: Path, size: int = _SAMPLE_BYTES) -> bytes:
    """Return the first `size` bytes of a file, unpacked where it is gzip."""
    with gzip.open(path, "rb") if is_gzip(path) else path.open("rb") as stream:
        content: bytes = stream.read(size)
    return content


def is_gzip(path: Path) -> bool:
    """Return whether a file begins like gzip."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP
