"""A plan for people: a table's columns and cells, and the sentences below it."""

from __future__ import annotations

from dataclasses import dataclass

from pplr.planning.advice import gigabytes
from pplr.planning.estimate import SHARE
from pplr.planning.memory import USERS
from pplr.planning.plan import Choice, Plan

_NARROW = (
    "k",
    "client\nweights",
    "client\nmemory",
    "client\nGFLOP",
    "server\nweights",
    "server\nmemory",
    "server\nGFLOP",
    "step",
)
_WIDE = (
    "k",
    "client\nweights",
    "weights\nGB",
    "adapters\nMB",
    "training\nMB",
    "recomm.\nMB",
    "client\nmemory",
    "client\nGFLOP",
    "server\nweights",
    "server\nmemory",
    "server\nGFLOP",
    "step\nMB up",
    "step\nMB down",
    "recomm.\nkB",
    "client\ns",
    "server\ns",
    "wire\ns",
    "step",
)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        cells: as many as there are columns.
        fits: into the client's memory; None where it was not given.
    """

    cells: tuple[str, ...]
    fits: bool | None


def columns(plan: Plan, *, wide: bool) -> tuple[str, ...]:
    """Return the names of the columns."""
    names = _WIDE if wide else _NARROW
    risk = ("tokens\nread", "titles\nread") if _has_risk(plan) else ()
    return (*names, *risk, *(("fits",) if plan.circumstances.device_memory else ()))


def rows(plan: Plan, *, wide: bool) -> list[Row]:
    """Return a line for each k, and one for the whole model."""
    found = [Row((*_cells(choice, wide=wide), *_ends(plan, choice)), choice.fits) for choice in plan.choices]
    whole, memory = plan.whole, plan.whole.memory
    client = [millions(whole.parameters)]
    if wide:
        client += [_giga(memory.weights), _mega(memory.adapters), _mega(memory.training), _mega(memory.recommending)]
    cells = ["all", *client, gigabytes(memory.total), f"{whole.flops / 1e9:,.0f}"]
    cells += ["-"] * (len(_WIDE if wide else _NARROW) - len(cells) - 1)
    cells += [_seconds(whole.seconds), *(["-"] * 2 if _has_risk(plan) else []), *_fits(whole.fits)]
    return [*found, Row(tuple(cells), whole.fits)]


def assumptions(plan: Plan, *, measured: bool) -> list[str]:
    """Return what the numbers rest on."""
    c, batch, first = plan.circumstances, plan.batch, plan.choices[0]
    reading, speeds, decoder = c.reading, c.speeds, plan.outline.decoder
    texts = (
        f"prompts of {reading.prompt} tokens, {reading.common} of them common, titles of {reading.title}"
        if decoder
        else f"histories of {reading.prompt} tokens"
    )
    alone = f"to one user alone, with {reading.beams} beams" if decoder else "to one user alone, item vectors apart"
    spoken = "measured here" if measured else "as given"
    return [
        f"On the wire, for every k: {first.step.total / 1e6:.2f} MB a step ({first.step.up / 1e6:.2f} up, "
        f"{first.step.down / 1e6:.2f} down) and {first.recommendation.total / 1e3:,.0f} kB a recommendation, {alone}, in "
        f"{c.codec.name}.",
        f"A step has {batch.rows} examples, at most {reading.batch_tokens} tokens: {texts}.",
        f"Memory: float32, the program itself {gigabytes(first.client_memory.runtime)}, a training step and the "
        f"search for {USERS} users; the server serves {c.clients} at once. GFLOP: of a training step."
        if decoder
        else f"Memory: float32, the program itself {gigabytes(first.client_memory.runtime)}, and a training step; the "
        f"server serves {c.clients} at once. GFLOP: of a training step.",
        f"Time: {speeds.client / 1e9:,.0f} GFLOP/s at the client ({spoken}), {speeds.server / 1e9:,.0f} at the server, "
        f"{SHARE:.0%} of it reached; {speeds.bits / 1e6:,.0f} Mbit/s and {speeds.round_trip * 1000:,.0f} ms a round trip; "
        f"{len(batch.pieces)} pieces of a batch under way at once.",
    ]


def millions(parameters: int) -> str:
    """Return a number of weights as a person reads it: "31.9 M", "6.74 B"."""
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"


def _cells(choice: Choice, *, wide: bool) -> list[str]:
    memory, time = choice.client_memory, choice.time
    client = [millions(choice.client_parameters)]
    if wide:
        client += [_giga(memory.weights), _mega(memory.adapters), _mega(memory.training), _mega(memory.recommending)]
    cells = [
        str(choice.bottom),
        *client,
        gigabytes(memory.total),
        f"{choice.client_flops / 1e9:,.0f}",
        millions(choice.server_parameters),
        gigabytes(choice.server_memory.total),
        f"{choice.server_flops / 1e9:,.0f}",
    ]
    if wide:
        cells += [f"{choice.step.up / 1e6:.2f}", f"{choice.step.down / 1e6:.2f}"]
        cells += [f"{choice.recommendation.total / 1e3:,.0f}"]
        cells += [_seconds(part) for part in (time.client, time.server, time.wire)]
    return [*cells, _seconds(time.total)]


def _ends(plan: Plan, choice: Choice) -> list[str]:
    found = choice.recovery
    risk = []
    if _has_risk(plan):
        risk = ["?", "?"] if found is None else [f"{found.tokens:.0%}", f"{found.titles:.0%}"]
    return [*risk, *_fits(choice.fits)]


def _fits(fits: bool | None) -> list[str]:
    return [] if fits is None else ["yes" if fits else "no"]


def _has_risk(plan: Plan) -> bool:
    return any(choice.recovery is not None for choice in plan.choices)


def _giga(size: int) -> str:
    return f"{size / 1e9:.2f}"


def _mega(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"
