"""What travels: equal after the journey, and refused where it is anything else than what was sent."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pplr.errors import RunError
from pplr.silos.parcel import Parcel, from_bytes
from pplr.silos.records import ENCODING, content_of, parcel_of

FIELDS = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.text(max_size=5)
)
ROWS = st.none() | arrays(np.float32, st.integers(0, 9), elements=st.floats(width=32))


def same(one: Parcel, other: Parcel) -> bool:
    rows = (one.row is None) == (other.row is None) and (
        one.row is None or one.row.tobytes() == np.asarray(other.row).tobytes()
    )
    return (one.kind, dict(one.fields), rows) == (other.kind, dict(other.fields), True)


@given(fields=FIELDS, row=ROWS)
def test_a_parcel_arrives_as_it_was_sent(fields, row):
    sent = Parcel("train", fields, row)
    assert same(from_bytes(sent.to_bytes()), sent)
    assert same(parcel_of(content_of(sent)), sent)
    assert from_bytes(sent.to_bytes()).digest == sent.digest
    assert sent.size == len(sent.to_bytes()) - 4


@given(content=st.binary(max_size=60))
def test_noise_is_refused(content):
    with pytest.raises(RunError):
        from_bytes(content)


@given(fields=FIELDS, row=arrays(np.float32, 4, elements=st.floats(-9, 9, width=32)), place=st.integers(0, 3))
def test_a_changed_number_is_noticed(fields, row, place):
    content = content_of(Parcel("update", fields, row))
    row = row.copy()
    row[place] += 1
    content["row"] = ArrayRecord({"row": Array("float32", row.shape, ENCODING, row.tobytes())})
    with pytest.raises(RunError, match="digest"):
        parcel_of(content)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_numbers_that_are_not_finite_are_refused(number):
    head = f'{{"kind": "update", "fields": {{"loss": {number}}}, "row": false}}'.encode()
    with pytest.raises(RunError, match="finite"):
        from_bytes(len(head).to_bytes(4, "little") + head)


HEAD = json.dumps({"kind": "update", "fields": {}, "row": True}).encode()


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"parcel": ConfigRecord({})},
        {"parcel": ConfigRecord({"head": "text", "digest": "0"})},
        {"parcel": ConfigRecord({"head": b"[]", "digest": "0"})},
        {"parcel": ConfigRecord({"head": HEAD, "digest": "0"})},
        {"parcel": ConfigRecord({"head": HEAD, "digest": "0"}), "row": ArrayRecord({})},
        {"parcel": ConfigRecord({"head": HEAD, "digest": "0"}), "row": ArrayRecord({"row": Array(np.zeros((2, 2)))})},
        {"parcel": ConfigRecord({"head": HEAD, "digest": "0"}), "row": ArrayRecord({"row": Array(np.zeros(2, "f4"))})},
        {
            "parcel": ConfigRecord({"head": HEAD, "digest": "0"}),
            "row": ArrayRecord({"row": Array("object", (1,), "numpy.ndarray", b"\x80\x04N.")}),
        },
    ],
)
def test_other_records_are_refused(records):
    with pytest.raises(RunError):
        parcel_of(RecordDict(records))
