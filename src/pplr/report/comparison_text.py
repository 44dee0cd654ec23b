"""A comparison as a table in a text: Markdown, LaTeX, CSV. Baselines stand below the variants."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping

from pplr.evaluation import Difference
from pplr.report.comparison import ComparedBaseline, ComparedRun, Comparison
from pplr.wording import baseline_name, measure_name

_LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "\\": r"\textbackslash{}"}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def markdown(comparison: Comparison) -> str:
    """Return a table with one row per variant, and the notes below it; clear differences are bold."""
    percent = f"{comparison.level:.0%}"
    head = ["variant", "strategy", "seeds", measure_name(comparison.metric), "worst client", "deviation", "gap"]
    head += [f"difference to the first [{percent}]", f"worst client's difference [{percent}]"]
    rows = [head, ["---", "---", "---:", "---:", "---:", "---:", "---:", "---:", "---:"]]
    rows += [_markdown_row(run) for run in comparison.runs]
    rows += [[baseline_name(each.name), "", "", *baseline_cells(each), "", ""] for each in comparison.baselines]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *comparison.notes]) + "\n"


def latex(comparison: Comparison) -> str:
    """Return a tabular for the package booktabs; clear differences are bold."""
    head = ["", measure_name(comparison.metric), "worst", "deviation", "gap", r"$\Delta$", r"$\Delta$ worst"]
    lines = [
        r"\begin{tabular}{lrrrrrr}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(_latex_row(run)) + r" \\" for run in comparison.runs),
        *([r"\midrule"] if comparison.baselines else []),
        *(
            " & ".join([baseline_name(each.name), *baseline_cells(each), "", ""]) + r" \\"
            for each in comparison.baselines
        ),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join([*lines, *(f"% {note}" for note in comparison.notes)]) + "\n"


def comma_separated(comparison: Comparison) -> str:
    """Return one row per variant with all figures in full precision, for programs and spreadsheets."""
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    columns = ["variant", "strategy", "seeds", "users", "metric", "overall", "overall_std", "worst", "worst_std"]
    columns += ["worst_client", "deviation", "gap", "difference", "low", "high"]
    table.writerow([*columns, "worst_difference", "worst_low", "worst_high"])
    for run in comparison.runs:
        spread = run.balance
        figures = ["", "", "", "", ""]
        if spread is not None:
            figures = [
                _full(spread.worst),
                _full(run.worst_std),
                spread.worst_client,
                _full(spread.std),
                _full(spread.gap),
            ]
        start = [run.label, run.strategy, " ".join(map(str, run.seeds)), str(run.users), comparison.metric]
        overall = [_full(run.overall), _full(run.overall_std)]
        table.writerow([*start, *overall, *figures, *_ends(run.difference), *_ends(run.worst_difference)])
    for each in comparison.baselines:
        start = [each.name, "baseline", "", "", comparison.metric]
        figures = [_full(each.worst), "", "", _full(each.std), _full(each.gap)]
        table.writerow([*start, _full(each.overall), "", *figures, *_ends(None), *_ends(None)])
    return written.getvalue()


WRITERS: Mapping[str, Callable[[Comparison], str]] = {"markdown": markdown, "latex": latex, "csv": comma_separated}
"""Format -> how a comparison is written in it."""

ENDINGS = {"markdown": "md", "latex": "tex", "csv": "csv"}
"""Format -> ending of its files."""


def with_deviation(value: float, deviation: float | None) -> str:
    """Return "0.1234", or "0.1234 ± 0.0012" where there are several seeds."""
    return f"{value:.4f}" if deviation is None else f"{value:.4f} ± {deviation:.4f}"


def baseline_cells(baseline: ComparedBaseline) -> list[str]:
    """Return a baseline's overall figure, worst client, deviation and gap, as they are written."""
    return [f"{value:.4f}" for value in (baseline.overall, baseline.worst, baseline.std, baseline.gap)]


def _markdown_row(run: ComparedRun) -> list[str]:
    spread = ["", "", ""]
    if run.balance is not None:
        name = f" ({_cell(run.balance.worst_client)})" if run.balance.worst_client else ""
        worst = with_deviation(run.balance.worst, run.worst_std) + name
        spread = [worst, f"{run.balance.std:.4f}", f"{run.balance.gap:.4f}"]
    seeds = ", ".join(map(str, run.seeds))
    start = [_cell(run.label), run.strategy, seeds, with_deviation(run.overall, run.overall_std)]
    return [*start, *spread, with_interval(run.difference, "**{}**"), with_interval(run.worst_difference, "**{}**")]


def _latex_row(run: ComparedRun) -> list[str]:
    spread = ["", "", ""]
    if run.balance is not None:
        worst = with_deviation(run.balance.worst, run.worst_std)
        spread = [worst, f"{run.balance.std:.4f}", f"{run.balance.gap:.4f}"]
    label = re.sub(r"[&%$#_{}\\~^]", lambda found: _LATEX[found[0]], run.label)
    cells = [label, with_deviation(run.overall, run.overall_std), *spread]
    cells += [with_interval(run.difference, r"\textbf{{{}}}"), with_interval(run.worst_difference, r"\textbf{{{}}}")]
    return [cell.replace("±", r"$\pm$") for cell in cells]


def with_interval(difference: Difference | None, bold: str) -> str:
    """Return "+0.0012 [+0.0001, +0.0023]", put into `bold` where it is clear of zero, or "" where there is no difference."""
    if difference is None:
        return ""
    text = f"{difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    return bold.format(text) if difference.clear else text


def _ends(difference: Difference | None) -> list[str]:
    if difference is None:
        return ["", "", ""]
    return [_full(difference.estimate), _full(difference.low), _full(difference.high)]


def _full(value: float | None) -> str:
    return "" if value is None else repr(value)


def _cell(text: str) -> str:
    """Return `text` without what would end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")
