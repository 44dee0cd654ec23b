"""Machines of a network on one machine: network namespaces with addresses of their own, or loopback addresses."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_PREFIX = "pplr"


@dataclass(frozen=True)
class Machine:
    """One machine.

    Attributes:
        address: at which the others reach it.
        enter: words in front of a command that make it run there.
    """

    address: str
    enter: tuple[str, ...] = ()


@contextmanager
def machines(count: int) -> Iterator[tuple[str, list[Machine]]]:
    """Give so many machines, and in words what they are: namespaces where that is allowed, else loopback addresses."""
    if _namespaces_allowed():
        with _namespaces(count) as found:
            yield f"{count} network namespaces", found
    else:
        yield f"{count} loopback addresses", [Machine(f"127.0.0.{number + 2}") for number in range(count)]


def _namespaces_allowed() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"{_PREFIX}{os.getpid()}x"
    try:
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "bridge")
        _ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
    except subprocess.CalledProcessError:
        return False
    finally:
        for words in (("link", "del", f"{name}a"), ("link", "del", name), ("netns", "del", name)):
            subprocess.run(["ip", *words], check=False, capture_output=True)
    return True


@contextmanager
def _namespaces(count: int) -> Iterator[list[Machine]]:
    """Namespaces on one bridge, in an address range of this process's own; the bridge itself has no address."""
    mark = f"{_PREFIX}{os.getpid()}"
    net = f"10.{200 + os.getpid() // 256 % 50}.{os.getpid() % 256}"
    names = [f"{mark}n{number}" for number in range(count)]
    try:
        _ip("link", "add", mark, "type", "bridge")
        _ip("link", "set", mark, "up")
        found = []
        for number, name in enumerate(names):
            _ip("netns", "add", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", mark, "up")
            _ip("-n", name, "addr", "add", f"{net}.{number + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
            found.append(Machine(f"{net}.{number + 1}", ("ip", "netns", "exec", name)))
        yield found
    finally:
        for words in (*(("link", "del", name) for name in (*names, mark)), *(("netns", "del", name) for name in names)):
            subprocess.run(["ip", *words], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
