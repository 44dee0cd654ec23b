"""What travels to and from a catalogue's server, and how long it works for a client that trains adapters.

    python benchmarks/catalogue_vectors.py --output benchmarks/results/catalogue_vectors.json

One client owns all data, trains one epoch on the vectors, and gives its gradient. Vectors, gradient and adapters are
packed as they travel. The server's work (reading all items, and one pass of training along the gradient) is timed in this
process, without the network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from pplr.catalogue.chunks import packed, raw_bytes, sizes, unpacked
from pplr.catalogue.serving import CHUNK_BYTES
from pplr.config import Config
from pplr.federation.events import ignore
from pplr.models.item_reader import Lesson
from pplr.models.sequence import SequenceBackbone
from pplr.models.sequence_settings import SequenceSettings
from pplr.training import Place, TrainingSettings, train_locally
from pplr.wiring import prepare
from result_file import summary, write_result
from source_data import add_data_options, data_name, data_settings

T = TypeVar("T")


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the result file."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = SequenceSettings(model=options.model, adapters=True, adapter_updates="round")
    parts = prepare(Config(data=data_settings(options), backbone=settings), ignore)
    backbone = parts.backbone
    if not isinstance(backbone, SequenceBackbone) or backbone.reader is None:
        raise TypeError("The configuration must name the sequence backbone, with adapters that learn once a round.")
    reader, examples = backbone.reader, backbone.examples(parts.dataset.training())
    backbone.reader = None  # the steps alone
    row = train_locally(
        backbone, backbone.layout.initial_row(1), examples, TrainingSettings(), Place(1, "all", 1, 0.0)
    ).row
    parameters = backbone.layout.views(row)
    gradient = backbone.item_gradient(parameters, None, examples, TrainingSettings().batch_tokens)
    adapters = {spec.name: parameters[spec.name] for spec in reader.specs}
    encoding = [_timed(lambda: reader.encode(adapters)) for _ in range(options.repeats)]
    lesson = Lesson(1e-3, 3, 0.01, 1.0, 1)
    learning = [_timed(lambda: reader.learn(adapters, frozenset(), gradient, lesson)) for _ in range(options.repeats)]
    learned = torch.cat([learning[0][0][spec.name].reshape(-1) for spec in reader.specs])
    figures: dict[str, Any] = {
        "data": data_name(options),
        "model": options.model,
        "items": backbone.items,
        "width": backbone.vectors.shape[1],
        "vectors": _travels(encoding[0][0]),
        "gradient": _travels(gradient),
        "adapters": _travels(learned),
        "encode_seconds": summary([seconds for _, seconds in encoding]),
        "learn_seconds": summary([seconds for _, seconds in learning]),
    }
    write_result(options.output, "catalogue_vectors", figures)


def _travels(numbers: Tensor) -> dict[str, float]:
    """Return the bytes of numbers, before and after they are packed, and the seconds for both ways."""
    raw = raw_bytes(numbers)
    chunks, packing = _timed(lambda: list(packed(raw, CHUNK_BYTES)))
    again, unpacking = _timed(
        lambda: b"".join(unpacked(c, size) for c, size in zip(chunks, sizes(len(raw), CHUNK_BYTES), strict=True))
    )
    if again != raw:
        raise SystemExit("The bytes that were unpacked are not those that were packed.")
    size = sum(len(chunk) for chunk in chunks)
    return {
        "bytes": len(raw),
        "packed_bytes": size,
        "share": size / len(raw),
        "pack_seconds": packing,
        "unpack_seconds": unpacking,
    }


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--model", default="minilm", help="language model that reads the items")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads; absent: torch's choice")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
