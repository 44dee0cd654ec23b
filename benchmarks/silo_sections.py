"""The sections of docs/benchmarks.md about silos and the coordinator."""

from __future__ import annotations

from statistics import median
from typing import Any

from page_parts import table, times

Result = dict[str, Any]


def network_round(r: Result) -> str:
    """Return the section of flower_round.py."""
    rows = [
        [name, f"{r['medians'][key]:.1f} ({min(values):.1f} to {max(values):.1f})"]
        for key, name in (("ours", "pplr"), ("bare", "bare Flower"))
        if (values := r["seconds"][key][1:])
    ]
    return (
        f"{r['silos']} silos that do not train, rows of {r['row_bytes'] / 1e6:g} MB, one SuperLink and a SuperNode for each silo on "
        "loopback. A round sends each silo its row, takes one back, and sends the new one to be measured; pplr also checks, compares, "
        f"mixes, logs and stores them. It takes **{times(r['ratio'])}** the time of bare Flower (target: at most {r['target']:g}). Most "
        "of a round is Flower's: it starts a process for each message, and its parties ask for news every few seconds.\n\n"
        + table(["", "seconds a round, median (range)"], rows)
        + _large(r.get("large"))
    )


def _large(r: Result | None) -> str:
    if r is None:
        return ""
    return (
        f"\nWith rows of {r['row_bytes'] / 1e6:g} MB and {r['silos']} silos a round takes {r['medians']['ours']:.1f} s, and "
        f"{r['medians']['bare']:.1f} s by bare Flower: {times(r['ratio'])}.\n"
    )


def many_silos(r: Result) -> str:
    """Return the section of many_silos.py."""
    return (
        f"{r['silos']:,} silos that answer at once, rows of {r['row_bytes'] / 1e3:,.0f} kB, {r['rounds']} rounds of the strategy `pplr` in one "
        "process: every task and answer goes through the parcels of the wire, admission, comparison, mixing, the audit log and a "
        f"checkpoint. A round takes {median(r['seconds']):.1f} s. The process had {r['before_bytes'] / 1e6:,.0f} MB before, and "
        f"{r['peak_bytes'] / 1e6:,.0f} MB at most: its rows are {r['bank_bytes'] / 1e6:,.0f} MB, which are there before and after "
        f"training, and once more while a checkpoint is written. {r['audited_rounds']} rounds stand in the audit log, whose chain is whole.\n"
    )


def ray_silos(r: Result) -> str:
    """Return the section of ray_silos.py."""
    rounds = r["rounds"]
    first, last = rounds[1 if len(rounds) > 1 else 0], rounds[-1]
    return (
        f"{r['silos']} silos with {r['examples']} training examples each, {len(rounds)} rounds on Ray's workers on {r['cores']} cores: "
        f"**{r['whole_seconds'] / 60:.1f} minutes** with the final measurement of {r['measured_silos']} silos that have test users "
        f"(target: at most {r['target_seconds'] / 60:g}). Resident memory of all processes, shared pages counted once for each: "
        f"{first['resident_bytes'] / 1e9:.2f} GB after the second round, {last['resident_bytes'] / 1e9:.2f} GB after the last.\n"
    )


def fuzzed_messages(r: Result) -> str:
    """Return the section of fuzzed_messages.py."""
    return (
        f"{r['messages']:,} updates of a silo, each spoilt in one to three ways, went the way that messages go: Flower's record, parcel, "
        f"fields, admission. {r['refused']:,} were refused; {r['accepted']:,} had been spoilt in nothing that matters, and count. A second "
        "reading of the raw bytes, which shares no code with pplr, agrees with every decision: "
        f"**{r['wrongly accepted']} were accepted that should not be, {r['wrongly refused']} refused that should not be, and "
        f"{r['crashed']} crashed the coordinator.**\n"
    )


def killed_processes(r: Result) -> str:
    """Return the section of killed_processes.py."""
    missing = sum(len(absent) for absent in r["missing"].values())
    starts = ", ".join(f"{name} {count} times" for name, count in r["starts"].items())
    return (
        f"A federation of {r['silos']} silos over a split model, {r['rounds']} rounds, its parties in processes of their own under "
        f"supervisors, over TLS. **{r['killed']} processes** got SIGKILL at moments drawn from a seed; the run ended after "
        f"{r['seconds'] / 60:.0f} minutes. Started were: {starts}. In {len(r['missing'])} rounds silos were missing, {missing} answers in "
        "all. The same rounds were computed once more in one process, with the whole model and without those answers: losses, mixing "
        f"matrices and test figures differ by **{r['largest_relative_difference']:.0e}** of their size at most.\n\n"
        + table(["killed", "times"], [[kind, str(count)] for kind, count in r["kills"].items()])
    )
