"""Looking at a machine before work is given to it: versions, processor, memory, disk, GPUs, models, and advice."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

PACKAGES = ("pplr", "torch", "transformers", "tokenizers", "numpy", "polars", "gguf", "accelerate", "peft")
"""Packages whose versions are worth knowing when something is odd."""

ROOM_NEEDED = 500_000_000
"""Bytes of free disk below which a first run may fail: a small model, its conversion, a run folder."""

WORTH_ROUNDING = 2.5
"""How many times as fast products in bfloat16 must be, for training to gain by it (docs/benchmarks.md)."""

MEMORY_FOR_GENERATIVE = 4_000_000_000
"""Bytes of memory that the generative backbone wants with the smallest model."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use; memory in bytes."""

    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class PulledModel:
    """A model in the cache; its files in bytes."""

    name: str
    kind: str
    stored_bytes: int


@dataclass(frozen=True)
class Health:
    """What a machine has; None is unknown or absent.

    Attributes:
        versions: package -> installed version, None where it is not installed.
        conflicts: sentences on packages that do not fit what pplr requires.
        python: version of Python.
        system: operating system and its version.
        processor: name of the processor.
        cores: processor cores that this process may use.
        threads: threads that torch uses.
        bfloat16_times: how many times as fast as in float32 the processor makes a matrix product in bfloat16.
        memory_bytes: memory that this process may use: the machine's, or the container's.
        available_bytes: what of the machine's memory is free for new work.
        cuda: version of CUDA that torch was built for, None for a build without.
        gpus: the GPUs that torch sees.
        nvidia_device: the system has an NVIDIA device, whether or not torch can use it.
        cache: folder of pulled models.
        cache_bytes: size of what is in it.
        cache_writable: it can be written, or created.
        cache_free_bytes: room on its disk.
        here_free_bytes: room on the disk of the current folder, where runs are written.
        models: models in the cache.
    """

    versions: dict[str, str | None]
    conflicts: tuple[str, ...]
    python: str
    system: str
    processor: str
    cores: int
    threads: int
    bfloat16_times: float
    memory_bytes: int | None
    available_bytes: int | None
    cuda: str | None
    gpus: tuple[Gpu, ...]
    nvidia_device: bool
    cache: Path
    cache_bytes: int
    cache_writable: bool
    cache_free_bytes: int
    here_free_bytes: int
    models: tuple[PulledModel, ...]


@dataclass(frozen=True)
class Advice:
    """One or two sentences; `serious` where a run would fail."""

    serious: bool
    text: str


def examine() -> Health:
    """Return what this machine has; loads torch, and asks no network.

    Raises:
        ConfigError: the variable that names the cache folder is not usable.
    """
    import torch

    from pplr.models.hub import cache_folder, installed
    from pplr.planning.speed import bfloat16_times

    cache = cache_folder()
    present = next(folder for folder in (cache, *cache.parents) if folder.exists())
    total, available = _memory()
    cuda: str | None = torch.version.cuda
    return Health(
        versions={name: _version(name) for name in PACKAGES},
        conflicts=tuple(_conflicts()),
        python=platform.python_version(),
        system=platform.platform(terse=True),
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        bfloat16_times=bfloat16_times(),
        memory_bytes=total,
        available_bytes=available,
        cuda=cuda,
        gpus=tuple(_gpus()),
        nvidia_device=Path("/dev/nvidiactl").exists(),
        cache=cache,
        cache_bytes=sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()),
        cache_writable=os.access(present, os.W_OK | os.X_OK),
        cache_free_bytes=shutil.disk_usage(present).free,
        here_free_bytes=shutil.disk_usage(Path.cwd()).free,
        models=tuple(
            PulledModel(files.name, str(files.kind), files.manifest.bytes if files.manifest else 0)
            for files in installed()
        ),
    )


def advise(health: Health) -> tuple[Advice, ...]:
    """Return what to do about a machine, the serious things first; nothing where all is well."""
    found = [*_about_packages(health), *_about_room(health), *_about_processors(health), *_about_models(health)]
    return tuple(sorted(found, key=lambda advice: not advice.serious))


