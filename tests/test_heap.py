"""Freed memory serves the next tensors while models answer, and goes back to the system where it is asked to."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dial.cli import commands
from dial.heap import OF_USERS, kept_memory, of_glibc, return_memory

ROOT = Path(__file__).parents[1]
GLIBC = pytest.mark.skipif(of_glibc("mallopt") is None, reason="another C library than glibc")
# Tensors of 64 MB, beyond what glibc keeps by itself, one after the other; then what is still held.
FAULTS = """
import contextlib, resource, sys
import torch
from dial.heap import kept_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
held = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
for kept in (False, True, False):
    with kept_memory() if kept else contextlib.nullcontext(False) as done:
        for _ in range(5):
            torch.ones(16_000_000)
        before = faults()
        for _ in range(20):
            torch.ones(16_000_000)
        print(done, (faults() - before) * resource.getpagesize() / 20 / 64e6, held())
"""


def pages(**environment: str) -> list[tuple[str, float, int]]:
    """Of a new process: whether memory was kept, the share of each tensor that was mapped anew, and bytes held."""
    plain = {key: value for key, value in os.environ.items() if key not in OF_USERS}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, cwd=ROOT, check=True,
        env={**plain, **environment, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return [
        (kept, float(share), int(held)) for kept, share, held in (line.split() for line in done.stdout.splitlines())
    ]


@GLIBC
def test_tensors_take_the_memory_of_those_before_them_only_while_it_is_kept() -> None:
    if Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().startswith("[always]"):
        pytest.skip("pages of other sizes are mapped here")
    before, kept, after = pages()
    assert before[0] == after[0] == "False" and kept[0] == "True"
    assert before[1] > 0.9 and after[1] > 0.9
    assert kept[1] < 0.5  # a small block may end up where one began
    assert kept[2] - after[2] > 50e6  # given back at the end


@GLIBC
@pytest.mark.parametrize("name", OF_USERS)
def test_what_the_user_has_set_stays(monkeypatch, name) -> None:
    monkeypatch.setenv(name, "glibc.malloc.check=0" if name == "GLIBC_TUNABLES" else "65536")
    monkeypatch.setattr("dial.heap.of_glibc", lambda _: pytest.fail("mallopt was called"))
    with kept_memory() as kept:
        assert not kept


def test_another_c_library_answers_all_the_same(monkeypatch) -> None:
    monkeypatch.setattr("dial.heap.ctypes.CDLL", lambda name: SimpleNamespace())
    with kept_memory() as kept:
        assert not kept
    assert not return_memory()


@pytest.mark.parametrize("command", ["fit", "sweep", "predict", "test", "validate", "calibrate", "lengths"])
def test_commands_that_ask_models_keep_it(monkeypatch, command) -> None:
    events = []

    class Kept:
        def __enter__(self):
            events.append("kept")

        def __exit__(self, *error):
            events.append("given back")

    monkeypatch.setattr(commands, "kept_memory", Kept)
    monkeypatch.setattr(commands, "_run", lambda command, words: events.append(command) or 0)
    assert commands.run_command(command, []) == 0
    assert events == ([command] if command in ("fit", "sweep") else ["kept", command, "given back"])


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_gaps_between_tensors_that_stay_are_given_back() -> None:
    if not return_memory():
        pytest.skip("no malloc_trim here")
    tensors = [torch.ones(16_000) for _ in range(4_000)]  # 64 KB each, below what glibc maps on its own
    del tensors[::2], tensors[: len(tensors) // 2]
    before = resident()
    assert return_memory()
    assert before - resident() > 100e6
