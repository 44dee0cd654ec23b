"""Parcels as Flower's records and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from pplr.errors import RunError
from pplr.silos.parcel import Parcel, opened

MESSAGE_TYPES = {"announce": "query", "initial": "query", "train": "train", "evaluate": "evaluate"}
"""Kind of a parcel that asks -> Flower's type of message."""


def content_of(parcel: Parcel) -> RecordDict:
    """Return the content of a Flower message that carries a parcel, with the digest of all of it."""
    records: dict[str, Any] = {"parcel": ConfigRecord({"head": parcel.head, "digest": parcel.digest})}
    if parcel.row is not None:
        records["row"] = ArrayRecord({"row": Array(np.ascontiguousarray(parcel.row))})
    return RecordDict(records)


def parcel_of(content: RecordDict) -> Parcel:
    """Return the parcel that a Flower message carries.

    Raises:
        RunError: it carries none, or not the one that was sent.
    """
    try:
        head, digest = content.config_records["parcel"]["head"], content.config_records["parcel"]["digest"]
        rows = content.array_records.get("row")
        row = None if rows is None else np.asarray(rows["row"].numpy())
        parcel = opened(_bytes(head), row)
    except (KeyError, TypeError, ValueError) as problem:
        raise RunError(f"A message cannot be read: {problem}.") from problem
    if parcel.digest != digest:
        raise RunError("A message was changed on its way: its digest is another one.")
    return parcel


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"its head is {type(value).__name__}, not bytes")
    return value
