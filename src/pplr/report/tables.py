"""The report's tables, as text ready to be set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pplr.report.headline import best_baseline
from pplr.report.schema import BalanceMeasures, Measures, Metrics
from pplr.wording import LOSS, baseline_name, bytes_text, figure_text, measure_name, relative_text, seconds_text

PHASES = {
    "data": "reading data",
    "model": "loading the model",
    "train": "local training",
    "aggregate": "mixing",
    "validate": "validation",
    "test": "test",
    "baselines": "baselines",
}
"""Phase in metrics.json -> its name in the table of cost, in order."""


@dataclass(frozen=True)
class Cell:
    """One figure; `best` where none in its row is better."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class ClientRow:
    """One client, or all users: its size, a figure per recommender, and how far the run is from the best baseline."""

    name: str
    users: str
    examples: str
    cells: tuple[Cell, ...]
    relative: str
    ahead: bool | None


@dataclass(frozen=True)
class BalanceRow:
    """How evenly one recommender serves the clients."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class MeasureTables:
    """Everything about one measure.

    Attributes:
        key: such as "ndcg@10", or "loss".
        name: such as "NDCG@10".
        recommenders: column heads: the run, then the baselines.
        rows: one per client.
        overall: all users.
        balance: one row per recommender, in the columns `BALANCE_COLUMNS`.
    """

    key: str
    name: str
    recommenders: tuple[str, ...]
    rows: tuple[ClientRow, ...]
    overall: ClientRow
    balance: tuple[BalanceRow, ...]


BALANCE_COLUMNS = ("worst", "best", "gap", "mean", "std", "variation", "Jain")


@dataclass(frozen=True)
class CostRow:
    """One phase of the run: its name, its time, and its share of the total in percent."""

    name: str
    time: str
    percent: float


def measured_keys(metrics: Metrics) -> list[str]:
    """Return what was measured on test users: the ranking metrics, then "loss"."""
    keys = [key for key, value in metrics.overall.figures.items() if value is not None]
    return [*keys, LOSS] if metrics.overall.loss is not None else keys


def measure_tables(metrics: Metrics, key: str) -> MeasureTables:
    """Return the tables of one measure: clients beside baselines, and balance."""
    baselines = [name for name, baseline in metrics.beside.items() if baseline.overall.figure(key) is not None]
    rows = [
        _row(metrics, key, baselines, client, measured=measured, examples=measured.examples)
        for client, measured in metrics.clients.items()
    ]
    examples = sum(measured.examples for measured in metrics.clients.values())
    balances = [(metrics.name, metrics.balance.get(key))]
    balances += [(baseline_name(name), metrics.beside[name].balance.get(key)) for name in baselines]
    return MeasureTables(
        key=key,
        name=measure_name(key),
        recommenders=(metrics.name, *(baseline_name(name) for name in baselines)),
        rows=tuple(rows),
        overall=_row(metrics, key, baselines, None, measured=metrics.overall, examples=examples),
        balance=tuple(_balance_row(name, spread) for name, spread in balances if spread is not None),
    )


def cost_rows(seconds: Mapping[str, float]) -> tuple[CostRow, ...]:
    """Return the phases of the run, in order, with "other" for what no phase accounts for."""
    known = {**{name: seconds[name] for name in PHASES if name in seconds}}
    known |= {name: value for name, value in seconds.items() if name not in known and name != "total"}
    total = seconds.get("total", sum(known.values()))
    other = total - sum(known.values())
    if other > 0.005 * total:
        known["other"] = other
    return tuple(
        CostRow(PHASES.get(name, name), seconds_text(value), 100 * value / total if total else 0.0)
        for name, value in known.items()
    )


def cost_facts(metrics: Metrics) -> list[tuple[str, str]]:
    """Return memory, traffic and size of the run: (what, how much)."""
    cost = metrics.cost
    rounds = len(metrics.rounds)
    facts = []
    if total := cost.seconds.get("total"):
        facts.append(("Whole run", seconds_text(total)))
    if cost.peak_memory_bytes is not None:
        facts.append(("Largest memory of the process", bytes_text(cost.peak_memory_bytes)))
    facts.append(("Trained parameters per client", f"{cost.parameters:,}"))
    facts.append(("Of these, shared by mixing", f"{cost.shared_parameters:,}"))
    for name, count in (("to the coordinator", cost.bytes_up), ("to the clients", cost.bytes_down)):
        each = f" ({bytes_text(count / rounds)} a round)" if rounds and count else ""
        facts.append((f"A network would carry {name}", f"{bytes_text(count)}{each}"))
    facts.append(("Computed on", metrics.device + (f", {metrics.threads} threads" if metrics.threads else "")))
    return facts


def _row(
    metrics: Metrics, key: str, baselines: list[str], client: str | None, *, measured: Measures, examples: int
) -> ClientRow:
    values = [measured.figure(key)]
    for name in baselines:
        baseline = metrics.beside[name]
        group = baseline.overall if client is None else baseline.clients.get(client)
        values.append(None if group is None else group.figure(key))
    known = [value for value in values if value is not None]
    top = max(known, default=None) if len(values) > 1 else None
    own, best = values[0], best_baseline(metrics, key, client)
    compared = own is not None and best is not None and key != LOSS
    return ClientRow(
        name="all users" if client is None else client,
        users="–" if measured.users is None else f"{measured.users:,}",
        examples=f"{examples:,}",
        cells=tuple(Cell(figure_text(value), value is not None and value == top) for value in values),
        relative=relative_text(own, best[1]) if compared and own is not None and best is not None else "",
        ahead=own > best[1] if compared and own is not None and best is not None else None,
    )


def _balance_row(name: str, spread: BalanceMeasures) -> BalanceRow:
    worst = f"{figure_text(spread.worst)} ({spread.worst_client})"
    best = f"{figure_text(spread.best)} ({spread.best_client})"
    others = (spread.gap, spread.mean, spread.std, spread.variation, spread.jain)
    return BalanceRow(name, (worst, best, *(figure_text(value) for value in others)))
