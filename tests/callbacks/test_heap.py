"""Freed memory is given back every so many batches, and only in fits on a CPU."""

from types import SimpleNamespace

import pytest
import torch

from callbacks import TrimmedHeap


@pytest.mark.parametrize(("device", "batches"), [("cpu", [2, 5, 8]), ("meta", [])])
def test_it_is_given_back_every_so_many_batches(monkeypatch, device, batches) -> None:
    callback, returned = TrimmedHeap(every_n_steps=3), []
    module = SimpleNamespace(device=torch.device(device))
    for batch in range(10):
        monkeypatch.setattr("callbacks.heap.return_memory", lambda batch=batch: returned.append(batch))
        callback.on_train_batch_end(None, module, None, None, batch % 2)  # of short epochs
    assert returned == batches
    with pytest.raises(ValueError, match="`every_n_steps` must be at least 1, but got 0"):
        TrimmedHeap(0)
