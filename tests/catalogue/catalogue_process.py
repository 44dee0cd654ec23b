"""A catalogue's server as a process of its own, and the certificates of everybody who talks to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pplr.config import Config, config_toml

sys.path.append(str(Path(__file__).parent.parent / "trunk"))

from trunk_process import TrunkProcess


class CatalogueProcess(TrunkProcess):
    """`pplr catalogue serve`, which can be killed and started again at the same port."""

    serves = "catalogue"


@contextmanager
def serving(config: Config, folder: Path, certificates: Path, *options: str) -> Iterator[CatalogueProcess]:
    """Serve a configuration's catalogue, with its state below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "catalogue.toml").write_text(config_toml(config))
    server = CatalogueProcess(folder / "catalogue.toml", folder / "state", certificates, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
