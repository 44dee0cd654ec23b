"""What the run's figures say, in plain sentences: how good overall, for whom the least, and against what."""

from __future__ import annotations

from dataclasses import dataclass

from pplr.report.schema import Metrics
from pplr.wording import (
    LOSS,
    MEANINGS,
    baseline_name,
    figure_text,
    measure_name,
    plural,
    relative_text,
    strategy_name,
)

NEAR = 0.02
"""Relative differences up to this are called "about as good": one seed cannot tell them apart."""


@dataclass(frozen=True)
class Tile:
    """One key figure: a label, the figure, and a few words below it."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Headline:
    """The top of the report.

    Attributes:
        sentence: one sentence that could stand alone.
        verdict: "good", "even", "poor" beside the best baseline, or "open" where there is none.
        paragraphs: what the sentence means, for somebody who does not know the measures.
        tiles: the key figures.
    """

    sentence: str
    verdict: str
    paragraphs: tuple[str, ...]
    tiles: tuple[Tile, ...]


def main_measure(metrics: Metrics) -> str:
    """Return the measure that the report leads with: "ndcg@10", or the nearest thing that was measured."""
    measured = [key for key, value in metrics.overall.figures.items() if value is not None]
    ranked = [key for key in measured if key.startswith("ndcg@")]
    return "ndcg@10" if "ndcg@10" in ranked else next(iter([*ranked, *measured]), LOSS)


def best_baseline(metrics: Metrics, key: str, client: str | None = None) -> tuple[str, float] | None:
    """Return name and value of the best baseline overall, or on one client's users; None where none was measured."""
    found: list[tuple[str, float]] = []
    for name, baseline in metrics.baselines.items():
        group = baseline.overall if client is None else baseline.clients.get(client)
        value = None if group is None else group.figure(key)
        if value is not None:
            found.append((name, value))
    return max(found, key=lambda pair: pair[1], default=None)


def headline(metrics: Metrics) -> Headline:
    """Return the top of the report for a run."""
    key = main_measure(metrics)
    value = metrics.overall.figure(key)
    best = best_baseline(metrics, key)
    joined = "of" if metrics.strategy.kind == "centralised" else "over"
    over = f"{strategy_name(metrics.strategy.kind)} {joined} {plural(len(metrics.clients), 'client')}"
    if value is None:
        sentence = f"{over} was trained, but no user had held-out events to measure it on"
        return Headline(sentence + ".", "open", ("Give the data a validation and a test part to measure the run.",), ())
    reached = f"{over} reaches {measure_name(key)} {figure_text(value, 3)}"
    if best is None:
        sentence, verdict = f"{reached} on {plural(metrics.overall.users, 'test user')}", "open"
    else:
        verdict = _verdict(value, best[1])
        sentence = f"{reached}, {_against(value, best[1])} the best simple baseline ({baseline_name(best[0])})"
    paragraphs = (
        _meaning(metrics),
        _counted(metrics, key, value),
        _baselines(metrics, key, value),
        _clients(metrics, key),
    )
    return Headline(sentence + ".", verdict, tuple(text for text in paragraphs if text), _tiles(metrics, key, value))


def _verdict(value: float, reference: float) -> str:
    if abs(value - reference) <= NEAR * abs(reference):
        return "even"
    return "good" if value > reference else "poor"


def _against(value: float, reference: float) -> str:
    verdict = _verdict(value, reference)
    if verdict == "even":
        return "about as good as"
    if reference == 0:
        return "above"
    text = relative_text(value, reference).lstrip("+−")
    return text if text.endswith("times") else f"{text} {'above' if verdict == 'good' else 'below'}"


def _meaning(metrics: Metrics) -> str:
    """Return what the list of recommendations is worth to a user, from the recall at the length nearest to ten."""
    lengths = sorted(
        (abs(int(key.partition("@")[2]) - 10), key, value)
        for key, value in metrics.overall.figures.items()
        if key.startswith("recall@") and value is not None
    )
    if not lengths:
        return ""
    _, key, recall = lengths[0]
    k = key.partition("@")[2]
    return (
        f"Among the {int(k):,} items that it recommends to a user, out of {metrics.data.items:,}, are on average "
        f"{recall:.1%} of those that the user truly chose next. These choices were held back from training."
    )


