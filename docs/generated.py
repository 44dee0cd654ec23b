"""Fills pages from the code and the results, so that they cannot go stale.

Configuration keys, exit codes, the schema of metrics.json, and what the audit of hidden states found.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pplr import errors
from pplr.config import Config
from pplr.config_schema import default_of, first_paragraph, kinds_of, meaning_of, written
from pplr.report.schema import metrics_json_schema
from pplr.trunk.fields import COORDINATORS, FIELDS, Limits
from pplr.trunk.frames import Kind
from pplr.wording import baseline_name


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of generated parts."""
    makers = {
        "configuration": configuration,
        "exit-codes": exit_codes,
        "fusion": fusion,
        "metrics-schema": metrics_schema,
        "hidden-states": hidden_states,
        "lying-client": lying_client,
        "references": references,
        "wire-fields": wire_fields,
        "wire-limits": wire_limits,
    }
    for name, make in makers.items():
        marker = re.compile(rf"^<!-- {name} -->.*$", re.MULTILINE)  # behind it stands a note for who reads the source
        if marker.search(markdown):
            text = make()
            markdown = marker.sub(lambda _, text=text: text, markdown)
    return markdown


def configuration() -> str:
    """Return a section per table of the configuration."""
    parts = ["## Top level", table(Config)]
    for name, field in Config.model_fields.items():
        inner_parts: dict[str, str] = {}  # sections inside this one, those of several kinds once
        for kind, model in kinds_of(field).items():
            parts += [f"## `[{name}]{_with_kind(kind)}`", first_paragraph(model), table(model)]
            for inner, inner_field in model.model_fields.items():
                for inner_kind, nested in kinds_of(inner_field).items():
                    title = f"### `[{name}.{inner}]{_with_kind(inner_kind)}`"
                    inner_parts[title] = f"{first_paragraph(nested)}\n\n{table(nested)}"
        parts += [part for pair in inner_parts.items() for part in pair]
    return "\n\n".join(parts)


def _with_kind(kind: str) -> str:
    return f' kind = "{kind}"' if kind else ""


def exit_codes() -> str:
    """Return the table of errors and their exit codes."""
    rows = ["| error | exit code | what to do |", "|---|---|---|"]
    things = [thing for thing in vars(errors).values() if isinstance(thing, type)]
    kinds = [thing for thing in things if issubclass(thing, errors.PplrError)]
    rows += [f"| `{kind.__name__}` | {kind.exit_code} | {first_paragraph(kind)} |" for kind in kinds]
    return "\n".join([*rows, "| interrupted (Ctrl-C) | 130 | go on with `--resume` |"])


def metrics_schema() -> str:
    """Return the JSON schema of metrics.json as a code block."""
    return f"```json\n{json.dumps(metrics_json_schema(), indent=1)}\n```"


