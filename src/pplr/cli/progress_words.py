"""Events as lines of text: the log where there is no terminal, and the lines that stay above the live display."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pplr.wording import baseline_name, seconds_text

if TYPE_CHECKING:
    from pplr.cli.progress_track import ClientTrack, Track
    from pplr.federation.events import Event


def lines(event: Event, track: Track) -> Iterator[str]:
    """Yield the lines that are worth keeping about an event, given where the run stands after it."""
    writer = _WRITERS.get(event.name)
    if writer is not None:
        yield from writer(event, track)


def client_line(event: Event, track: Track) -> str:
    """Return the line about a client's training ("client_trained")."""
    client = track.client(event.client or "")
    speed = "" if client.tokens_per_second is None else f", {client.tokens_per_second:,.0f} tokens/s"
    return (
        f"Round {event.round} of {track.rounds}, {event.client}: training loss {number(client.training_loss)}"
        f"{speed}, {seconds_text(event.data['seconds'].get('total', 0.0))}"
    )


def number(value: float | None, digits: int = 4) -> str:
    """Return a figure with a fixed number of digits, or "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _loading(event: Event, _: Track) -> Iterator[str]:
    what = str(event.data["what"])
    yield what if what.endswith(".") else f"Loading {what} ..."


def _model_terms(event: Event, _: Track) -> Iterator[str]:
    yield str(event.data["terms"])


def _data_loaded(event: Event, _: Track) -> Iterator[str]:
    data = event.data
    yield f"Data: {data['users']:,} users, {data['items']:,} items, {data['events']:,} events"
    for note in data["notes"]:
        yield f"  {note}"


def _clients_made(event: Event, _: Track) -> Iterator[str]:
    sizes = event.data["sizes"]
    shown = ", ".join(f"{name} {size:,}" for name, size in list(sizes.items())[:10])
    more = f", and {len(sizes) - 10:,} more" if len(sizes) > 10 else ""
    yield f"{len(sizes):,} clients, users of each: {shown}{more}"


def _model_loaded(event: Event, _: Track) -> Iterator[str]:
    data = event.data
    yield (
        f"Model: {data['model']}, {data['trained']:,} trained parameters a client, {data['shared']:,} of them shared "
        f"({seconds_text(data['seconds'])})"
    )


def _resumed(event: Event, _: Track) -> Iterator[str]:
    yield f"Going on after round {event.round}"


def _round_finished(event: Event, track: Track) -> Iterator[str]:
    left = track.seconds_left
    ending = f", at most {seconds_text(left)} left" if left else ""
    took = seconds_text(event.data["seconds"]["total"])
    yield f"Round {event.round} of {track.rounds}: validation {_score(event, track)}, {took}{ending}"


def _score(event: Event, track: Track) -> str:
    score = event.data["score"]
    if score is None:
        return "without users"
    ranked = {name: client.ndcg for name, client in track.clients.items() if client.ndcg is not None}
    best = " (best so far)" if track.best_round == event.round else f" (best: round {track.best_round})"
    if ranked:
        worst = min(ranked, key=lambda name: ranked[name])
        return f"NDCG@10 {number(score)}{best}, worst {worst} {number(ranked[worst])}"
    losses = {name: loss for name, client in track.clients.items() if (loss := _loss(client)) is not None}
    worst = max(losses, key=lambda name: losses[name]) if losses else ""
    ending = f", worst {worst} {number(losses[worst])}" if losses else ""
    return f"loss {number(-score)}{best}{ending}"


def _loss(client: ClientTrack) -> float | None:
    loss = client.validation_loss
    return None if loss is None or math.isnan(loss) else loss


def _stopped(event: Event, _: Track) -> Iterator[str]:
    data = event.data
    reason = "all rounds are done" if data["reason"] == "rounds" else "validation stopped improving"
    yield f"Training ended after round {data['round']}: {reason}; best round {data['best_round']}"


def _baseline(event: Event, _: Track) -> Iterator[str]:
    yield f"Measuring the baseline {baseline_name(event.data['name'])} ..."


def _tested(event: Event, _: Track) -> Iterator[str]:
    data = event.data
    ndcg = f", NDCG@10 {number(data['ndcg@10'])}" if "ndcg@10" in data else ""
    yield f"Test, {event.client}: loss {number(data.get('loss'))}{ndcg}"


def _silo_connected(event: Event, _: Track) -> Iterator[str]:
    yield f"{event.client} is here, with {event.data['examples']:,} training examples"


def _silo_left(event: Event, _: Track) -> Iterator[str]:
    yield f"{event.client} has left"


def _refused(event: Event, _: Track) -> Iterator[str]:
    yield f"{event.client or 'A node'} cannot take part: {event.data['reason']}"


def _left_out(event: Event, _: Track) -> Iterator[str]:
    word = "quarantined" if event.name == "quarantined" else "left out"
    yield f"Round {event.round}, {event.client}: {word}: {event.data['reason']}"


def _cell_started(event: Event, _: Track) -> Iterator[str]:
    data = event.data
    left = "" if data["seconds_left"] is None else f" (about {seconds_text(data['seconds_left'])} left for the study)"
    yield f"Cell {data['place']} of {data['cells']}: {data['title']}{left}"


def _cell_anew(event: Event, _: Track) -> Iterator[str]:
    yield f"{event.data['title']} begins anew: {event.data['reason']}"


def _cell_elsewhere(event: Event, _: Track) -> Iterator[str]:
    yield f"{event.data['title']} is run by another process right now: the same command takes it up later, if need be."


def _cell_failed(event: Event, _: Track) -> Iterator[str]:
    yield f"{event.data['title']} failed: {event.data['error']}"


_WRITERS: dict[str, Callable[[Event, Track], Iterator[str]]] = {
    "cell_started": _cell_started,
    "cell_anew": _cell_anew,
    "cell_elsewhere": _cell_elsewhere,
    "cell_failed": _cell_failed,
    "loading": _loading,
    "model_terms": _model_terms,
    "data_loaded": _data_loaded,
    "clients_made": _clients_made,
    "model_loaded": _model_loaded,
    "silo_connected": _silo_connected,
    "silo_left": _silo_left,
    "silo_refused": _refused,
    "node_refused": _refused,
    "resumed": _resumed,
    "absent": _left_out,
    "quarantined": _left_out,
    "round_finished": _round_finished,
    "stopped": _stopped,
    "baseline": _baseline,
    "tested": _tested,
}
