"""Spoilt messages to the coordinator: is any taken that should not be, is any refused that should not be, does any crash it?

    python benchmarks/fuzzed_messages.py [--messages 10000] [--seed 7]

Each message begins as an honest update of a silo, and is spoilt in one to three ways: fields of wrong type, value or number,
another kind, a row of another length, type or with numbers that are not finite, bytes flipped in head and row, a digest that
fits or not, records left out. It goes the way that a message goes: Flower's record, parcel, fields, admission. What is done
with it is compared with a second reading of the raw bytes, which uses neither pydantic nor NumPy nor pplr.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import struct
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from pplr.errors import RunError
from pplr.federation.events import Event
from pplr.federation.intake import Intake
from pplr.federation.messages import TrainTask, Update
from pplr.federation.settings import FederationSettings
from pplr.models.bank import AdapterBank
from pplr.silos import codec
from pplr.silos.parcel import digest
from pplr.silos.records import ENCODING, parcel_of
from result_file import write_result

HERE = Path(__file__).parent
SILO, ROUND, WIDTH = "shop-1", 3, 6
HONEST = Update(SILO, ROUND, torch.arange(float(WIDTH)), 1.25, 5, 7, {"total": 0.5})
VALUES: list[Any] = [
    None, True, -1, 0, 2**80, 1e400, -1e400, float("nan"), "", "1.0", "x" * 300, [], [[]], {}, {"a": {}}, {"a": 1},
]  # fmt: skip
COUNT_LIMIT = 2**62
LONGEST_ROW = 1e12


@dataclass(frozen=True)
class Spoilt:
    """One message as it is sent.

    Attributes:
        head, row: its bytes.
        told: the digest that it claims.
        encoding: how it says that the row is encoded.
        missing: a record that is left out, or "".
    """

    head: bytes
    row: bytes
    told: str
    encoding: str
    missing: str

    @property
    def content(self) -> RecordDict:
        """The message as Flower hands it over."""
        numbers = len(self.row) // 4
        records: dict[str, Any] = {
            "parcel": ConfigRecord({"head": self.head, "digest": self.told}),
            "row": ArrayRecord({"row": Array("float32", (numbers,), self.encoding, self.row)}),
        }
        records.pop(self.missing, None)
        return RecordDict(records)


def spoilt(draw: random.Random) -> Spoilt:
    """Return an honest update that somebody has tampered with."""
    parcel = codec.update_parcel(HONEST)
    kind, fields, row = parcel.kind, dict(parcel.fields), np.array(parcel.row)
    for _ in range(draw.randint(1, 3)):
        way = draw.randrange(6)
        if way == 0:
            fields[draw.choice([*fields, "more"])] = draw.choice(VALUES)
        elif way == 1:
            fields.pop(draw.choice([*fields, "round"]), None)
        elif way == 2:
            kind = draw.choice(["update", "report", "failure", "", "x" * 100])
        elif way == 3:
            row = draw.choice([row[:-1], np.append(row, 0), row * np.nan, row.astype("f8"), row[None], row])
        elif way == 4:
            fields["loss"] = draw.choice([-1.0, 1e9, "1.0", None, 100, 3])
        else:
            fields["round"] = draw.randrange(-3, 9)
    head = bytearray(json.dumps({"kind": kind, "fields": fields, "row": draw.random() < 0.9}).encode())
    data = bytearray(np.ascontiguousarray(row).tobytes())
    for spoil in (head, data):
        for _ in range(draw.choice([0, 0, 0, 1, 20]) if spoil else 0):
            spoil[draw.randrange(len(spoil))] = draw.randrange(256)
    told = digest(bytes(head), bytes(data)) if draw.random() < 0.8 else "0" * 64
    missing = draw.choice(["parcel", "row"]) if draw.random() < 0.1 else ""
    return Spoilt(bytes(head), bytes(data), told, draw.choice([ENCODING] * 9 + ["numpy.ndarray"]), missing)


def acceptable(message: Spoilt) -> bool:
    """Return whether the coordinator may use a message, by a second reading of its bytes."""
    if message.missing or message.encoding != ENCODING:
        return False
    if hashlib.sha256(message.head + message.row).hexdigest() != message.told or len(message.row) != 4 * WIDTH:
        return False
    row = struct.unpack(f"<{WIDTH}f", message.row)
    if not all(math.isfinite(x) for x in row) or math.hypot(*row) > LONGEST_ROW:
        return False
    try:
        whole = json.loads(message.head)
        repr(whole).encode()  # half a character is no text
    except (ValueError, RecursionError):
        return False
    if not isinstance(whole, dict) or whole.get("kind") != "update" or whole.get("row") is not True:
        return False
    return _honest_fields(whole.get("fields"))


def _honest_fields(fields: Any) -> bool:
    if not isinstance(fields, dict) or fields.keys() != {"client", "round", "loss", "targets", "tokens", "seconds"}:
        return False
    if (fields["client"], fields["round"]) != (SILO, ROUND) or type(fields["round"]) is not int:
        return False
    if any(type(fields[name]) is not int or not 0 <= fields[name] < COUNT_LIMIT for name in ("targets", "tokens")):
        return False
    seconds, loss = fields["seconds"], fields["loss"]
    if not isinstance(seconds, dict) or not all(_finite(value) for value in seconds.values()):
        return False
    if fields["targets"] == 0:
        return loss is None or _finite(loss)
    return _finite(loss) and 0 <= loss <= 100


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e308


def taken(message: Spoilt) -> str | None:
    """Send a message the whole way; return why it was refused, or None where it counts."""
    events: list[Event] = []
    bank = AdapterBank.of_equal_rows([SILO, "shop-2"], torch.zeros(WIDTH))
    task = TrainTask(SILO, ROUND, 0.5, bank.row(SILO))
    intake = Intake([task], bank, None, FederationSettings(), events.append)
    try:
        update = codec.update_of(parcel_of(message.content))
    except RunError as problem:
        return str(problem)
    intake.take(update)
    intake.close()
    refused = next((str(event.data["reason"]) for event in events if event.name == "quarantined"), None)
    changed = bool(bank.rows.any())
    if refused is not None and changed:
        raise AssertionError(f"A refused update has left a trace in the bank: {refused}")
    if changed and not update.targets:
        raise AssertionError("The row of one who has learned nothing has been taken.")
    return refused


def main(arguments: list[str] | None = None) -> None:
    """Send the messages and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "fuzzed_messages.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    draw, counts, reasons = random.Random(options.seed), Counter[str](), Counter[str]()
    started = time.perf_counter()
    for _ in range(options.messages):
        message = spoilt(draw)
        try:
            refused = taken(message)
        except Exception as problem:
            counts["crashed"] += 1
            reasons[f"crash: {type(problem).__name__}"] += 1
            continue
        wrong = (refused is None) != acceptable(message)
        counts["refused" if refused else "accepted"] += 1
        counts["wrongly refused" if refused and wrong else "wrongly accepted" if wrong else "right"] += 1
        if refused:
            reasons[" ".join(refused.split()[:6])] += 1
    figures = {
        "messages": options.messages,
        "seed": options.seed,
        **{name: counts[name] for name in ("accepted", "refused", "wrongly accepted", "wrongly refused", "crashed")},
        "reasons": dict(reasons.most_common(20)),
        "seconds": round(time.perf_counter() - started, 2),
    }
    write_result(options.output, "fuzzed_messages", figures)


if __name__ == "__main__":
    main()
