"""A plan: for every number of layers that could stay with a client, what it costs whom."""

from __future__ import annotations

from dataclasses import dataclass

from pplr.audit.measured import Recovery, best_recovery
from pplr.models.parts import Cut, Which
from pplr.planning.batch import Batch, Reading, training_batch
from pplr.planning.estimate import Speeds, StepTime, step_time
from pplr.planning.flops import head, together
from pplr.planning.memory import Memory, client_memory, server_memory, whole_memory
from pplr.planning.outline import Outline
from pplr.planning.wire import Traffic, recommendation_traffic, step_traffic
from pplr.trunk.codecs import Codec
from pplr.trunk.fields import Contract, Limits


@dataclass(frozen=True)
class Circumstances:
    """What a plan is made for.

    Attributes:
        reading: typical texts and batches.
        codec: how states travel.
        bucket: frames are filled up to a multiple of so many tokens.
        top: m, layers before the head that stay with a client.
        clients: clients that the server serves at once.
        speeds: of client, server and line.
        device_memory: bytes of the client's memory that may be used; None where that is left open.
    """

    reading: Reading
    codec: Codec
    bucket: int
    top: int
    clients: int
    speeds: Speeds
    device_memory: int | None = None


@dataclass(frozen=True)
class Choice:
    """One k.

    Attributes:
        bottom: k.
        client_parameters: weights of bottom and top.
        server_parameters: weights of the trunk.
        client_memory: of a client.
        server_memory: of the server.
        client_flops: floating-point operations of a training step at the client.
        server_flops: at the server.
        step: bytes of a training step.
        recommendation: bytes of a recommendation.
        time: of a training step.
        fits: the client's memory is enough; None where it was not given.
        recovery: what the best attack has recovered from the states that leave; None where nothing was measured.
    """

    bottom: int
    client_parameters: int
    server_parameters: int
    client_memory: Memory
    server_memory: Memory
    client_flops: float
    server_flops: float
    step: Traffic
    recommendation: Traffic
    time: StepTime
    fits: bool | None
    recovery: Recovery | None


@dataclass(frozen=True)
class Whole:
    """A client that holds the whole model.

    Attributes:
        parameters: weights.
        memory: of the client.
        flops: of a training step.
        seconds: of a training step.
        fits: as in `Choice`.
    """

    parameters: int
    memory: Memory
    flops: float
    seconds: float
    fits: bool | None


@dataclass(frozen=True)
class Plan:
    """All choices of k.

    Attributes:
        model: name of the model.
        outline: the model.
        circumstances: what the plan is for.
        batch: a typical training step.
        whole: what is compared with.
        choices: by k, from 0.
    """

    model: str
    outline: Outline
    circumstances: Circumstances
    batch: Batch
    whole: Whole
    choices: tuple[Choice, ...]


def make_plan(model: str, outline: Outline, circumstances: Circumstances) -> Plan:
    """Return the plan for a model.

    Raises:
        ConfigError: with so many layers on top none is left for the server.
    """
    c = circumstances
    batch = training_batch(c.reading, decoder=outline.decoder)
    contract = Contract(outline.width, outline.decoder, c.codec, c.bucket, Limits())
    step, recommendation = step_traffic(batch, contract), recommendation_traffic(c.reading, contract)
    Cut(0, c.top).layers(Which.TRUNK, len(outline.layers))
    choices = tuple(
        _choice(model, outline, Cut(bottom, c.top), c, batch, step, recommendation)
        for bottom in range(len(outline.layers) - c.top)
    )
    return Plan(model, outline, c, batch, _whole(outline, c, batch), choices)


def _choice(
    model: str, outline: Outline, cut: Cut, c: Circumstances, batch: Batch, step: Traffic, recommendation: Traffic
) -> Choice:
    client, server = client_flops(outline, cut, batch), server_flops(outline, cut, batch)
    memory = client_memory(outline, cut, batch, c.reading)
    return Choice(
        bottom=cut.bottom,
        client_parameters=outline.client_parameters(cut),
        server_parameters=outline.server_parameters(cut),
        client_memory=memory,
        server_memory=server_memory(outline, cut, batch, c.reading, c.clients),
        client_flops=client,
        server_flops=server,
        step=step,
        recommendation=recommendation,
        time=step_time(client, server, step, c.speeds, len(batch.pieces)),
        fits=_fits(memory, c),
        recovery=best_recovery(model, cut.bottom),
    )


def client_flops(outline: Outline, cut: Cut, batch: Batch) -> float:
    """Return the operations of a training step in bottom, top and head.

    The lowest adapted layer needs no gradient of its input, which is counted all the same.
    """
    bottom = together(layer.shape for layer in outline.part(cut, Which.BOTTOM))
    top = together(layer.shape for layer in outline.part(cut, Which.TOP))
    return (
        bottom.forward(batch.tokens, batch.pairs)
        + bottom.backward(batch.tokens, batch.pairs)
        + top.forward(batch.tokens_behind, batch.pairs_behind)
        + top.backward(batch.tokens_behind, batch.pairs_behind)
        + 2 * head(outline.head, batch.targets)
    )


def server_flops(outline: Outline, cut: Cut, batch: Batch) -> float:
    """Return the operations of a training step in the trunk."""
    trunk = together(layer.shape for layer in outline.part(cut, Which.TRUNK))
    tokens, pairs = batch.tokens_behind, batch.pairs_behind
    return trunk.forward(tokens, pairs) + trunk.backward(tokens, pairs)


def _whole(outline: Outline, c: Circumstances, batch: Batch) -> Whole:
    shape = together(layer.shape for layer in outline.layers)
    flops = shape.forward(batch.tokens, batch.pairs) + shape.backward(batch.tokens, batch.pairs)
    flops += 2 * head(outline.head, batch.targets)
    memory = whole_memory(outline, batch, c.reading)
    time = step_time(flops, 0.0, Traffic(0, 0, 0), c.speeds, 1)
    return Whole(outline.parameters, memory, flops, time.total, _fits(memory, c))


def _fits(memory: Memory, c: Circumstances) -> bool | None:
    return None if c.device_memory is None else memory.total <= c.device_memory
