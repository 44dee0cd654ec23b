"""Which k to take, in a few sentences."""

from __future__ import annotations

from pplr.planning.plan import Choice, Plan


def advice(plan: Plan) -> str:
    """Return what the plan recommends: the largest k that fits, what it costs beside a small one, and the risk."""
    room = plan.circumstances.device_memory
    if room is None:
        return (
            "What leaves a client is harder to read the larger k is, and a larger k costs the client memory and "
            f"work. Give --device-memory to have one k recommended. {_risk(plan, plan.choices[-1])}"
        )
    fitting = [choice for choice in plan.choices if choice.fits]
    if not fitting:
        return _none_fits(plan, room)
    best = fitting[-1]
    small = next((choice for choice in fitting if choice.bottom == 2), fitting[0])
    compared = (
        f", where k = {small.bottom} takes {gigabytes(small.client_memory.total)} and {small.time.total:.1f} s"
        if small is not best
        else ""
    )
    limit = "the largest there is" if best is plan.choices[-1] else f"the largest that fits into {gigabytes(room)}"
    text = (
        f"Take k = {best.bottom}, {limit}: a client needs {gigabytes(best.client_memory.total)}, and a step takes "
        f"{best.time.total:.1f} s{compared}. {_risk(plan, best)}"
    )
    if plan.whole.fits:
        text += (
            f" The whole model fits too ({gigabytes(plan.whole.memory.total)}): with placement.kind = 'whole' no hidden "
            "state leaves."
        )
    return text


def gigabytes(size: float) -> str:
    """Return bytes as a person reads them: "0.63 GB", "14.2 GB"."""
    value = size / 1e9
    return f"{value:,.0f} GB" if value >= 100 else f"{value:.1f} GB" if value >= 10 else f"{value:.2f} GB"


def _none_fits(plan: Plan, room: int) -> str:
    least = plan.choices[0]
    memory = least.client_memory
    extra = memory.total - memory.runtime - memory.weights
    if memory.total - extra < room:
        todo = f"Set --batch-tokens (training.batch_tokens) below {plan.circumstances.reading.batch_tokens}"
    else:
        todo = "Choose a smaller model"
    return (
        f"No k fits into {gigabytes(room)}: k = 0 needs {gigabytes(memory.total)} ({gigabytes(memory.weights)} weights, "
        f"{gigabytes(extra)} for batches, {gigabytes(memory.runtime)} the program itself). {todo}, or give the client "
        f"{gigabytes(memory.total)} or more."
    )


def _risk(plan: Plan, chosen: Choice) -> str:
    if chosen.recovery is None:
        measured = [choice for choice in plan.choices if choice.recovery is not None]
        if not measured:
            return "How much can be read behind which k has not been measured for this model."
        near = min(measured, key=lambda choice: abs(choice.bottom - chosen.bottom))
        return f"The nearest measured risk is that of k = {near.bottom}: {_recovered(near)}."
    return f"Behind k = {chosen.bottom} {_recovered(chosen)}."


def _recovered(choice: Choice) -> str:
    found = choice.recovery
    return "" if found is None else f"the best attack ({found.attack}) recovers {found.tokens:.0%} of the tokens"
