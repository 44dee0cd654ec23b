"""What keeps a silo from its coordinator is said in one sentence: nobody there, somebody else, another clock."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pplr.address import Address, check_free
from pplr.errors import ConfigError, RunError
from pplr.pki import Authority, Identity, Role
from pplr.pki.look import certificate_state
from pplr.silos.node import why_ended
from pplr.silos.operate import run_coordinator
from pplr.silos.processes import Security, free_port
from pplr.silos.reach import reached
from whole_runs import configuration

COORDINATOR = Identity(Role.COORDINATOR, "coordinator")


def made(folder: Path, *hosts: str) -> Path:
    """An authority, with certificates of a coordinator at `hosts` and of one silo."""
    authority = Authority.create(folder)
    authority.issue(COORDINATOR, hosts)
    authority.issue(Identity(Role.CLIENT, "shop-1"))
    return folder


@contextmanager
def answering(date: str | None, certificates: Path | None = None) -> Iterator[Address]:
    """Somebody who answers every request, with a date."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(404)
            if date is not None:
                self.send_header("Date", date)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Quiet(HTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that does not like the certificate has left."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            own = certificates / "coordinator"
            context.load_cert_chain(own / "certificate.pem", own / "key.pem")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Address("127.0.0.1", server.server_port)
        server.shutdown()
        thread.join()


def refusal(address: Address, certificates: Path | None = None) -> str:
    with pytest.raises(RunError) as caught:
        reached(address, Security(certificates))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_clock_that_agrees_is_reached_also_over_tls(tmp_path: Path) -> None:
    folder = made(tmp_path / "pki", "127.0.0.1")
    for certificates in (None, folder):
        with answering(formatdate(usegmt=True), certificates) as address:
            assert "the clocks agree" in reached(address, Security(certificates))


def test_a_clock_that_is_ahead_or_behind_is_named_with_the_difference() -> None:
    import time

    for seconds in (-60, 60):
        with answering(formatdate(time.time() + seconds, usegmt=True)) as address:
            said = refusal(address)
        assert "differ by" in said and "Let both follow a time server" in said
        assert 57 <= int(said.partition("differ by ")[2].split()[0]) <= 61


def test_a_wrong_address_is_named() -> None:
    assert "Is it running, and is this its address?" in refusal(Address("127.0.0.1", free_port()))
    with answering(None) as address:
        assert refusal(address) == f"Whoever answers at {address} is no SuperLink. Look at the address."


def test_a_coordinator_of_another_authority_or_with_another_name_is_not_spoken_to(tmp_path: Path) -> None:
    ours, theirs = made(tmp_path / "ours", "127.0.0.1"), made(tmp_path / "theirs", "127.0.0.1")
    elsewhere = made(tmp_path / "elsewhere", "rounds.example.org")
    with answering(formatdate(usegmt=True), theirs) as address:
        said = refusal(address, ours)
        assert f"whoever answers at {address} is not accepted" in said and "of one authority everywhere" in said
    with answering(formatdate(usegmt=True), elsewhere) as address:
        assert "IP address mismatch" in refusal(address, elsewhere)


def test_a_certificate_of_another_authority_is_seen_in_ones_own_folder(tmp_path: Path) -> None:
    ours, theirs = made(tmp_path / "ours"), made(tmp_path / "theirs")
    shop = Identity(Role.CLIENT, "shop-1")
    assert certificate_state(ours, shop).startswith("of client shop-1, valid until")
    (ours / "ca.pem").write_bytes((theirs / "ca.pem").read_bytes())
    with pytest.raises(ConfigError, match="was not issued by the authority in"):
        certificate_state(ours, shop)


def test_an_address_that_cannot_be_had_is_named_before_anything_is_started(files: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(RunError, match=f"Another process listens at {taken} already"):
            run_coordinator(configuration(files), tmp_path / "run", taken, Security(None), silos=("shop-1",))
        assert not list(tmp_path.iterdir())
        with pytest.raises(RunError, match="Another process listens"):
            check_free(taken.everywhere)
    with pytest.raises(RunError, match=r"192\.0\.2\.1:8000 is no address of this machine\. Listen at 0\.0\.0\.0:8000"):
        check_free(Address("192.0.2.1", 8000))
    assert check_free(taken) == f"{taken} is free"


def test_a_silo_that_its_coordinator_does_not_know_is_told_so(tmp_path: Path) -> None:
    log = tmp_path / "supernode.log"
    before = "[code: 2004] Failed to activate SuperNode.\n"
    log.write_text(before + "Killed.\n")
    assert "does not know the key of shop-9" in why_ended("shop-9", 1, log, 0)
    assert "ended with -9" in why_ended("shop-9", -9, log, len(before))
