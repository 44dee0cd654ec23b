"""A plan for programs: nested values that JSON can hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pplr.planning.memory import Memory
from pplr.planning.plan import Choice, Plan
from pplr.planning.wire import Traffic


def as_document(plan: Plan) -> dict[str, Any]:
    """Return the plan; memory and traffic in bytes, times in seconds, operations of a training step."""
    c = plan.circumstances
    whole = plan.whole
    return {
        "model": plan.model,
        "model_type": plan.outline.model_type,
        "layers": len(plan.outline.layers),
        "width": plan.outline.width,
        "parameters": plan.outline.parameters,
        "tied": plan.outline.tied,
        "dtype": "float32",
        "top": c.top,
        "codec": c.codec.name,
        "bucket": c.bucket,
        "clients": c.clients,
        "reading": asdict(c.reading),
        "batch": asdict(plan.batch),
        "speeds": asdict(c.speeds),
        "device_memory": c.device_memory,
        "whole": {
            "parameters": whole.parameters,
            "memory": _memory(whole.memory),
            "flops": whole.flops,
            "seconds": whole.seconds,
            "fits": whole.fits,
        },
        "choices": [_choice(choice) for choice in plan.choices],
    }


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "bottom": choice.bottom,
        "client": {
            "parameters": choice.client_parameters,
            "memory": _memory(choice.client_memory),
            "flops": choice.client_flops,
        },
        "server": {
            "parameters": choice.server_parameters,
            "memory": _memory(choice.server_memory),
            "flops": choice.server_flops,
        },
        "step_bytes": _traffic(choice.step),
        "recommendation_bytes": _traffic(choice.recommendation),
        "step_seconds": {**asdict(choice.time), "total": choice.time.total},
        "fits": choice.fits,
        "recovery": None if choice.recovery is None else asdict(choice.recovery),
    }


def _memory(memory: Memory) -> dict[str, int]:
    return {**asdict(memory), "total": memory.total}


def _traffic(traffic: Traffic) -> dict[str, int]:
    return {**asdict(traffic), "total": traffic.total}
