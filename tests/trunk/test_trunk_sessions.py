"""What a trunk's server does with parties that are strangers, revoked, silent, greedy, killed, or talk nonsense."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trunk_process import CLIENTS, TrunkProcess, certificates, serving

import tiny
from pplr.backbones import load_backbone
from pplr.config import Config
from pplr.errors import ConfigError, RunError
from pplr.models.decoding import TitleTrie, beam_search
from pplr.models.hub import resolve
from pplr.pki import Authority, Identity, Party, Role
from pplr.trunk.build import LoadedTrunk, agreement, run_digest
from pplr.trunk.connection import METHOD, secure_channel
from pplr.trunk.fields import HelloFields
from pplr.trunk.frames import Frame, Kind, decoded, encoded
from pplr.trunk.health import answer_seconds
from pplr.trunk.remote import RemoteAccess
from pplr.trunk.stub import StubTrunk
from pplr.trunk.work import Manner, States
from whole_runs import configuration

WIDTH = 16
PLACEMENT = {"kind": "split", "bottom": 0, "top": 1, "server": "127.0.0.1:1", "pieces": 1, "wait_seconds": 30.0}
LIMITS = ("passes=4", "held_tokens=4000", "tokens=2000", "idle_seconds=8", "frame_bytes=1000000")


class Served:
    """A server with a run, and the ways to it."""

    def __init__(self, config: Config, pki: Path, server: TrunkProcess) -> None:
        self.pki, self.server = pki, server
        placement = config.placement.model_copy(update={"server": server.address, "certificates": str(pki)})
        self.config = config.model_copy(update={"placement": placement})
        self.files = resolve(config.backbone.model)
        self.hello = HelloFields(
            agreement=agreement(self.config, self.files), run=run_digest(self.config), codec="float32", bucket=1
        )
        self.access().control(fresh=True).begin_round(1)

    def access(self) -> RemoteAccess:
        """Return another way to the server."""
        return RemoteAccess(self.config, self.files, list(CLIENTS))

    def talk(self, client: str, *frames: bytes, party: Party | None = None, hello: bool = True) -> list[Frame]:
        """Say `frames` as a client, and return the answers; raises RpcError where the session is ended."""
        party = party or Party.load(self.pki, Identity(Role.CLIENT, client))
        first = [encoded(Frame(Kind.HELLO, 0, self.hello.model_dump()))] if hello else []
        with secure_channel(self.server.address, party) as channel:
            call = channel.stream_stream(METHOD)
            return [decoded(data) for data in call(iter([*first, *frames]), timeout=60)]

    def refusal(self, client: str, *frames: bytes, **options) -> tuple[grpc.StatusCode, str]:
        """Return how a session is ended."""
        with pytest.raises(grpc.RpcError) as caught:
            self.talk(client, *frames, **options)
        return caught.value.code(), caught.value.details()


@pytest.fixture(scope="module")
def served(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("sessions")
    pki = certificates(folder / "certificates")
    config = configuration(files, "generative", placement=PLACEMENT, training={"batch_tokens": 500})
    options = [word for limit in LIMITS for word in ("--limit", limit)]
    with serving(config, folder, pki, *options, "--metrics-port", "0") as server:
        yield Served(config, pki, server)


def states(rows: int = 2, length: int = 5, seed: int = 1) -> States:
    generator = torch.Generator().manual_seed(seed)
    return States(torch.randn(rows, length, WIDTH, generator=generator), torch.ones(rows, length, dtype=torch.bool))


def forward(number: int = 1, given: States | None = None, **changes) -> bytes:
    given = given or states()
    rows, length = given.present.shape
    fields = {"rows": rows, "length": length, "start": 0, **vars(Manner(causal=True, dropout=3, gradients=True))}
    tensors = {"rows.values": given.rows[given.present], "present": torch.full((-(-rows * length // 8),), 255).byte()}
    return encoded(Frame(Kind.FORWARD, number, fields | changes, tensors))


def step_of(link, seed: int, number: int = 1) -> States:
    """Take one step of a client over its link."""
    given = states(seed=seed)
    result = link.forward(number, given, Manner(causal=True, dropout=seed, gradients=True))()
    link.backward(number, States(torch.ones_like(result.rows), given.present))
    found = link.gradient(number)
    link.step(number, 0.1, 1.0)
    return found


def test_health(served: Served) -> None:
    assert answer_seconds(served.config, "shop-0")[1] < 10
    assert answer_seconds(served.config, None)[0] == served.server.address
    elsewhere = served.config.placement.model_copy(update={"server": "127.0.0.1:9"})
    with pytest.raises(RunError, match="does not answer"):
        answer_seconds(served.config.model_copy(update={"placement": elsewhere}), None)


def test_a_client_touches_only_its_own_row(served: Served) -> None:
    """The identity is the certificate's: the same requests by two clients end in two rows, and a third is untouched."""
    access = served.access()
    one, two = access.link("shop-0"), access.link("shop-1")
    control = access.control(fresh=False)
    control.begin_round(2)
    before = control.gram(updates=True)
    assert not before.any()
    for link, seed in ((one, 1), (two, 2)):
        link.start(2)
        step_of(link, seed)
        link.finish()
    after = control.gram(updates=True)
    assert after[0, 0] > 0
    assert after[1, 1] > 0
    assert not after[2].any()
    expected = LoadedTrunk(served.config, served.files, torch.device("cpu")).work(CLIENTS)
    expected.rows.begin_round(2)
    for client, seed in (("shop-0", 1), ("shop-1", 2)):
        result = expected.forward(client, 1, states(seed=seed), Manner(causal=True, dropout=seed, gradients=True))
        expected.backward(client, 1, States(torch.ones_like(result.rows), result.present))
        expected.rows.step(client, 1, 0.1, 1.0)
        expected.rows.finish(client)
    torch.testing.assert_close(after, expected.rows.gram(updates=True), rtol=1e-4, atol=1e-9)
    access.close()


