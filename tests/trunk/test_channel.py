"""Channels to servers that are slow, wrong, or not there for a moment."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from trunk_process import certificates

from pplr.pki import Identity, Party, Role
from pplr.trunk.channel import lasting, secure_channel

SLOW = 0.7
"""Seconds that a machine with much to do may well need for a handshake; a try must outlast them."""
METHOD = "/pplr.Test/Echo"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("own") / "certificates")


def party(folder: Path, role: Role) -> Party:
    return Party.load(folder, Identity(role, role.value))


@contextmanager
def echoing(server: Party) -> Iterator[int]:
    running = grpc.server(futures.ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pplr.Test", {"Echo": handler}),))
    pair = [(server.key, server.certificate)]
    credentials = grpc.ssl_server_credentials(pair, root_certificates=server.authority, require_client_auth=True)
    port = running.add_secure_port("127.0.0.1:0", credentials)
    running.start()
    try:
        yield port
    finally:
        running.stop(0)


@contextmanager
def delayed(port: int) -> Iterator[int]:
    """Give a port whose connections go on to `port`, after `SLOW` seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def carry(here: socket.socket, there: socket.socket) -> None:
            with suppress(OSError):  # either end goes when it has had enough
                while data := here.recv(65_536):
                    there.sendall(data)

        def accept() -> None:
            while True:
                try:
                    here, _ = listener.accept()
                except OSError:
                    return
                time.sleep(SLOW)
                there = socket.create_connection(("127.0.0.1", port))
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])


def failure(port: int, party: Party, seconds: float) -> grpc.RpcError:
    with secure_channel(f"127.0.0.1:{port}", party) as channel, pytest.raises(grpc.RpcError) as problem:
        channel.unary_unary(METHOD)(b"hello", timeout=seconds)
    return problem.value


def test_a_slow_handshake_is_waited_for(own: Path) -> None:
    with (
        echoing(party(own, Role.TRUNK)) as port,
        delayed(port) as slow,
        secure_channel(f"127.0.0.1:{slow}", party(own, Role.COORDINATOR)) as channel,
    ):
        assert channel.unary_unary(METHOD)(b"hello", timeout=20) == b"hello"


def test_a_handshake_that_is_cut_off_is_tried_again(own: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut() -> None:
            connection, _ = listener.accept()
            connection.recv(1)
            connection.close()

        threading.Thread(target=cut, daemon=True).start()
        port = int(listener.getsockname()[1])
        problem = failure(port, party(own, Role.COORDINATOR), 5)
    assert problem.code() is grpc.StatusCode.UNAVAILABLE
    assert lasting(problem, "here") is None


def test_another_authority_is_no_use_to_try_again(own: Path, tmp_path: Path) -> None:
    others = certificates(tmp_path / "others")
    with echoing(party(own, Role.TRUNK)) as port:
        problem = failure(port, party(others, Role.COORDINATOR), 5)
    assert "do not accept each other's certificates" in str(lasting(problem, "here"))
