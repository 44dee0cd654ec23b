"""What a trunk's server keeps on its disk."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file


def clients_kept(state: Path) -> set[str]:
    """Return whose rows are in any file of a server's state folder."""
    names = {path.stem for path in state.rglob("clients/*.safetensors")}
    for path in state.rglob("state.safetensors"):
        names |= {name.partition("/")[2] for name in load_file(path)}
    return names