def test_a_client_that_was_left_out_stays_so_also_after_the_server_was_killed(served: Served) -> None:
    access = served.access()
    control, link = access.control(fresh=False), access.link("shop-0")
    control.begin_round(30)
    link.start(30)
    step_of(link, 1)
    link.finish()
    assert control.gram(updates=True)[0, 0] > 0
    control.leave_out(["shop-0"], 30)
    assert not control.gram(updates=True).any()
    served.server.kill()
    served.server.start()
    late = served.access().link("shop-0")
    with pytest.raises(RunError, match="Round 30 has gone on without client shop-0"):
        late.start(30)
        step_of(late, 1)
    control.begin_round(31)
    again = served.access().link("shop-0")
    again.start(31)
    step_of(again, 1)
    again.finish()
    assert control.gram(updates=True)[0, 0] > 0
    access.close()


def test_strangers_are_not_let_in(served: Served, tmp_path: Path) -> None:
    others = certificates(tmp_path / "others")
    stranger = Party.load(others, Identity(Role.CLIENT, "shop-0"))
    ours = Party.load(served.pki, Identity(Role.CLIENT, "shop-0"))
    code, _ = served.refusal("shop-0", party=Party(ours.authority, stranger.certificate, stranger.key))
    assert code is grpc.StatusCode.UNAVAILABLE  # TLS ends it
    Authority(served.pki).issue(Identity(Role.CLIENT, "shop-9"))
    code, why = served.refusal("shop-9")
    assert (code, "no client 'shop-9'" in why) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    with grpc.insecure_channel(served.server.address) as channel, pytest.raises(grpc.RpcError):
        list(channel.stream_stream(METHOD)(iter([b""]), timeout=10))
    with pytest.raises(ConfigError, match="cannot prove who it is"):
        served.access().link("nobody")


def test_a_revoked_client_is_put_out_while_it_speaks(served: Served) -> None:
    link = served.access().link("shop-2")
    link.keep()
    Authority(served.pki).revoke(Identity(Role.CLIENT, "shop-2"))
    with pytest.raises(RunError, match=r"certificate of client shop-2 was revoked"):
        for _ in range(3):
            link.keep()
    code, why = served.refusal("shop-2")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "was revoked" in why
    Authority(served.pki).issue(Identity(Role.CLIENT, "shop-2"))
    served.access().link("shop-2").keep()


def test_a_client_is_no_coordinator_and_the_other_way_round(served: Served) -> None:
    for kind, fields in ((Kind.GRAM, {"updates": False}), (Kind.BEGIN, {"round": 9}), (Kind.RESTORE, {"round": 0})):
        code, why = served.refusal("shop-0", encoded(Frame(kind, 1, fields)))
        assert (code, why) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            f"A request of kind {kind} is not for client shop-0.",
        )
    hello = served.hello.model_copy(update={"clients": list(CLIENTS)}).model_dump()
    party = Party.load(served.pki, Identity(Role.COORDINATOR, "coordinator"))
    frames = (encoded(Frame(Kind.HELLO, 0, hello)), encoded(Frame(Kind.KEEP, 1)))
    assert "is not for the coordinator" in served.refusal("", *frames, party=party, hello=False)[1]


