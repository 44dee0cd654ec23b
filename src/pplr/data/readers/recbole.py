"""RecBole's atomic files: tab-separated, with a type after each column's name (`user_id:token`).

Format: https://recbole.io/docs/user_guide/data/atomic_files.html
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from pplr.data.readers.delimited import read_text_columns
from pplr.errors import DataError

_TYPES = frozenset({"token", "token_seq", "float", "float_seq"})


def read_recbole(path: Path) -> pl.DataFrame:
    """Return the columns of an `.inter` or `.item` file as text, under their names without the type.

    A `token_seq` stays the space-separated text that it is: titles are written so as well as genres.

    Raises:
        DataError: a header has no type, or an unknown one.
        polars.exceptions.PolarsError, OSError: the file is damaged, or rows have too many fields.
        UnicodeDecodeError: the file is not UTF-8.
    """
    frame = read_text_columns(path, "\t", quotes=False)
    names: dict[str, str] = {}
    for header in frame.columns:
        name, _, kind = header.strip().rpartition(":")
        if not name or kind not in _TYPES:
            raise DataError(
                f"The header '{header}' of {path} is not one of RecBole's, such as 'user_id:token'; the types are "
                f"{', '.join(sorted(_TYPES))}. If the file is plain text with a header line, set data.format to csv."
            )
        names[header] = name
    return frame.rename(names)
