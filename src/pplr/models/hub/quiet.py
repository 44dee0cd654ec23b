"""Keeping transformers and the hub client silent, and from reporting to anybody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# read when huggingface_hub is first imported, which is why this module comes before it
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence progress bars and messages below errors of the hub client inside the block."""
    import huggingface_hub.constants
    import huggingface_hub.utils

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    # the package does not export these switches in a way that a strict checker accepts
    hub: Any = huggingface_hub.utils
    bars, level = not hub.are_progress_bars_disabled(), hub.logging.get_verbosity()
    hub.disable_progress_bars()
    hub.logging.set_verbosity_error()
    try:
        yield
    finally:
        hub.logging.set_verbosity(level)
        if bars:
            hub.enable_progress_bars()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and messages below errors of transformers and the hub client inside the block."""
    import transformers.utils.logging

    logging: Any = transformers.utils.logging  # its functions are not annotated
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with quiet_hub():
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