def _counted(metrics: Metrics, key: str, value: float) -> str:
    """Return what clients' own counts add to their models, where there are such."""
    alone = None if metrics.model_alone is None else metrics.model_alone.overall.figure(key)
    if alone is None:
        return ""
    told = [client.fusion for client in metrics.clients.values() if client.fusion is not None]
    mixing = sum(fusion.mixes for fusion in told)
    who = (
        f"{mixing} of {plural(len(metrics.clients), 'client')} {'mixes' if mixing == 1 else 'mix'}"
        if told
        else "Silos mix"
    )
    whose = (
        "it counts on its own events with its model"
        if told and mixing == 1
        else "they count on their own events with their model"
    )
    return (
        f"{who} what {whose}. The model alone reaches {figure_text(alone, 3)}, {_seen_from(value, alone, 'the mix')}."
    )


def _baselines(metrics: Metrics, key: str, value: float) -> str:
    if key == LOSS:
        return "Rankings were not measured, so the run cannot be set beside simple baselines."
    if not metrics.baselines:
        return (
            "No simple baselines were measured beside it, so nothing here says whether the model is worth its effort. "
            "Set evaluation.baselines = true to know."
        )
    who = "the model" if metrics.model_alone is None else "the mix"
    parts = []
    for name in ("popularity", "transitions", "recent"):
        other = metrics.baselines[name].overall.figure(key) if name in metrics.baselines else None
        if other is not None:
            parts.append(
                f"{baseline_name(name)} ({MEANINGS[name]}) reaches {other:.3f}, {_seen_from(value, other, who)}"
            )
    best = best_baseline(metrics, key)
    if best is None:
        return ""
    listed = "; ".join(parts)
    text = f"{listed[0].upper()}{listed[1:]}. " if listed else ""
    closing = {
        "good": f"{who.capitalize()} gives users what counting alone does not.",
        "even": f"{who.capitalize()} is not yet worth more than counting: {_remedy(metrics)}, or compare several seeds.",
        "poor": f"So far {baseline_name(best[0])} serves users better: {_remedy(metrics)}.",
    }
    return text + closing[_verdict(value, best[1])]


def _remedy(metrics: Metrics) -> str:
    """Return what may help: more rounds only where the last one was still the best."""
    stopped = metrics.stopped
    if stopped is None or stopped.best_round == stopped.round:
        return "train longer"
    return f"rounds after number {stopped.best_round} made it no better, so tune on validation data"


def _seen_from(value: float, other: float, who: str) -> str:
    verdict = _verdict(value, other)
    if verdict == "even":
        return f"about the same as {who}"
    if other == 0:
        return f"where {who} finds some"
    text = relative_text(value, other).lstrip("+−")
    if text.endswith("times"):
        return f"{who} is {text} as good"
    return f"{who} is {text} {'better' if verdict == 'good' else 'worse'}"


def _clients(metrics: Metrics, key: str) -> str:
    spread = metrics.balance.get(key)
    if spread is None or spread.worst is None or spread.best is None or len(metrics.clients) == 1:
        return ""
    text = (
        f"The worst client is {spread.worst_client} with {spread.worst:.3f}, the best {spread.best_client} with "
        f"{spread.best:.3f}."
    )
    reference = best_baseline(metrics, key, spread.worst_client)
    if key == LOSS or reference is None:
        return text
    text += (
        f" For the worst client's users the best simple baseline ({baseline_name(reference[0])}) gives "
        f"{reference[1]:.3f}."
    )
    compared = better = 0
    for name, measured in metrics.clients.items():
        own, other = measured.figure(key), best_baseline(metrics, key, name)
        if own is not None and other is not None:
            compared += 1
            better += own > other[1]
    if better == compared:
        return f"{text} All {compared} clients are better served than by any simple baseline."
    verb = "is" if better == 1 else "are"
    return f"{text} {better} of {compared} clients {verb} better served than by any simple baseline."


def _tiles(metrics: Metrics, key: str, value: float) -> tuple[Tile, ...]:
    tiles = [Tile(measure_name(key), figure_text(value, 3), f"mean over {plural(metrics.overall.users, 'test user')}")]
    best = best_baseline(metrics, key)
    if best is not None:
        note = f"{baseline_name(best[0])}, {figure_text(best[1], 3)}"
        tiles.append(Tile("Beside the best baseline", relative_text(value, best[1]), note))
    spread = metrics.balance.get(key)
    if spread is not None and len(metrics.clients) > 1:
        tiles.append(Tile("Worst client", figure_text(spread.worst, 3), spread.worst_client))
        tiles.append(Tile("Gap, best to worst", figure_text(spread.gap, 3), f"best: {spread.best_client}"))
    if metrics.stopped is not None:
        note = f"the best was round {metrics.stopped.best_round}"
        tiles.append(Tile("Rounds", f"{metrics.stopped.round:,}", note if metrics.stopped.best_round else ""))
    return tuple(tiles)
