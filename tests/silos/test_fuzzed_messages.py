"""Ten thousand damaged or made-up messages: each is refused in a sentence, or is what was sent."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from pplr.errors import RunError
from pplr.federation.admission import flaw
from pplr.federation.messages import TrainTask, Update
from pplr.silos import codec
from pplr.silos.announcement import Announcement
from pplr.silos.parcel import Parcel, digest
from pplr.silos.records import ENCODING, content_of, parcel_of

TASK = TrainTask("shop-1", 3, 0.5, torch.zeros(6))
SENT = Update("shop-1", 3, torch.arange(6.0), 1.25, 5, 7, {"total": 0.5})
VALUES: list[Any] = [
    None,
    True,
    -1,
    2**80,
    1e400,
    -1e400,
    float("nan"),
    "",
    "x" * 300,
    [],
    [[]],
    {},
    {"a": {}},
    b"\xff",
]


def spoilt(draw: random.Random) -> RecordDict:
    """Return a message that somebody has tampered with, its digest fitting or not."""
    parcel = codec.update_parcel(SENT)
    kind, fields, row = parcel.kind, dict(parcel.fields), np.array(parcel.row)
    for _ in range(draw.randint(1, 3)):
        way = draw.randrange(6)
        if way == 0:
            fields[draw.choice([*fields, "more"])] = draw.choice([v for v in VALUES if not isinstance(v, bytes)])
        elif way == 1:
            fields.pop(draw.choice([*fields, "round"]), None)
        elif way == 2:
            kind = draw.choice(["update", "report", "failure", "", "x" * 100])
        elif way == 3:
            row = draw.choice([row[:-1], np.append(row, 0), row * np.nan, row.astype("f8"), row[None], row])
        elif way == 4:
            fields["loss"] = draw.choice([-1.0, 1e9, "1.0", None])
        else:
            fields["round"] = draw.randrange(-3, 9)
    head = bytearray(json.dumps({"kind": kind, "fields": fields, "row": draw.random() < 0.9}).encode())
    data = bytearray(np.ascontiguousarray(row).tobytes())
    for spoil in (head, data):
        for _ in range(draw.choice([0, 0, 0, 1, 20]) if spoil else 0):
            spoil[draw.randrange(len(spoil))] = draw.randrange(256)
    told = digest(bytes(head), bytes(data)) if draw.random() < 0.8 else "0" * 64
    array = Array("float32", row.shape, draw.choice([ENCODING] * 9 + ["numpy.ndarray"]), bytes(data))
    records: dict[str, Any] = {
        "parcel": ConfigRecord({"head": bytes(head), "digest": told}),
        "row": ArrayRecord({"row": array}),
    }
    if draw.random() < 0.1:
        records.pop(draw.choice(list(records)))
    return RecordDict(records)


def test_no_spoilt_message_is_taken_for_another():
    draw, refused = random.Random(7), 0
    for _ in range(10_000):
        content = spoilt(draw)
        try:
            update = codec.update_of(parcel_of(content))
        except RunError:
            refused += 1
            continue
        if flaw(update, TASK):
            refused += 1
            continue
        # what is left is a well-formed answer to the task: a silo may send it
        assert update.row.shape == (6,) and bool(torch.isfinite(update.row).all())
        assert (update.client, update.round) == ("shop-1", 3) and (update.targets == 0 or 0 <= update.loss <= 100)
    assert 7_000 < refused < 10_000


def test_what_was_sent_is_taken():
    update = codec.update_of(parcel_of(content_of(codec.update_parcel(SENT))))
    assert flaw(update, TASK) is None and torch.equal(update.row, SENT.row)


def test_made_up_fields_of_all_kinds_are_refused():
    draw = random.Random(8)
    names = ["client", "round", "part", "loss", "users", "metrics", "improved", "seconds", "name", "settings", "specs"]
    kinds: list[tuple[str, Any]] = [
        ("report", codec.ReportFields), ("announcement", Announcement), ("first row", codec.FirstRowFields),
    ]  # fmt: skip
    for _ in range(2_000):
        kind, fields = draw.choice(kinds)
        made_up = {draw.choice(names): draw.choice(VALUES) for _ in range(draw.randint(0, 9))}
        try:
            codec.parsed(Parcel(kind, made_up), kind, fields)
        except RunError:
            continue
        raise AssertionError(made_up)
