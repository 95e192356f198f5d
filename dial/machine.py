"""What times depend on beside the model: the machine, and how much of it is used."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock, local
from typing import Any, ClassVar

import torch

logger = logging.getLogger(__name__)
WITH_BF16 = ("BF16", "FP16", "AMX", "VNNI_2", "AVX10")
"""What is in the names of oneDNN's sets of instructions that can multiply in bf16."""


def describe_machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads, device and versions; nothing that tells one machine of a kind from another.

    Args:
        device: where models run.
    """
    device = torch.device(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(names) or None,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": name,
        "torch": torch.__version__,
    }


def instructions() -> list[Any]:
    """What kernels are chosen by: the set that torch found, bf16, and what ``ONEDNN_MAX_CPU_ISA`` leaves of both."""
    return [torch.backends.cpu.get_cpu_capability(), has_bf16(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")]


class _Limits(local):
    """The limit that is in force in this Python thread, and what all of them share.

    Attributes:
        usual: threads without any limit, as they were when no limit was in force.
        inside: contexts that are open, in all Python threads.
    """

    lock: ClassVar = Lock()
    usual: ClassVar[int] = 0
    inside: ClassVar[int] = 0
    limit: int | None = None


_LIMITS = _Limits()


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """At most so many of torch's threads compute within this context; None: all of them.

    Torch keeps the number in part for each Python thread and in part, with MKL, for the process. What is put back is
    therefore what was there before any limit, and not what another Python thread's limit has left.
    """
    if count is None:
        yield
        return
    with _Limits.lock:
        if not _Limits.inside:
            _Limits.usual = torch.get_num_threads()
        _Limits.inside += 1
    outer = _LIMITS.limit
    before = outer or _Limits.usual
    _LIMITS.limit = min(count, before)
    torch.set_num_threads(_LIMITS.limit)
    try:
        yield
    finally:
        _LIMITS.limit = outer
        torch.set_num_threads(before)
        with _Limits.lock:
            _Limits.inside -= 1


def usable_cores() -> int:
    """Cores that this process may use, where the system tells; else those of the machine."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def check_device(asked: str, argument: str, others: str = "cpu") -> str:
    """The name of a device, after a look at whether it computes.

    Args:
        asked: what the user calls it.
        argument: how the user calls the setting.
        others: what is allowed beside a GPU.

    Raises:
        ValueError: there is none of that name, or it is only described (``meta``), or torch cannot use it.
    """
    try:
        torch.ones(1, device=asked).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise ValueError(
            f"`{argument}` must be {others}, or a GPU of this machine such as cuda:1, but got {asked!r}."
        ) from error
    return asked


def slow_bf16(dtypes: Iterable[str], device: torch.device | str) -> None:
    """Say it, once, where bf16 is asked for and this machine has no instructions for it.

    Args:
        dtypes: of the tiers' views, or the trainer's precision.
        device: where they run.
    """
    asked = any(dtype.startswith(("bfloat16", "bf16")) for dtype in dtypes)
    if asked and torch.device(device).type == "cpu" and not has_bf16():
        _say(
            "bfloat16 is 3 to 60 times slower than float32 here: this processor has no instructions for it, and torch "
            "computes it in pieces. Take float32 (`32-true` of a trainer) or int8."
        )


@cache
def _say(text: str) -> None:
    logger.warning(text)


@cache
def has_bf16() -> bool:
    """Whether the processor multiplies in bf16, by the names of its instructions; true where nothing tells.

    ``ONEDNN_MAX_CPU_ISA`` takes instructions away from torch and its libraries.
    """
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if most not in ("ALL", "DEFAULT", "") and not any(name in most for name in WITH_BF16):
        return False
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    told = [bool(value) for name, value in known.items() if "bf16" in name]
    if told:
        return any(told)
    flags = _flags()
    return not flags or any("bf16" in word for word in flags)


def instruction_sets() -> list[str]:
    """The processor's instructions on vectors and matrices, as Linux names them; ``ONEDNN_MAX_CPU_ISA`` is no part."""
    return sorted(flag for flag in _flags() if flag.startswith(("avx", "amx", "sve", "asimd")))


def _flags() -> set[str]:
    """What Linux says that the processor can do; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}


def synchronise(device: torch.device) -> None:
    """Wait for all that a GPU has been asked to do; on a CPU calls return when they are done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def key_of(*parts: Any) -> str:
    """Sixteen hexadecimal digits that plain values determine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
