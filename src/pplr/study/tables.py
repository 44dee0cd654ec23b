"""What a study has found: its cells by what can be compared, as tables in files, and as a page of plots."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pplr.report.comparison import Comparison, Variant, compare_variants
from pplr.report.comparison_page import write_page
from pplr.report.comparison_text import ENDINGS, WRITERS
from pplr.storage import alone, make_folder, write_text
from pplr.study.grid import Cell
from pplr.study.settings import SEED, StudySettings

TABLES, PAGE, SUMMARY = "tables", "study.html", "study.json"

Done = tuple[Cell, Path]
"""A cell and its finished run's folder."""


@dataclass(frozen=True)
class Group:
    """Cells with the same data, clients and evaluation, so that their variants can be compared.

    Attributes:
        title: the labels that all of them share and other groups do not; "" where there is one group.
        table: name of the group's files in the folder of tables.
        comparison: the variants.
    """

    title: str
    table: str
    comparison: Comparison

    def as_dict(self) -> dict[str, Any]:
        """Return the group as values that `json.dumps` takes."""
        return {"title": self.title, "table": self.table, **self.comparison.as_dict()}


def write_tables(study: StudySettings, done: Sequence[Done], folder: Path, *, samples: int = 2000) -> list[Group]:
    """Write the tables of every group in all formats, one page of plots, and all figures as JSON; return the groups.

    Nothing is written where no cell is done.

    Raises:
        RunError: a cell's files are damaged, or cells that ought to be comparable are not.
        StorageError: the disk is full or not writable.
    """
    groups = _told_apart([_compared(study, done, cells, samples) for cells in _grouped(done)])
    if not groups:
        return []
    make_folder(folder / TABLES)
    content = {"study": study.model_dump(mode="json"), "groups": [group.as_dict() for group in groups]}
    with alone(folder):
        for group in groups:
            for form, write in WRITERS.items():
                write_text(folder / TABLES / f"{group.table}.{ENDINGS[form]}", write(group.comparison))
        write_page(folder / PAGE, study.name, [(group.title, group.comparison) for group in groups])
        write_text(folder / SUMMARY, json.dumps(content, indent=1))
    return groups


def _grouped(done: Sequence[Done]) -> list[list[Done]]:
    """Return the cells by what must be the same to compare them: data, clients, and what is measured."""
    found: dict[str, list[Done]] = {}
    for cell, folder in done:
        config = cell.config
        key = "\n".join(part.model_dump_json() for part in (config.data, config.clients, config.evaluation))
        found.setdefault(key, []).append((cell, folder))
    return list(found.values())


def _told_apart(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with titles and file names that differ: those that share theirs are told by their variants."""
    titles, taken = Counter(group.title for group in groups), set[str]()
    found = []
    for group in groups:
        title = group.title
        if titles[title] > 1:
            title = ", ".join(filter(None, [title, " | ".join(run.label for run in group.comparison.runs)]))
        numbered = (f"{group.table}-{number}" for number in itertools.count(2))
        table = next(name for name in itertools.chain([group.table], numbered) if name not in taken)
        taken.add(table)
        found.append(replace(group, title=title, table=table))
    return found


def _compared(study: StudySettings, done: Sequence[Done], group: Sequence[Done], samples: int) -> Group:
    axes = [axis for axis in study.axes if axis != SEED]
    same = [axis for axis in axes if len({cell.labels[axis] for cell, _ in group}) == 1]
    telling = [axis for axis in same if len({cell.labels[axis] for cell, _ in done}) > 1]
    varied = [axis for axis in axes if axis not in same]
    variants: dict[tuple[str, ...], list[Path]] = {}
    reference: tuple[str, ...] | None = None
    for cell, folder in group:
        key = tuple(cell.labels[axis] for axis in varied)
        variants.setdefault(key, []).append(folder)
        if reference is None and all(cell.labels[axis] == label for axis, label in study.reference.items()):
            reference = key
    order = sorted(variants, key=lambda key: key != reference)  # the one to compare with stands first
    alone = ", ".join(group[0][0].labels[axis] for axis in same if axis not in telling) or study.name
    named = [Variant(", ".join(key) or alone, tuple(variants[key])) for key in order]
    title = ", ".join(group[0][0].labels[axis] for axis in telling)
    name = re.sub(r"[^\w.]+", "-", title).strip("-.") or study.name
    comparison = compare_variants(named, study.metric, samples)
    if study.reference and reference is None:
        wanted = ", ".join(f"{axis} = '{label}'" for axis, label in study.reference.items())
        note = f"The reference, {wanted}, is not among these runs: differences are to {named[0].label}."
        comparison = replace(comparison, notes=(note, *comparison.notes))
    return Group(title, name, comparison)
