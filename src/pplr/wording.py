"""Names and numbers as people read them."""

from __future__ import annotations

STRATEGIES = {
    "pplr": "Dynamic balance",
    "fedavg": "Federated averaging",
    "fedprox": "Averaging with a proximal term",
    "ditto": "Personal models pulled to the average",
    "fedper": "Averaging with private layers",
    "fedadam": "Averaging with Adam at the server",
    "qfedavg": "Fair averaging",
    "robust": "Robust averaging",
    "product": "Averaging of adapters' products",
    "ffa": "Averaging with A frozen",
    "local": "Training alone",
    "centralised": "Pooled data",
}
"""Kind of strategy -> its name in a sentence's beginning."""

MODEL_ALONE = "model_alone"
"""In metrics.json: the models of a run whose clients add statistics of their own."""

BASELINES = {
    "popularity": "popularity",
    "recent": "recent popularity",
    "validation_window": "popularity in the validation window",
    "transitions": "transitions",
    "item_knn": "item-kNN",
    "item_knn_recency": "item-kNN with recency",
    "federated_mf": "federated matrix factorisation",
    MODEL_ALONE: "the model alone",
}
"""Baseline -> its name in tables and sentences."""

MEANINGS = {
    "popularity": "the same most chosen items for everybody",
    "recent": "what was chosen most in the days before",
    "validation_window": "what was chosen most while validation data was collected",
    "transitions": "what usually follows a user's last items",
    "item_knn": "what is chosen together with a user's items",
    "item_knn_recency": "what is chosen together with a user's items, the last ones counting most",
    "federated_mf": "what users of all clients with the same taste chose, by averaged item factors",
}
"""Baseline -> what it recommends."""

TIMES = 3.0
"""From this ratio on, figures are compared as multiples: percentages of several hundred are hard to read."""

LOSS = "loss"
"""The one measure of which less is better."""


def strategy_name(kind: str) -> str:
    """Return "Dynamic balance (pplr)" for "pplr"; an unknown kind stays as it is."""
    return f"{STRATEGIES[kind]} ({kind})" if kind in STRATEGIES else kind


def baseline_name(name: str) -> str:
    """Return the name of a baseline in sentences; an unknown one with blanks for underscores."""
    return BASELINES.get(name, name.replace("_", " "))


def measure_name(key: str) -> str:
    """Return "NDCG@10" for "ndcg@10", "Recall@5" for "recall@5", "Loss" for "loss"."""
    name, at, k = key.partition("@")
    return (name.upper() if name == "ndcg" else name.replace("_", " ").capitalize()) + at + k


def figure_text(value: float | None, digits: int = 4) -> str:
    """Return a figure with `digits` decimals, or a dash where it was not measured."""
    return "–" if value is None else f"{value:.{digits}f}"


def relative_text(value: float, reference: float) -> str:
    """Return how far `value` is above or below `reference`: "+14%", "−3%", "±0%"; "24 times" from three times on."""
    if reference == 0:
        return "±0%" if value == 0 else ("above 0" if value > 0 else "below 0")
    if value / reference >= TIMES:
        ratio = value / reference
        return f"{ratio:,.1f} times" if ratio < 10 else f"{ratio:,.0f} times"
    percent = round(100 * (value - reference) / abs(reference))
    return f"+{percent:,}%" if percent > 0 else (f"−{-percent:,}%" if percent < 0 else "±0%")


def seconds_text(seconds: float) -> str:
    """Return a duration: "4.2 s", "45 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def bytes_text(count: float) -> str:
    """Return a size in decimal units: "512 B", "1.8 MB", "24 GB"."""
    units = ["B", "kB", "MB", "GB", "TB"]
    place = 0
    while count >= 999.5 and place < len(units) - 1:
        count, place = count / 1000, place + 1
    return f"{count:.0f} {units[place]}" if place == 0 or count >= 99.5 else f"{count:.3g} {units[place]}"


def plural(count: int, word: str) -> str:
    """Return "1 client", "5 clients", "1,000 clients"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