def hidden_states() -> str:
    """Return a table of what attacks recover behind every k, from the benchmark's result file."""
    path = Path(__file__).parent.parent / "benchmarks" / "results" / "hidden_states.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    names = list(runs[0]["figures"])
    rows = ["| model | k | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for run in runs:
        shares = [f"{100 * run['figures'][name]['titles']['value']:.1f}%" for name in names]
        rows.append(f"| {run['model']} | {run['bottom']} of {run['layers']} | " + " | ".join(shares) + " |")
    histories = f"Titles recovered exactly, of {runs[0]['histories']} held-out histories of the demo's data"
    return "\n".join([f"{histories} (tokens and ROUGE-L: [Benchmarks](benchmarks.md)).", "", *rows])


def lying_client() -> str:
    """Return a table of what one lying client costs the honest ones, from the benchmark's result file."""
    path = Path(__file__).parent.parent / "benchmarks" / "results" / "lying_client.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    defences = list(dict.fromkeys(cell["defence"] for cell in result["cells"]))
    found = {(cell["strategy"], cell["lie"], cell["defence"]): cell for cell in result["cells"]}
    rows = ["| strategy | lie | " + " | ".join(defences) + " |", "|---" * (len(defences) + 2) + "|"]
    lies = list(dict.fromkeys(cell["lie"] for cell in result["cells"]))
    strategies = dict.fromkeys(cell["strategy"] for cell in result["cells"])
    for strategy, lie in ((strategy, lie) for lie in lies for strategy in strategies):
        if not any((strategy, lie, defence) in found for defence in defences):
            continue
        cells = [
            "refused" if [strategy, defence] in result["refused"] else _honest(found.get((strategy, lie, defence)))
            for defence in defences
        ]
        rows.append(f"| {strategy} | {lie} | " + " | ".join(cells) + " |")
    sizes = (
        f"NDCG@10 of the four honest clients, all their users / the worst of them, after {result['rounds']} rounds with "
        f"{result['examples']:,} training examples of all clients; {result['liar']} lies. † no quorum was left."
    )
    return "\n".join([sizes, "", *rows])


def _honest(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "not measured"
    ended = "" if cell["stopped"] is None else "†"
    return f"{cell['kept']['overall']:.3f} / {cell['kept']['worst']:.3f}{ended}"


def references() -> str:
    """Return what baselines and references reach on each data set, and how SASRec was trained."""
    results = Path(__file__).parent.parent / "benchmarks" / "results"
    measured = json.loads((results / "references.json").read_text(encoding="utf-8"))["data"]
    sasrec = json.loads((results / "sasrec.json").read_text(encoding="utf-8"))["data"]
    columns = {name: list(entry["seeds"].values()) for name, entry in measured.items()}
    for name, entry in sasrec.items():
        columns.setdefault(f"{name}, {entry['split']}", [{}])[0]["sasrec"] = entry["runs"]
    recommenders = dict.fromkeys(name for seeds in columns.values() for figures in seeds for name in figures)
    rows = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for recommender in recommenders:
        cells = []
        for seeds in columns.values():
            found = [figures[recommender] for figures in seeds if recommender in figures]
            cells.append(_reached(found[0] if found and isinstance(found[0], list) else found))
        title = "SASRec, all data in one place" if recommender == "sasrec" else baseline_name(recommender)
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    trained = [
        f"{name}: width {entry['settings']['n_factors']}, dropout {entry['settings']['dropout_rate']}, the last "
        f"{entry['settings']['session_max_len']} items, {' and '.join(str(run['epochs']) for run in entry['runs'])} epochs"
        for name, entry in sasrec.items()
    ]
    return "\n".join([*rows, "", f"SASRec's settings, chosen on validation targets: {'; '.join(trained)}."])


def _reached(found: list[dict[str, Any]]) -> str:
    """Return Recall@10 / NDCG@10 / the worst client's NDCG@10, means over seeds."""
    if not found:
        return ""
    values = [(each["overall"]["recall@10"], each["overall"]["ndcg@10"], each["worst_client"]) for each in found]
    return " / ".join(f"{fmean(column):.4f}" for column in zip(*values, strict=True))


def fusion() -> str:
    """Return what clients' own counts add to their models, from the benchmark's result file."""
    path = Path(__file__).parent.parent / "benchmarks" / "results" / "fusion.json"
    rows = [
        "| data | strategy | seed | the model alone | the mix | difference [95%] | worst client, alone | the mix | difference [95%] | clients that mix |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for data, entry in json.loads(path.read_text(encoding="utf-8"))["data"].items():
        for run in entry["runs"]:
            alone, mixed, difference = run["alone"], run["mixed"], run["mixed_minus_alone"]
            mixing = sum(
                any(w > 0 for name, w in each["weights"].items() if name not in {"model", "new_items"})
                for each in run["clients"].values()
            )
            cells = [
                data,
                run["strategy"],
                str(run["seed"]),
                f"{alone['overall']['ndcg@10']:.4f}",
                f"{mixed['overall']['ndcg@10']:.4f}",
                _interval(difference["overall"]),
                f"{alone['worst_client']:.4f}",
                f"{mixed['worst_client']:.4f}",
                _interval(difference["worst_client"]),
                f"{mixing} of {len(run['clients'])}",
            ]
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(["Test NDCG@10 (`benchmarks/fusion.py`), backbone `sequence`, 5 clients by k-means.", "", *rows])


def _interval(difference: dict[str, Any]) -> str:
    """Return a difference with its interval, bold where that lies on one side of zero."""
    low, high = difference["low"], difference["high"]
    text = f"{difference['first'] - difference['second']:+.4f} [{low:+.4f}, {high:+.4f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def wire_fields() -> str:
    """Return a row per kind of request: its fields and their types."""
    rows = ["| kind | by | fields |", "|---|---|---|"]
    for kind, model in FIELDS.items():
        by = "both" if kind is Kind.HELLO else "coordinator" if kind in COORDINATORS else "client"
        fields = ", ".join(f"`{name}` {_type_of(field)}" for name, field in model.model_fields.items())
        rows.append(f"| `{kind}` | {by} | {fields or 'none'} |")
    return "\n".join(rows)


def wire_limits() -> str:
    """Return the table of limits of a session."""
    return table(Limits)


def _type_of(field: FieldInfo) -> str:
    named = getattr(field.annotation, "__name__", "") if isinstance(field.annotation, type) else ""
    return (named or str(field.annotation)).replace("|", "or").replace("NoneType", "null").replace("None", "null")


def table(model: type[BaseModel]) -> str:
    """Return the keys of a model that are values, with defaults and meanings."""
    rows = []
    for name, field in model.model_fields.items():
        if not kinds_of(field) and name != "kind":
            default = default_of(field)
            shown = "" if default is None else f"`{written(default)}`"
            rows.append(f"| `{name}` | {shown} | {meaning_of(field).replace('|', '&#124;')} |")
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) if rows else "It has no keys of its own."
