"""Frames: what is written is what is read, also by safetensors itself, and anything else is refused."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load

from pplr.models.causal.interface import Sight
from pplr.trunk.codecs import CODECS
from pplr.trunk.fields import CLIENTS, COORDINATORS, FIELDS, Contract, Limits
from pplr.trunk.frames import Frame, Kind, WireError, decoded, encoded
from pplr.trunk.messages import request
from pplr.trunk.payload import bits_of, plain_states, plain_tensors, read_tensors, received_states, state_tensors
from pplr.trunk.work import States

WIDTH = 6
LIMITS = Limits(rows=8, tokens=100, held_tokens=200, frame_bytes=65536)


def contract(codec: str = "float32", *, decoder: bool = True, bucket: int = 1) -> Contract:
    return Contract(WIDTH, decoder, CODECS[codec], bucket, LIMITS, clients=3)


def states(start: int = 0, seed: int = 1) -> States:
    generator = torch.Generator().manual_seed(seed)
    present = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    rows = torch.randn(3, 4, WIDTH, generator=generator) * present[..., None]
    return States(rows, present, torch.randn(1, start, WIDTH, generator=generator) if start else None)


def pass_frame(given: States, agreed: Contract, **changes) -> Frame:
    fields = {
        "rows": 3,
        "length": 4,
        "start": 0 if given.start is None else given.start.shape[1],
        "causal": True,
        "adapted": True,
        "dropout": 7,
        "gradients": True,
        "best": False,
    }
    return Frame(Kind.FORWARD, 5, fields | changes, state_tensors(given, agreed, present=True))


def test_a_frame_is_a_safetensors_file(tmp_path) -> None:
    frame = pass_frame(states(2), contract())
    data = encoded(frame)
    (tmp_path / "frame.safetensors").write_bytes(data)
    with safe_open(tmp_path / "frame.safetensors", "pt") as file:
        assert file.metadata()["kind"] == "forward"
        assert json.loads(file.metadata()["fields"]) == frame.fields
    theirs, ours = load(data), decoded(data)
    assert (ours.kind, ours.number, ours.fields) == (frame.kind, frame.number, frame.fields)
    assert ours.tensors.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours.tensors[name], tensor)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bucket", [1, 16])
@pytest.mark.parametrize("start", [0, 2])
def test_states_arrive(codec: str, bucket: int, start: int) -> None:
    agreed, given = contract(codec, bucket=bucket), states(start)
    found = request(decoded(encoded(pass_frame(given, agreed))), agreed)
    assert found.states is not None
    tolerance = {"float32": 0.0, "bfloat16": 0.02, "int8": 0.03}[codec]
    torch.testing.assert_close(found.states.rows, given.rows, atol=tolerance, rtol=tolerance)
    assert torch.equal(found.states.present, given.present)
    if start:
        torch.testing.assert_close(found.states.start, given.start, atol=tolerance, rtol=tolerance)
    answer = decoded(encoded(Frame(Kind.STATES, 5, {}, state_tensors(given, agreed, present=False))))
    back = received_states(answer, given.present, start, agreed)
    torch.testing.assert_close(back.rows, given.rows, atol=tolerance, rtol=tolerance)


def test_frames_of_texts_of_other_lengths_have_one_size_with_a_bucket() -> None:
    def size(lengths: list[int], bucket: int) -> int:
        present = torch.arange(8)[None] < torch.tensor(lengths)[:, None]
        given = States(torch.randn(3, 8, WIDTH) * present[..., None], present)
        return len(encoded(pass_frame(given, contract(bucket=bucket), length=8)))

    assert size([3, 4, 8], 1) != size([1, 2, 8], 1)
    assert size([3, 4, 8], 16) == size([1, 2, 8], 16)


def test_what_is_read_by_a_beam_search_arrives() -> None:
    generator, agreed = torch.Generator().manual_seed(3), contract()
    given = torch.randn(2, 3, WIDTH, generator=generator)
    positions, keys = torch.tensor([[4, 5, 6], [2, 3, 4]]), torch.arange(10).reshape(2, 5)
    seen, full = (
        torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1]]) == 1,
        torch.rand(2, 1, 3, 5, generator=generator) > 0.5,
    )
    for sight in (Sight(seen), Sight(full=full, keys=keys)):
        fields = {"reading": 1, "room": 4, "adapted": True, "best": False, "rows": 2, "new": 3, "all": 5}
        fields["full"] = sight.full is not None
        frame = Frame(Kind.READ, 9, fields, read_tensors(given, positions, sight, agreed))
        found = request(decoded(encoded(frame)), agreed).read
        assert found is not None
        assert torch.equal(found[0], given)
        assert torch.equal(found[1], positions)
        assert found[2].length == 5
        for name in ("seen", "full", "keys"):
            one, other = getattr(found[2], name), getattr(sight, name)
            assert (one is None and other is None) or torch.equal(one, other)
    answer = decoded(encoded(Frame(Kind.STATES, 9, {}, plain_tensors(given, agreed))))
    assert torch.equal(plain_states(answer, (2, 3), agreed), given)


CHANGES = [
    {"rows": 5},
    {"rows": 0},
    {"rows": True},
    {"rows": 2**40},
    {"length": 7},
    {"length": -4},
    {"length": 10**9},
    {"start": 1},
    {"causal": 1},
    {"dropout": -1},
    {"dropout": "7"},
    {"adapted": False},
    {"best": True},
    {"more": 1},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_pass_that_breaks_the_contract_is_refused(change) -> None:
    agreed = contract()
    with pytest.raises(WireError):
        request(decoded(encoded(pass_frame(states(), agreed, **change))), agreed)


def test_an_encoder_has_no_causal_passes_and_a_decoder_has_masked_ones_too() -> None:
    with pytest.raises(WireError, match="causal"):
        request(decoded(encoded(pass_frame(states(), contract(decoder=False)))), contract(decoder=False))
    with pytest.raises(WireError, match="causal"):
        request(decoded(encoded(pass_frame(states(2), contract(), causal=False))), contract())
    found = request(decoded(encoded(pass_frame(states(), contract(), causal=False))), contract())
    assert found.manner is not None
    assert not found.manner.causal


def test_tensors_that_nobody_agreed_on_are_refused() -> None:
    agreed, given = contract(), states()
    good = pass_frame(given, agreed)
    for name, tensor in {
        "rows.values": torch.zeros(8, WIDTH + 1),
        "rows.scales": torch.zeros(8),
        "other": torch.zeros(1),
        "present": torch.zeros(3, dtype=torch.uint8),
        "start.values": torch.zeros(1, WIDTH),
    }.items():
        with pytest.raises(WireError):
            request(Frame(good.kind, 1, good.fields, {**good.tensors, name: tensor}), agreed)
    spoilt = {**good.tensors, "rows.values": good.tensors["rows.values"] * float("nan")}
    with pytest.raises(WireError, match="not finite"):
        request(Frame(good.kind, 1, good.fields, spoilt), agreed)
    matrix = {"matrix": torch.full((3, 3), float("inf"), dtype=torch.float64)}
    with pytest.raises(WireError, match="not finite"):
        request(Frame(Kind.MIX, 1, {"round": 1}, matrix), agreed)
    with pytest.raises(WireError, match="no 'matrix' of shape"):
        request(Frame(Kind.MIX, 1, {"round": 1}, {"matrix": torch.zeros(2, 2, dtype=torch.float64)}), agreed)
    with pytest.raises(WireError, match="is no request"):
        request(Frame(Kind.WELCOME, 1), agreed)


def test_more_than_the_limits_is_refused() -> None:
    agreed = contract()
    present = torch.ones(2, 60, dtype=torch.bool)
    large = Frame(
        Kind.FORWARD,
        1,
        pass_frame(states(), agreed).fields | {"rows": 2, "length": 60},
        state_tensors(States(torch.zeros(2, 60, WIDTH), present), agreed, present=True),
    )
    with pytest.raises(WireError, match="2 rows and 120 tokens; 8 and 100 are allowed"):
        request(large, agreed)
    with pytest.raises(WireError, match="65,537 bytes, and 65,536 are allowed"):
        decoded(bytes(65537), LIMITS.frame_bytes)


def header(value: object, content: bytes = b"") -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content


ABOUT = {"pplr": "2", "kind": "keep", "number": "3", "fields": "{}"}
TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN = {
    "empty": b"",
    "short": b"\x01\x00",
    "no header": struct.pack("<Q", 0),
    "long header": struct.pack("<Q", 2**62) + b"{}",
    "not JSON": header(b"{x}"),
    "a list": header([1]),
    "deep": header(b'{"a":' + b"[" * 30000 + b"]" * 30000 + b"}"),
    "twice": header(b'{"__metadata__":{},"__metadata__":{}}'),
    "NaN": header(b'{"__metadata__":NaN}'),
    "not text": header(b'{"\xff":1}'),
    "no metadata": header({}),
    "more metadata": header({"__metadata__": ABOUT | {"more": "1"}}),
    "metadata of numbers": header({"__metadata__": ABOUT | {"number": 3}}),
    "another version": header({"__metadata__": ABOUT | {"pplr": "1"}}),
    "another kind": header({"__metadata__": ABOUT | {"kind": "shutdown"}}),
    "a negative number": header({"__metadata__": ABOUT | {"number": "-3"}}),
    "fields that are a list": header({"__metadata__": ABOUT | {"fields": "[]"}}),
    "trailing bytes": header({"__metadata__": ABOUT}, b"x"),
    "a pickle": b"\x80\x04\x95\x0a\x00\x00\x00\x00\x00\x00\x00\x8c\x06pplr.x\x94.",
    "offsets backwards": header({"__metadata__": ABOUT, "a": TENSOR | {"data_offsets": [8, 0]}}, bytes(8)),
    "a hole": header({"__metadata__": ABOUT, "a": TENSOR | {"data_offsets": [8, 16]}}, bytes(16)),
    "an overlap": header({"__metadata__": ABOUT, "a": TENSOR, "b": TENSOR}, bytes(8)),
    "another size": header({"__metadata__": ABOUT, "a": TENSOR | {"shape": [3]}}, bytes(8)),
    "a huge shape": header({"__metadata__": ABOUT, "a": TENSOR | {"shape": [2**39, 2**39]}}, bytes(8)),
    "a negative shape": header({"__metadata__": ABOUT, "a": TENSOR | {"shape": [-1, -2]}}, bytes(8)),
    "a true shape": header({"__metadata__": ABOUT, "a": TENSOR | {"shape": [2, True]}}, bytes(8)),
    "too many dimensions": header({"__metadata__": ABOUT, "a": TENSOR | {"shape": [2, 1, 1, 1]}}, bytes(8)),
    "another type": header({"__metadata__": ABOUT, "a": TENSOR | {"dtype": "F8_E4M3"}}, bytes(8)),
    "a path as a name": header({"__metadata__": ABOUT, "../a": TENSOR}, bytes(8)),
    "many tensors": header(
        {"__metadata__": ABOUT} | {"a" * i: TENSOR | {"shape": [0], "data_offsets": [0, 0]} for i in range(1, 10)}
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bytes_that_are_no_frame_are_refused(name: str) -> None:
    with pytest.raises(WireError):
        decoded(BROKEN[name])


def test_the_smallest_frame_is_one() -> None:
    assert decoded(header({"__metadata__": ABOUT})) == Frame(Kind.KEEP, 3)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_spoilt_frame_is_read_or_refused_and_never_anything_else(data: st.DataObject) -> None:
    agreed = contract(data.draw(st.sampled_from(sorted(CODECS))))
    raw = bytearray(encoded(pass_frame(states(2), agreed)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    try:
        found = request(decoded(bytes(raw), LIMITS.frame_bytes), agreed)
    except WireError:
        return
    if found.states is not None:
        assert torch.isfinite(found.states.rows).all()
        assert found.states.rows.numel() <= LIMITS.tokens * WIDTH


def test_every_request_belongs_to_one_role() -> None:
    assert CLIENTS | COORDINATORS | {Kind.HELLO} == set(FIELDS)
    assert not CLIENTS & COORDINATORS
    assert torch.equal(bits_of(torch.tensor([True, False, True])), torch.tensor([0b10100000], dtype=torch.uint8))
