"""Freed memory is given back every so many batches, and only in fits on a CPU."""

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks import TrimmedHeap


@pytest.mark.parametrize(("device", "batches"), [("cpu", [2, 5, 8]), ("meta", [])])
def test_it_is_given_back_every_so_many_batches(device, batches) -> None:
    callback, returned = TrimmedHeap(every_n_steps=3), []
    module = SimpleNamespace(device=torch.device(device))
    for batch in range(10):
        callback._trim = lambda kept, batch=batch: returned.append((kept, batch))
        callback.on_train_batch_end(None, module, None, None, batch % 2)  # of short epochs
    assert returned == [(0, batch) for batch in batches]
    with pytest.raises(ValueError, match="`every_n_steps` must be at least 1, but got 0"):
        TrimmedHeap(0)


def test_a_system_without_it_trains_all_the_same(monkeypatch) -> None:
    monkeypatch.setattr("callbacks.heap.ctypes.CDLL", lambda name: SimpleNamespace())
    TrimmedHeap(1).on_train_batch_end(None, SimpleNamespace(device=torch.device("cpu")), None, None, 0)


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_gaps_between_tensors_that_stay_are_given_back() -> None:
    callback = TrimmedHeap(1)
    if callback._trim is None:
        pytest.skip("no malloc_trim here")
    callback._trim(0)
    tensors = [torch.ones(16_000) for _ in range(4_000)]  # 64 KB each, below what glibc maps on its own
    del tensors[::2], tensors[: len(tensors) // 2]
    before = resident()
    callback.on_train_batch_end(None, SimpleNamespace(device=torch.device("cpu")), None, None, 0)
    assert before - resident() > 100e6
