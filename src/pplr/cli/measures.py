"""Tables of what a run measured: beside the baselines, and by client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pplr.cli.progress_words import number
from pplr.wording import MODEL_ALONE, baseline_name

Metrics = Mapping[str, Any]
"""What metrics.json holds."""

CLIENTS_SHOWN = 40
"""Clients in the table; of more, the worst are shown."""


def print_measures(metrics: Metrics, console: Console) -> None:
    """Print a run beside the baselines, with its balance, and then every client."""
    key = main_metric(metrics)
    console.print(_headline(metrics), highlight=False, markup=False)
    console.print(_methods(metrics, key))
    console.print(_clients(metrics, key, console))
    spread = metrics["balance"].get(key)
    if spread is not None:
        console.print(_worst(metrics, key, spread["worst_client"]), highlight=False, markup=False)


def main_metric(metrics: Metrics) -> str:
    """Return the metric that tables are about: NDCG@10, or the first NDCG that was measured."""
    measured = [key for key in metrics["overall"] if key.startswith("ndcg@")]
    return "ndcg@10" if "ndcg@10" in measured or not measured else measured[0]


def shown(key: str) -> str:
    """Return a metric's name for a person: "ndcg@10" is "NDCG@10", "recall@10" is "Recall@10"."""
    return key.upper() if key.startswith("ndcg") else key.capitalize()


def _headline(metrics: Metrics) -> str:
    data = metrics["data"]
    return (
        f"{metrics['name']}: strategy {metrics['strategy']['kind']}, backbone {metrics['backbone']['kind']} "
        f"({metrics['model']['name']}), {len(metrics['clients']):,} clients, {data['test_users']:,} test users, "
        f"{data['items']:,} items, seed {metrics['seed']}"
    )


def _methods(metrics: Metrics, key: str) -> Table:
    recall = key.replace("ndcg", "recall")
    columns = (shown(recall), shown(key), "worst\nclient", "best\nclient", "gap", "std", "Jain")
    table = _table(f"All users, and the balance of {shown(key)} over clients", "", columns)
    methods = {f"this run ({metrics['strategy']['kind']})": metrics, **_others(metrics)}
    best = {
        "overall": _best(method["overall"].get(key) for method in methods.values()),
        "worst": _best(method["balance"].get(key, {}).get("worst") for method in methods.values()),
    }
    for index, (name, method) in enumerate(methods.items()):
        overall, spread = method["overall"], method["balance"].get(key, {})
        table.add_row(
            Text(baseline_name(name), style="bold" if index == 0 else ""),
            number(overall.get(recall)),
            _figure(overall.get(key), best["overall"]),
            _figure(spread.get("worst"), best["worst"]),
            number(spread.get("best")),
            number(spread.get("gap")),
            number(spread.get("std")),
            number(spread.get("jain"), 3),
        )
    return table


def _table(title: str, first: str, columns: Iterable[str]) -> Table:
    """Return an empty table: a column of names, and columns of figures that are never broken or cut."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_style="bold", title_justify="left", padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold", vertical="bottom")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, vertical="bottom")
    return table


def _clients(metrics: Metrics, key: str, console: Console) -> Table:
    """Return the table of clients, as wide as the console allows: fewer figures first, then the best baseline only."""
    details = ("users", "loss", key.replace("ndcg", "recall"))
    unbounded = console.options.update(width=10_000)
    for shown_details, every_baseline in ((details, True), ((), True)):
        table = _client_table(metrics, key, shown_details, every_baseline)
        if Measurement.get(console, unbounded, table).maximum <= console.width:
            return table
    return _client_table(metrics, key, details, False)


def _client_table(metrics: Metrics, key: str, details: Iterable[str], every_baseline: bool) -> Table:
    baselines = _others(metrics)
    beside = [baseline_name(name).replace(" ", "\n") for name in baselines] if every_baseline else ["best baseline"]
    columns = [shown(name) if "@" in name else name for name in (*details, key)]
    columns += beside if baselines else []
    whose = "this run and of the baselines" if metrics["baselines"] else "this run"
    table = _table(f"Clients: {shown(key)} of {whose}", "client", columns)
    names = list(metrics["clients"])
    if len(names) > CLIENTS_SHOWN:
        names = sorted(names, key=lambda name: metrics["clients"][name].get(key) or 0.0)[:CLIENTS_SHOWN]
        table.caption = f"The {CLIENTS_SHOWN} worst of {len(metrics['clients']):,} clients."
    for name in names:
        client, values = metrics["clients"][name], _at(name, _others(metrics), key)
        best = _best([client.get(key), *values.values()])
        row = [Text(name), *(_detail(client, detail) for detail in details), _figure(client.get(key), best)]
        if every_baseline:
            row.extend(_figure(value, best) for value in values.values())
        elif baselines:
            row.append(_best_baseline(_at(name, metrics["baselines"], key), best))
        table.add_row(*row)
    return table


def _at(client: str, methods: Mapping[str, Any], key: str) -> dict[str, float | None]:
    """Return the figure of each method at a client."""
    return {name: method["clients"].get(client, {}).get(key) for name, method in methods.items()}


def _others(metrics: Metrics) -> Mapping[str, Any]:
    """Return what stands beside the run: its models alone, where clients add statistics, and the baselines."""
    alone = metrics.get(MODEL_ALONE)
    return metrics["baselines"] if alone is None else {MODEL_ALONE: alone, **metrics["baselines"]}


def _detail(client: Mapping[str, Any], name: str) -> Text:
    value = client.get(name)
    return Text(f"{value:,}" if isinstance(value, int) else number(value, 4 if "@" in name else 3))


def _best_baseline(values: Mapping[str, float | None], best: float | None) -> Text:
    top = _best(values.values())
    if top is None:
        return Text("-")
    name = next(name for name, value in values.items() if value == top)
    return Text(f"{baseline_name(name)} ").append_text(_figure(top, best))


def _worst(metrics: Metrics, key: str, name: str) -> str:
    client, values = metrics["clients"][name], _at(name, metrics["baselines"], key)
    top = _best(values.values())
    text = f"Worst client: {name}, {shown(key)} {number(client.get(key))} for {client['users']:,} test users"
    if top is None:
        return f"{text}."
    best = next(baseline for baseline, value in values.items() if value == top)
    return f"{text}; the best baseline there is {baseline_name(best)} with {number(top)}."


def _figure(value: float | None, best: float | None) -> Text:
    return Text(number(value), style="bold green" if value is not None and value == best else "")


def _best(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