def _about_packages(health: Health) -> Iterator[Advice]:
    for conflict in health.conflicts:
        yield Advice(True, conflict)


def _about_room(health: Health) -> Iterator[Advice]:
    if not health.cache_writable:
        yield Advice(
            True, f"The cache {health.cache} cannot be written. Set PPLR_CACHE to a folder that you may write to."
        )
    if health.cache_free_bytes < ROOM_NEEDED:
        yield Advice(
            True,
            f"The disk of the cache {health.cache} has {health.cache_free_bytes / 1e6:,.0f} MB free, and a model needs "
            f"up to {ROOM_NEEDED / 1e6:,.0f} MB. Make room, or set PPLR_CACHE to a folder on another disk.",
        )
    if health.here_free_bytes < ROOM_NEEDED:
        yield Advice(
            True,
            f"The disk of this folder has {health.here_free_bytes / 1e6:,.0f} MB free, and checkpoints are written to "
            "it. Make room, or run with --out on another disk.",
        )
    if health.available_bytes is not None and health.available_bytes < MEMORY_FOR_GENERATIVE:
        yield Advice(
            False,
            f"{health.available_bytes / 1e9:.1f} GB of memory are free. That is enough for the sequence backbone; the "
            f"generative one wants {MEMORY_FOR_GENERATIVE / 1e9:.0f} GB.",
        )


def _about_processors(health: Health) -> Iterator[Advice]:
    if health.threads != health.cores:
        yield Advice(
            False,
            f"Torch uses {health.threads} threads, and this process may use {health.cores} cores. Look at the variable "
            "OMP_NUM_THREADS, or set threads in the configuration.",
        )
    if not health.gpus and health.nvidia_device and health.cuda is None:
        yield Advice(
            False, "There is an NVIDIA GPU, but this torch was built without CUDA. Install a CUDA build to use it."
        )
    elif not health.gpus and health.nvidia_device:
        yield Advice(
            False,
            f"There is an NVIDIA GPU, but torch (CUDA {health.cuda}) cannot use it. Check the driver with "
            "`nvidia-smi`, and the variable CUDA_VISIBLE_DEVICES.",
        )
    elif not health.gpus:
        yield Advice(
            False,
            "There is no GPU. The sequence backbone is made for that; give generative and encoder runs few examples "
            "(training.max_examples).",
        )

    if not health.gpus and health.bfloat16_times > WORTH_ROUNDING:
        yield Advice(
            False,
            f"This processor makes matrix products in bfloat16 {health.bfloat16_times:.1f} times as fast as in float32. "
            "With backbone.precision = 'bfloat16' training takes less time, by some tens of percent or half.",
        )


def _about_models(health: Health) -> Iterator[Advice]:
    names = {model.name for model in health.models}
    if "minilm" not in names:
        yield Advice(
            False,
            "The default model has not been pulled yet; the first run does it, or `pplr models pull minilm` now.",
        )
    lacking = [name for name in ("gguf", "accelerate") if health.versions.get(name) is None]
    if lacking and "smollm2-135m" not in names:
        yield Advice(
            False,
            f"{' and '.join(lacking)} must be installed to convert smollm2-135m, the default of the generative "
            "backbone: `pip install 'pplr[gguf]'`.",
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _conflicts() -> Iterator[str]:
    for text in requires("pplr") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            state = "is not installed" if found is None else f"is installed in version {found}"
            yield (
                f"{requirement.name} {state}, and pplr needs {requirement.name}{requirement.specifier}. "
                "Install pplr again, in an environment of its own."
            )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _memory() -> tuple[int | None, int | None]:
    """Return the memory that this process may use, and what of it is free, in bytes."""
    try:
        pairs = (line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        kilobytes = {name: int(rest.split()[0]) for name, rest in pairs}
        total, available = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    except (OSError, KeyError, ValueError):
        return (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if sys.platform != "win32" else None), None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        # no container, or one without a limit ("max")
        return total, available
    return min(total, limit), min(available, max(0, limit - used))


def _gpus() -> Iterator[Gpu]:
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield Gpu(torch.cuda.get_device_name(index), total, free)
