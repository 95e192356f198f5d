"""What times depend on beside the model: the machine, and how much of it is used."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch


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


def default_cache_dir() -> Path:
    """Where what was found out on this machine is kept: ``$DIAL_CACHE``, else ``~/.cache/dial``."""
    return Path(os.environ.get("DIAL_CACHE", "~/.cache/dial")).expanduser()


def synchronise(device: torch.device) -> None:
    """Wait for all that a GPU has been asked to do; on a CPU calls return when they are done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def key_of(*parts: Any) -> str:
    """Sixteen hexadecimal digits that plain values determine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