NONSENSE = {
    "no hello": ([encoded(Frame(Kind.KEEP, 1))], False, "begins with a frame of kind hello|no fields|not as agreed"),
    "another kind of hello": ([encoded(Frame(Kind.WELCOME, 1))], False, "no request"),
    "bytes": ([b"\x80\x04pickle"], True, "cannot be read"),
    "an empty frame": ([b""], True, "cannot be read"),
    "more rows than allowed": ([forward(given=states(500, 5))], True, "tokens; 4,096 and 2,000 are allowed"),
    "a gradient for nothing": (
        [encoded(Frame(Kind.BACKWARD, 7, {"of": 99, "start": 0, "rows": 1, "length": 1},
                       {"rows.values": torch.zeros(1, WIDTH), "present": torch.tensor([128]).byte()}))],
        True,
        "is not held",
    ),
    "a step that leaves others out": ([encoded(Frame(Kind.STEP, 1, {"step": 7, "rate": 0.1, "factor": 1.0}))], True, "missing"),
    "another round": ([encoded(Frame(Kind.START, 1, {"round": 77}))], True, "round 77"),
    "a pass twice": ([forward(1), forward(1)], True, "forward pass 1 already"),
    "too many passes": ([forward(n) for n in range(1, 7)], True, "would hold 5 passes"),
    "a reading that was never begun": (
        [encoded(Frame(Kind.SPREAD, 1, {"reading": 5, "rows": 2, "room": 3}))], True, "has no reading 5"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_ends_its_own_session_with_a_sentence(served: Served, name: str) -> None:
    frames, hello, sentence = NONSENSE[name]
    code, why = served.refusal("shop-0", *frames, hello=hello)
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
    assert any(part in why for part in sentence.split("|")), why
    assert "Traceback" not in why


def test_a_frame_that_is_too_large_is_not_taken(served: Served) -> None:
    code, _ = served.refusal("shop-0", bytes(1_000_001))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_spoilt_frames_end_sessions_and_nothing_else(served: Served, data: st.DataObject) -> None:
    raw = bytearray(forward(1))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    try:
        served.talk("shop-0", bytes(raw))
    except grpc.RpcError as problem:
        assert problem.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
    assert served.server.process.poll() is None


def test_a_silent_client_is_put_out_and_a_stalled_one_holds_up_nobody(served: Served) -> None:
    party = Party.load(served.pki, Identity(Role.CLIENT, "shop-0"))
    stop = threading.Event()

    def frames() -> Iterator[bytes]:
        yield encoded(Frame(Kind.HELLO, 0, served.hello.model_dump()))
        yield encoded(Frame(Kind.START, 1, {"round": served_round(served)}))
        yield forward(2)  # and its gradient never comes
        stop.wait(60)

    with secure_channel(served.server.address, party) as channel:
        call = channel.stream_stream(METHOD)(frames())
        kinds = [decoded(next(call)).kind for _ in range(3)]
        assert kinds == [Kind.WELCOME, Kind.DONE, Kind.STATES]
        access = served.access()
        link = access.link("shop-1")
        link.start(served_round(served))
        started = time.monotonic()
        for number in range(1, 6):
            step_of(link, number, number)
        link.finish()
        assert time.monotonic() - started < 7  # the stalled client is put out after 8 s only
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        stop.set()
        access.close()


def served_round(served: Served) -> int:
    """Return the round that is on."""
    (welcome,) = served.talk("shop-1")
    return int(welcome.fields["round"])


def test_another_session_of_a_client_ends_the_first(served: Served) -> None:
    first, second = served.access().link("shop-0"), served.access().link("shop-0")
    first.keep()
    second.keep()
    with pytest.raises(RunError, match="Another session of client shop-0 has begun"):
        for _ in range(3):
            first.keep()
            time.sleep(0.2)
    second.keep()


KILLED = """
import sys, time
sys.path[:0] = sys.argv[3].split(":")
from pathlib import Path
import torch
from pplr.config import load_config
from pplr.models.hub import resolve
from pplr.trunk.remote import RemoteAccess
from test_trunk_sessions import Manner, states
config = load_config(Path(sys.argv[1]))
link = RemoteAccess(config, resolve(config.backbone.model), ["shop-0", "shop-1", "shop-2"]).link("shop-0")
link.start(int(sys.argv[2]))
for number in (1, 2, 3):
    link.forward(number, states(20, 20), Manner(causal=True, dropout=1, gradients=True))()
print("held", flush=True)
time.sleep(60)
"""


def test_a_client_that_is_killed_in_a_step_leaves_nothing_behind(served: Served, tmp_path: Path) -> None:
    from pplr.config import config_toml

    (tmp_path / "client.toml").write_text(config_toml(served.config))
    number = served_round(served)
    arguments = [str(tmp_path / "client.toml"), str(number), ":".join(sys.path)]
    client = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    with client.stdout:
        assert client.stdout.readline() == "held\n"
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
    time.sleep(0.5)
    given = states(20, 20)
    link = served.access().link("shop-0")  # with the other's passes still there, these would be too many
    link.start(number)
    for one in (1, 2, 3, 4):
        link.forward(one, given, Manner(causal=True, dropout=1, gradients=True))()


def test_a_beam_search_says_which_rows_go_and_nothing_where_none_goes(served: Served) -> None:
    access, users = served.access(), 4
    backbone, _ = load_backbone(served.config, tiny.catalogue(), lambda event: None)
    model = backbone.behind(StubTrunk(access.link("shop-0"))).model
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(4, tiny.BYTES, (users, 12), generator=generator)
    titles = [torch.randint(4, 9, (length,), generator=generator).tolist() for length in range(1, 25)]
    options = {"beams": 3, "max_new_tokens": 30, "eos": 0, "trie": TitleTrie(titles, 0)}
    beam_search(model, prompts, torch.ones_like(prompts), same_weights=True, **options)
    sent = {kind: figures["frames"] for kind, figures in access.traffic()["up"].items()}
    assert sent["read"] > users
    assert sent.get("shift", 0) < users, "a frame drops one user at least, and the last is never dropped"
    access.close()
