"""What the commands of coordinator and silo do: start Flower's processes, and stand by until the end."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pplr import run_folder
from pplr.address import Address, check_free
from pplr.config import Config, config_toml
from pplr.errors import ConfigError, RunError
from pplr.federation.events import Event, Observer, ignore
from pplr.models.parts.settings import SplitPlacement
from pplr.pki import Identity, Party, Role
from pplr.run_folder import EVENTS
from pplr.runner import RunResult
from pplr.silos.following import Following
from pplr.silos.life import alive, own_identity
from pplr.silos.node import kept_node
from pplr.silos.plan import MEETING, PLAN, PLAN_FILE, Plan, work_folder
from pplr.silos.processes import (
    Security,
    environment,
    started,
    submit,
    superlink_command,
    wait_until_reachable,
)
from pplr.silos.resident import SOCKET, serve
from pplr.silos.simulated import SIMULATION
from pplr.silos.work import RESULT, SiloWork
from pplr.storage import bring_back, make_folder, write_text
from pplr.wiring import prepare

START_SECONDS = 120.0
"""The SuperLink starts our ServerApp within this time."""


def run_coordinator(
    config: Config,
    folder: Path,
    address: Address,
    security: Security,
    *,
    silos: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    meet_seconds: float = 600.0,
    simulation: Path | None = None,
    look_after: Callable[[], None] = lambda: None,
    observer: Observer = ignore,
) -> RunResult:
    """Run the rounds over silos that connect to `address`; `simulation` is a file for Ray's workers instead.

    `look_after` is called again and again meanwhile, and may raise.

    Raises:
        PplrError: something is wrong; the text says what to do.
    """
    names = tuple(silos) or config.federation.silos
    check_federation(config, names)
    security.check(address)
    check_free(address)
    config = security.of(config)
    folder = folder.resolve()
    run_folder.check(folder, config, resume=resume, overwrite=overwrite)
    work = work_folder(folder)
    make_folder(work)
    write_text(work / "config.toml", config_toml(config))
    plan = Plan(
        work=str(work),
        config=str(work / "config.toml"),
        folder=str(folder),
        silos=names,
        resume=resume,
        overwrite=overwrite,
        meet_seconds=meet_seconds,
        coordinator=own_identity(),
    )
    plan.write(work / PLAN_FILE)
    more = {PLAN: str(work / PLAN_FILE)} | ({} if simulation is None else {SIMULATION: str(simulation)})
    log = work / "superlink.log"
    command = superlink_command(address, security, simulation=simulation is not None)
    _look_for_trunk(config, observer)
    following = Following(folder / EVENTS, work / MEETING, observer, resumed=resume)
    with started(command, log, environment(work / "flower", **more)) as superlink:
        wait_until_reachable(address, superlink, log)
        submit(work, address, security, names, simulated=simulation is not None)
        observer(Event("loading", data={"what": f"Waiting for {', '.join(names)} at {address}."}, transient=True))
        _stand_by(plan, superlink, log, following, look_after)
    return RunResult(folder, json.loads((folder / "metrics.json").read_text(encoding="utf-8")))


def check_federation(config: Config, names: Sequence[str]) -> None:
    """Refuse a configuration that cannot be run over silos of these names.

    Raises:
        ConfigError: the sentence says what to change.
    """
    if not names:
        raise ConfigError(
            "Nobody says which silos take part. Name them in the configuration: federation.silos = ['shop-1', 'shop-2']."
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"federation.silos names a silo twice: {', '.join(names)}.")
    wanted = config.federation.participation
    if isinstance(wanted, int) and wanted > len(names):
        raise ConfigError(
            f"federation.participation = {wanted}, but there are {len(names)} silos. Give a lower number."
        )
    if config.federation.rounds == 0:
        raise ConfigError("federation.rounds = 0 trains nothing, which takes no silos. Give 1 or more.")
    if config.strategy.pools_data:
        raise ConfigError(
            f"strategy.kind = {config.strategy.model_dump()['kind']!r} pools all data in one place, and silos keep theirs. Choose another."
        )


def _look_for_trunk(config: Config, observer: Observer) -> None:
    """Say so where the trunk's server does not answer yet; it is waited for once the rounds begin."""
    placement = config.placement
    if not isinstance(placement, SplitPlacement) or placement.server is None:
        return
    from pplr.trunk.health import answer_seconds

    try:
        answer_seconds(config, None)
    except RunError as problem:
        words = f"{problem} It is waited for during {placement.wait_seconds:g} seconds when round 1 begins."
        observer(Event("loading", data={"what": words}, transient=True))


def _stand_by(
    plan: Plan,
    superlink: subprocess.Popen[bytes],
    log: Path,
    following: Following,
    look_after: Callable[[], None],
) -> None:
    """Wait for the end of a run, and show what happens.

    Raises:
        PplrError: it ended badly.
    """
    deadline = time.monotonic() + START_SECONDS
    while not plan.ended():
        following.look()
        look_after()
        process = plan.process()
        if superlink.poll() is not None or (process is not None and not alive(process) and not plan.ended()):
            raise RunError(f"The coordinator's process has ended early. Go on with --resume. Flower's log is {log}.")
        if process is None and time.monotonic() > deadline:
            raise RunError(f"The SuperLink did not start the coordinator within {START_SECONDS:g} seconds; see {log}.")
        time.sleep(0.2)
    following.look()


def run_silo(
    config: Config,
    name: str,
    state: Path,
    superlink: Address,
    security: Security,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Take part in runs as the silo `name`, until it is ended; its SuperNode is started again when it dies.

    Raises:
        PplrError: configuration, data or model cannot be used; the text says what to do.
    """
    security.check(superlink)
    if security.certificates is not None:
        Party.load(security.certificates, Identity(Role.CLIENT, name))  # rather now than after the model was loaded
    bring_back(state / RESULT)
    work = SiloWork(prepare(security.of(config), ignore, silo=name), name, state)
    tell(
        f"Silo {name} has {work.announcement.examples:,} training examples. It answers the coordinator at {superlink}."
    )
    with tempfile.TemporaryDirectory(prefix="pplr-silo-") as folder:  # short: names of sockets are
        socket = Path(folder) / "socket"
        env = environment(state / "flower", **{SOCKET: str(socket)})
        with kept_node(name, superlink, security, state / "supernode.log", env):
            serve(socket, work.answer)
