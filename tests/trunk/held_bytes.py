"""What the memory of a living process holds, read from outside of it; Linux only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

READABLE = Path("/proc/self/mem").exists()


def found_in(process: int, needles: Mapping[str, bytes]) -> set[str]:
    """Return the names of the needles that are somewhere in the writable memory of a process."""
    found: set[str] = set()
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            ends = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if ends is None:
                continue
            start, end = (int(text, 16) for text in ends.groups())
            memory.seek(start)
            content = b""
            try:
                while len(content) < end - start and (piece := memory.read(end - start - len(content))):
                    content += piece
            except OSError:  # pages that cannot be read, such as a device's, or that are gone by now
                continue
            found |= {name for name, needle in needles.items() if name not in found and needle in content}
    return found


def mapped_weights(process: int) -> set[str]:
    """Return the safetensors files that a process maps now."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if line.endswith(".safetensors")}
