"""Flower's own processes, started with the right flags, watched, and ended with all that they have started."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pplr import __version__
from pplr.address import Address
from pplr.config import Config
from pplr.errors import ConfigError, RunError
from pplr.models.parts.settings import WholePlacement
from pplr.silos.keys import private_key, public_keys
from pplr.storage import make_folder, write_text

ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Flower and Ray tell nobody that they run, ask nobody for newer versions, and install nothing."""
GRACE_SECONDS = 10.0
"""Between asking a process to end and ending it."""
LETTING_GO = 30.0
"""Seconds in which processes of a coordinator that was killed end, and let go of its run folder."""
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Security:
    """How the parties of a run know each other.

    Attributes:
        certificates: folder of the party's certificates from `pplr pki`; None: nothing is encrypted, on loopback only.
    """

    certificates: Path | None

    def check(self, address: Address) -> None:
        """Refuse plain text that would leave the machine.

        Raises:
            ConfigError: it would.
        """
        if self.certificates is None and not address.loopback:
            raise ConfigError(
                f"{address} is not on this machine, so the connection must be encrypted: name the folder of the "
                "certificates (--certificates), which `pplr pki init` makes. --insecure works with 127.0.0.1 only."
            )

    def of(self, config: Config) -> Config:
        """Return a configuration by which the party shows a model's server these same certificates, if it has any."""
        placement = config.placement
        if self.certificates is None or isinstance(placement, WholePlacement) or placement.server is None:
            return config
        own = placement.model_copy(update={"certificates": str(self.certificates)})
        return config.model_copy(update={"placement": own})


def security(certificates: Path | None, *, insecure: bool) -> Security:
    """Return how the parties know each other; to go without encryption is a decision that is said out loud.

    Raises:
        ConfigError: neither was said, or both.
    """
    if (certificates is None) != insecure:
        raise ConfigError(
            "Name the folder of the certificates (--certificates), which `pplr pki init` makes, or say --insecure on one "
            "machine: one of them."
        )
    return Security(None if certificates is None else certificates.resolve())


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of Flower's processes, whose own files go to `home`."""
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    return os.environ | ENVIRONMENT | {"FLWR_HOME": str(home), "PATH": path} | more


@contextmanager
def started(command: Sequence[str | Path], log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process while the block lasts, in a group of its own that ends with it; what it says goes to `log`.

    Raises:
        ConfigError: Flower is not installed.
    """
    program = Path(command[0])
    if not program.exists():
        raise ConfigError(f"{program.name} is not installed. Install Flower with `pip install 'pplr[flower]'`.")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=dict(env),
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - nothing is imported or locked in it
        )
    try:
        yield process
    finally:
        end(process)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Have Linux end this process when whoever started it is killed, so that a SuperLink does not keep its port."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all of its group: first asked, then made to."""
    _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def superlink_command(address: Address, security: Security, *, simulation: bool = False) -> list[str | Path]:
    """Return the command of a SuperLink that listens at an address."""
    words: list[str | Path] = [BIN / "flower-superlink", "--host", address.name, "--port", str(address.port)]
    words += ["--isolation", "subprocess", "--disable-runtime-dependency-installation"]
    if simulation:
        words.append("--simulation")
    if security.certificates is None:
        return [*words, "--insecure"]
    own = security.certificates / "coordinator"
    words += ["--ssl-ca-certfile", security.certificates / "ca.pem"]
    words.append("--enable-supernode-auth")
    return [*words, "--ssl-certfile", own / "certificate.pem", "--ssl-keyfile", own / "key.pem"]


def supernode_command(name: str, superlink: Address, security: Security, home: Path, port: int) -> list[str | Path]:
    """Return the command of the SuperNode of a silo, whose own interface listens on `port` of loopback.

    Raises:
        ConfigError: the silo has no certificate.
    """
    words: list[str | Path] = [BIN / "flower-supernode", "--superlink", str(superlink), "--host", "127.0.0.1"]
    words += ["--port", str(port), "--isolation", "subprocess", "--node-config", f'silo="{name}"']
    if security.certificates is None:
        return [*words, "--insecure"]
    key = private_key(security.certificates, name, home)
    return [*words, "--root-certificates", security.certificates / "ca.pem", "--auth-supernode-private-key", key]


def free_port() -> int:
    """Return a port of loopback that nobody uses right now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_until_reachable(address: Address, process: subprocess.Popen[bytes], log: Path, seconds: float = 60.0) -> None:
    """Wait until somebody listens at an address.

    Raises:
        RunError: the process has ended, or nobody listens after `seconds`.
    """
    deadline = time.monotonic() + seconds
    reachable = address.from_here
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection((reachable.name, address.port), timeout=1.0):
                return
        except OSError:
            time.sleep(0.2)
    raise RunError(f"The SuperLink does not listen at {address}. Its log is {log}.")


def submit(work: Path, address: Address, security: Security, silos: Sequence[str], *, simulated: bool = False) -> None:
    """Tell the SuperLink which silos it may let in, and have it start our ServerApp.

    Raises:
        ConfigError, RunError: a silo has no valid certificate, or the SuperLink does not obey.
    """
    write_app(work / "app")
    home = work / "flower"
    make_folder(home)
    authority = None if security.certificates is None else security.certificates / "ca.pem"
    trust = "insecure = true" if authority is None else f"root-certificates = {json.dumps(str(authority))}"
    write_text(
        home / "config.toml",
        f'[superlink]\ndefault = "pplr"\n\n[superlink.pplr]\naddress = "{address.from_here}"\n{trust}\n',
    )
    if security.certificates is not None:
        for name, key in public_keys(security.certificates, silos, work / "keys").items():
            _flwr(home, "supernode", "register", str(key), "pplr", "--name", name)
    more = ["--federation-config", f"num-supernodes={len(silos)}"] if simulated else []
    _flwr(home, "run", str(work / "app"), "pplr", *more)


def _flwr(home: Path, *words: str) -> None:
    """Run a command of Flower's own command line.

    Raises:
        RunError: it fails.
    """
    command = [str(BIN / "flwr"), *words, "--format", "json"]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
    if done.returncode or '"success": true' not in done.stdout:
        said = (done.stdout + done.stderr).strip()[-1_000:]
        raise RunError(f"The SuperLink did not obey `flwr {' '.join(words[:2])}`: {said}")


def write_app(folder: Path) -> None:
    """Write the folder that Flower calls an app: it names modules of the installed pplr, and holds no code."""
    make_folder(folder)
    write_text(
        folder / "pyproject.toml",
        "[project]\n"
        'name = "pplr-federation"\n'
        f'version = "{__version__}"\n'
        'description = "Rounds of pplr"\n'
        'license = "Apache-2.0"\n'
        "dependencies = []\n\n"
        "[tool.flwr.app]\n"
        'publisher = "pplr"\n\n'
        "[tool.flwr.app.components]\n"
        'serverapp = "pplr.silos.server_app:app"\n'
        'clientapp = "pplr.silos.client_app:app"\n\n'
        "[tool.flwr.app.config]\n",
    )
