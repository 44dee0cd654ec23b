"""A finished run in one small file, from which tables, plots and bootstraps can be made again without its folder.

JSON: the configuration, what metrics.json says, and the figures of every test user. These are packed: rows of figures
that occur more than once are written once, which is most of them where a user has one target, and nothing is rounded.
Matrices of rounds before the last, which no plot of a comparison shows, are left out.
"""

from __future__ import annotations

import base64
import json
import lzma
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from pplr.errors import RunError
from pplr.federation.history import RoundRecord
from pplr.report.schema import Metrics
from pplr.storage import write_text

ENDING = ".record.json"
"""How the name of a record's file ends."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackedUsers(_Part):
    """The test figures of single users, sorted by user id."""

    users: str = Field(description="Ids: packed differences of whole numbers, or packed lines of JSON texts.")
    numeric: bool = Field(description="Ids are whole numbers, written without zeros in front.")
    clients: list[str] = Field(description="Names of the clients.")
    client: str = Field(description="Packed int32: the place in `clients` of each user's client.")
    metrics: list[str] = Field(description="Names of the figures.")
    rows: list[list[float | None]] = Field(description="Distinct rows of figures, in the order of `metrics`.")
    row: str = Field(description="Packed int32: the place in `rows` of each user's figures.")

    @staticmethod
    def pack(table: pl.DataFrame) -> PackedUsers:
        """Return the packed form of a table with "user", "client" (text) and one float column per metric."""
        ids = table["user"].to_list()
        numeric = all(text.isdecimal() and text.isascii() and text == str(int(text)) for text in ids)
        numeric = numeric and all(len(text) < 19 for text in ids)  # they fit into 64 bits
        order = sorted(range(len(ids)), key=(lambda i: int(ids[i])) if numeric else (lambda i: ids[i]))
        table = table[order]
        metrics = [name for name in table.columns if name not in ("user", "client")]
        figures = table.select(metrics).to_numpy().astype(np.float64).reshape(len(ids), len(metrics))
        rows, row = np.unique(figures, axis=0, return_inverse=True)
        clients = sorted(set(table["client"].to_list()))
        place = {name: index for index, name in enumerate(clients)}
        codes = np.array([place[name] for name in table["client"].to_list()])
        if numeric:
            numbers = np.array([0, *(int(ids[i]) for i in order)], dtype=np.int64)
            users = _packed(numbers[1:] - numbers[:-1])
        else:
            users = _text(json.dumps([ids[i] for i in order], ensure_ascii=False).encode())
        return PackedUsers(
            users=users,
            numeric=numeric,
            clients=clients,
            client=_packed(codes.astype(np.int32)),
            metrics=metrics,
            rows=[[None if np.isnan(value) else float(value) for value in each] for each in rows],
            row=_packed(row.reshape(-1).astype(np.int32)),
        )

    def table(self) -> pl.DataFrame:
        """Return the table that was packed, sorted by user id.

        Raises:
            ValueError: what is packed does not fit together.
        """
        packed = _bytes(self.users)
        ids = np.cumsum(np.frombuffer(packed, "<i8")).astype(str).tolist() if self.numeric else json.loads(packed)
        client, row = (np.frombuffer(_bytes(text), "<i4") for text in (self.client, self.row))
        rows = np.array(self.rows, dtype=np.float64).reshape(len(self.rows), len(self.metrics))
        if not len(ids) == len(client) == len(row) or len(set(ids)) < len(ids):
            raise ValueError(f"it has {len(ids)} users, {len(client)} clients and {len(row)} rows, or a user twice")
        for codes, known in ((client, len(self.clients)), (row, len(rows))):
            if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < known:
                raise ValueError("it names a client or a row that is not there")
        return pl.DataFrame(
            {"user": ids, "client": [self.clients[code] for code in client.tolist()]},
            schema={"user": pl.String, "client": pl.String},
        ).with_columns(pl.Series(name, rows[row, place]) for place, name in enumerate(self.metrics))


class Record(_Part):
    """A finished run, small enough to be kept in a repository."""

    record: Literal[1] = Field(description="Version of this document.")
    configuration: dict[str, JsonValue] = Field(description="The run's configuration, paths as they were written.")
    held_out: str | None = Field(description="Digest of the held-out events that it was measured on.")
    metrics: Metrics = Field(description="The content of metrics.json, with the last round's matrices only.")
    per_user: PackedUsers = Field(description="The figures of single users.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self.per_user.table()
        return self


def make_record(
    configuration: dict[str, Any], held_out: str | None, metrics: Metrics, per_user: pl.DataFrame
) -> Record:
    """Return the record of a finished run."""
    rounds = [*(_without_matrices(each) for each in metrics.rounds[:-1]), *metrics.rounds[-1:]]
    return Record(
        record=1,
        configuration=configuration,
        held_out=held_out,
        metrics=metrics.model_copy(update={"rounds": rounds}),
        per_user=PackedUsers.pack(per_user),
    )


def write_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_text(path, json.dumps(record.model_dump(mode="json", by_alias=True), indent=1) + "\n")


def is_record(path: Path) -> bool:
    """Return whether `path` is a file that is called as a record is."""
    return path.name.endswith(ENDING) and path.is_file()


def read_record(path: Path) -> Record:
    """Return the record in a file; one that was read and has not changed is not read again.

    Raises:
        RunError: the file is damaged, or of another version.
    """
    try:
        found = path.stat()
        return _read(path, found.st_mtime_ns, found.st_size)
    except (OSError, ValidationError) as problem:
        first = problem.errors()[0] if isinstance(problem, ValidationError) else {"loc": (), "msg": str(problem)}
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise RunError(
            f"The record {path} cannot be used: {where}: {first['msg']}. Bring it back from a copy, or delete it and run "
            "its cell again."
        ) from problem


@lru_cache(maxsize=512)
def _read(path: Path, changed: int, size: int) -> Record:
    """Return the record in a file as it was when it was `changed`."""
    return Record.model_validate_json(path.read_bytes())


def _without_matrices(record: RoundRecord) -> RoundRecord:
    details = {name: values for name, values in record.details.items() if not (values and isinstance(values[0], list))}
    return record.model_copy(update={"mixing": None, "details": details})


def _packed(numbers: NDArray[np.int64] | NDArray[np.int32]) -> str:
    return _text(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes())


def _text(content: bytes) -> str:
    return base64.b64encode(lzma.compress(content, preset=4)).decode("ascii")


def _bytes(text: str) -> bytes:
    """Return what was packed; what is no packed text is a ValueError."""
    try:
        return lzma.decompress(base64.b64decode(text, validate=True))
    except lzma.LZMAError as problem:
        raise ValueError(f"a packed part is damaged ({problem})") from problem
