"""The commands of each party: two scripts, `check` and `start`, and a systemd unit."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from pplr.deployment.configuration import CERTIFICATES
from pplr.deployment.plan import Deployment

_SCRIPT = """\
#!/bin/sh
# {what} Options are passed on. PPLR names the program where it is not on the path.
cd "$(dirname "$0")" || exit 1
{before}exec ${{PPLR:-pplr}} {words} "$@"
"""
_GOING_ON = """\
# a run that was interrupted goes on
if [ -e run/run.json ] && [ ! -e run/metrics.json ]; then set -- --resume "$@"; fi
"""
_UNIT = """\
# Copy the folder to {home}, and this file to /etc/systemd/system. Then: systemctl enable --now {unit}
# A user `pplr` must own the folder, and `pplr` must be on the path, or be named below.
[Unit]
Description={description}
Wants=network-online.target
After=network-online.target

[Service]
User=pplr
UMask=0077
#Environment=PPLR=/opt/pplr/bin/pplr
ExecStart="{home}/{folder}/start"
Restart={restart}
RestartSec=10
{more}NoNewPrivileges=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""
_TRUNK_MORE = "TimeoutStopSec=60\n"
_COORDINATOR_MORE = "SuccessExitStatus=143\n"


@dataclass(frozen=True)
class Scripts:
    """What a party runs.

    Attributes:
        check: script that finds out whether it can take part.
        start: script that takes part.
        unit: a systemd unit that keeps it running.
        unit_name: of the unit's file.
    """

    check: str
    start: str
    unit: str
    unit_name: str


def coordinator_scripts(deployment: Deployment, folder: str) -> Scripts:
    """Return the scripts of the coordinator."""
    where = ("--listen", str(deployment.coordinator.everywhere), "--out", "run", "--certificates", CERTIFICATES)
    return Scripts(
        _script("Finds out whether the coordinator can begin.", "coordinator", "check", "config.toml", *where),
        _script("Runs the rounds.", "coordinator", "run", "config.toml", *where, before=_GOING_ON),
        _unit(deployment, folder, "coordinator", "on-failure", _COORDINATOR_MORE),
        unit_name(deployment, "coordinator"),
    )


def trunk_scripts(deployment: Deployment, folder: str) -> Scripts:
    """Return the scripts of the trunk's server.

    Raises:
        ValueError: there is none.
    """
    if deployment.trunk is None:
        raise ValueError("this deployment has no trunk's server")
    where = ("--listen", str(deployment.trunk.everywhere), "--state", "state", "--certificates", CERTIFICATES)
    return Scripts(
        _script("Finds out whether the server can be started.", "trunk", "check", "config.toml", *where),
        _script("Serves the trunk of the model.", "trunk", "serve", "config.toml", *where),
        _unit(deployment, folder, "trunk", "always", _TRUNK_MORE),
        unit_name(deployment, "trunk"),
    )


def catalogue_scripts(deployment: Deployment, folder: str) -> Scripts:
    """Return the scripts of the catalogue's server.

    Raises:
        ValueError: there is none.
    """
    if deployment.catalogue is None:
        raise ValueError("this deployment has no catalogue's server")
    where = ("--listen", str(deployment.catalogue.everywhere), "--state", "state", "--certificates", CERTIFICATES)
    return Scripts(
        _script("Finds out whether the server can be started.", "catalogue", "check", "config.toml", *where),
        _script("Serves the vectors of the items.", "catalogue", "serve", "config.toml", *where),
        _unit(deployment, folder, "catalogue", "always"),
        unit_name(deployment, "catalogue"),
    )


def silo_scripts(deployment: Deployment, name: str, folder: str) -> Scripts:
    """Return the scripts of a silo."""
    coordinator = str(deployment.coordinator)
    where = ("--name", name, "--state", "state", "--coordinator", coordinator, "--certificates", CERTIFICATES)
    return Scripts(
        _script("Finds out whether the silo can take part.", "silo", "check", "config.toml", *where),
        _script("Takes part in the rounds.", "silo", "run", "config.toml", *where),
        _unit(deployment, folder, f"silo {name}", "always"),
        unit_name(deployment, f"silo {name}"),
    )


def _script(what: str, *words: str, before: str = "") -> str:
    return _SCRIPT.format(what=what, before=before, words=shlex.join(words))


def _unit(deployment: Deployment, folder: str, party: str, restart: str, more: str = "") -> str:
    return _UNIT.format(
        home=_escaped(str(deployment.home)),
        folder=_escaped(folder),
        unit=unit_name(deployment, party),
        description=_escaped(f"pplr: {party} of {deployment.config.name}"),
        restart=restart,
        more=more,
    )


def unit_name(deployment: Deployment, party: str) -> str:
    """Return the name of a party's unit, in the characters that systemd allows."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", party)
    return f"pplr-{deployment.config.name}-{plain}.service"


def _escaped(text: str) -> str:
    """Return a text as systemd reads it, also between quotes."""
    return text.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
