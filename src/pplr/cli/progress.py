"""Progress of long work, on stderr: a live display on a terminal, one line per client and round elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pplr.cli.progress_track import ClientTrack, Track
from pplr.cli.progress_words import client_line, lines, number
from pplr.cli.terminal import messages, say, silence
from pplr.wording import seconds_text

if TYPE_CHECKING:
    from pplr.federation.events import Event, Observer

ROWS_KEPT_FREE = 8
"""Lines of the terminal that the table of clients leaves to everything else."""

SECONDS_BETWEEN = 0.25
"""Least time between two drawings of what passes: steps of training."""


@contextmanager
def watching(*, quiet: bool = False) -> Iterator[Observer]:
    """Yield an observer that shows the progress of a run while the block lasts.

    Every line is flushed as it is written. With `quiet` nothing is shown.
    """
    console = messages()
    if quiet:
        yield _nothing
    elif console.is_terminal:
        with LiveDisplay(console) as display:
            yield _Forgiving(display)
    else:
        yield _Forgiving(PlainLog(console))


def _nothing(_: Event) -> None:
    """Show nothing."""


class _Forgiving:
    """Observer that shows nothing more once its display cannot be written: the work goes on without it."""

    def __init__(self, display: Observer) -> None:
        self._display = display

    def __call__(self, event: Event) -> None:
        """Pass the event on."""
        try:
            self._display(event)
        except OSError:
            self._display = _nothing
            silence(sys.stderr)


class PlainLog:
    """Observer that writes a line per client and round, and one for everything else worth keeping."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._track = Track()

    def __call__(self, event: Event) -> None:
        """Write what the event says."""
        self._track.see(event)
        if event.name == "client_trained":
            say(client_line(event, self._track), self._console)
        for line in lines(event, self._track):
            say(line, self._console)


class LiveDisplay:
    """Observer that draws where the run stands; what is over stays above as plain lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._track = Track()
        self._status = "Starting ..."
        # drawn by events only: with a second thread that draws, a display that shrinks erases lines above it
        self._live = Live(get_renderable=self.render, console=console, auto_refresh=False, transient=True)
        self._drawn = -math.inf

    def __enter__(self) -> Self:
        """Draw for the first time."""
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the lines that stay, and nothing else."""
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take in the event, write the lines that stay, and draw; passing events are drawn a few times a second."""
        self._track.see(event)
        shown = list(lines(event, self._track))
        if event.name in {"loading", "baseline", "tested"}:
            self._status = shown[-1]
        else:
            for line in shown:
                say(line, self._console)
        if event.name == "stopped":
            self._status = "Measuring on the test part ..."
        now = time.monotonic()
        if not event.transient or event.name == "loading" or now - self._drawn >= SECONDS_BETWEEN:
            self._drawn = now
            self._live.refresh()

    def render(self) -> RenderableType:
        """Return the display as it is now."""
        track = self._track
        if not track.participants:
            return Text(self._status, style="dim")
        return Group(self._rounds(), self._now(), self._clients())

    def _rounds(self) -> RenderableType:
        track, left = self._track, self._track.seconds_left
        row = Table.grid(padding=(0, 2))
        row.add_row(
            Text(f"Round {track.round} of {track.rounds}", style="bold"),
            ProgressBar(total=track.rounds, completed=track.round - 1 + track.round_part, width=30),
            Text("" if left is None else f"at most {seconds_text(left)} left"),
        )
        return row

    def _now(self) -> RenderableType:
        track = self._track
        if track.busy is None:
            return Text("mixing" if len(track.trained) == len(track.participants) else "", style="dim")
        if track.doing != "training":
            return Text(f"validating {track.busy}", style="dim")
        speed = f"{track.tokens_per_second:,.0f} tokens/s" if track.tokens_per_second else ""
        return Text(f"training {track.busy}  {track.part:4.0%}  loss {number(track.loss)}  {speed}", style="cyan")

    def _clients(self) -> RenderableType:
        track = self._track
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("client", no_wrap=True, overflow="ellipsis")
        for name in ("training loss", "tokens/s", "validation loss", "NDCG@10", ""):
            table.add_column(name, justify="right", no_wrap=True)
        names = self._visible()
        for name in names:
            table.add_row(*self._row(name, track.client(name)))
        if len(names) < len(track.clients):
            table.add_row(f"... {len(track.clients) - len(names):,} more")
        return table

    def _visible(self) -> list[str]:
        """Return the clients to show: all, or as many as the terminal has room for, the busy one among them."""
        names = list(self._track.clients)
        room = max(3, self._console.height - ROWS_KEPT_FREE)
        if len(names) <= room:
            return names
        first = names.index(self._track.busy) if self._track.busy in names else 0
        start = min(max(0, first - room // 2), len(names) - room)
        return names[start : start + room]

    def _row(self, name: str, client: ClientTrack) -> list[RenderableType]:
        track = self._track
        busy = name == track.busy and track.doing == "training"
        speed = track.tokens_per_second if busy else client.tokens_per_second
        return [
            Text(name, style="cyan" if name == track.busy else ""),
            number(track.loss if busy else client.training_loss),
            "-" if speed is None else f"{speed:,.0f}",
            number(client.validation_loss),
            number(client.ndcg),
            "best" if client.improved else "",
        ]
