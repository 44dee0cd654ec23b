"""Parcels as Flower's records and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from pplr.errors import RunError
from pplr.silos.parcel import Parcel, digest, opened

MESSAGE_TYPES = {"announce": "query", "initial": "query", "train": "train", "evaluate": "evaluate"}
"""Kind of a parcel that asks -> Flower's type of message."""


ENCODING = "pplr.float32"
"""How a row stands in Flower's array: its numbers and nothing else, so that no header has to be trusted."""


def content_of(parcel: Parcel) -> RecordDict:
    """Return the content of a Flower message that carries a parcel, with the digest of all of it."""
    records: dict[str, Any] = {"parcel": ConfigRecord({"head": parcel.head, "digest": parcel.digest})}
    if parcel.row is not None:
        array = Array("float32", parcel.row.shape, ENCODING, np.ascontiguousarray(parcel.row, dtype="<f4").tobytes())
        records["row"] = ArrayRecord({"row": array})
    return RecordDict(records)


def parcel_of(content: RecordDict) -> Parcel:
    """Return the parcel that a Flower message carries.

    Raises:
        RunError: it carries none, or not the one that was sent.
    """
    try:
        head, told = content.config_records["parcel"]["head"], content.config_records["parcel"]["digest"]
        rows = content.array_records.get("row")
        array = None if rows is None else rows["row"]
    except KeyError as problem:
        raise RunError(f"A message cannot be read: it has no {problem}.") from problem
    if not isinstance(head, bytes) or (array is not None and array.stype != ENCODING):
        raise RunError("A message cannot be read: its head is no bytes, or its row is not encoded as pplr does.")
    row = None if array is None else array.data
    if digest(head, row or b"") != told:
        raise RunError("A message was changed on its way: its digest is another one.")
    return opened(head, row)
