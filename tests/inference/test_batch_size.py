"""The search for the best batch size, on made-up clocks, and its cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dial.inference import batch_size
from dial.inference.batch_size import best_batch_size, search
from dial.inference.classifier import AdaptiveClassifier
from dial.inference.staged import StagedModel
from dial.tiers.tokens import Tokeniser
from dial.tradeoff.point import OperatingPoint, Promise
from dial.tradeoff.rules import rule_named
from tests.tiers import small


def clock(per_row: dict[int, float], asked: list[int] | None = None) -> Callable[[int], float]:
    def seconds(size: int) -> float:
        if asked is not None:
            asked.append(size)
        return per_row[size]

    return seconds


def test_doubles_until_throughput_falls_twice() -> None:
    asked: list[int] = []
    found = search(clock({1: 1.0, 2: 0.6, 4: 0.4, 8: 0.45, 16: 0.6, 32: 0.1}, asked), rows=500)
    assert found.best == 4 and not found.cached
    assert found.throughput == pytest.approx({1: 1, 2: 1 / 0.6, 4: 2.5, 8: 1 / 0.45, 16: 1 / 0.6})
    assert max(asked) == 16


def test_one_bad_moment_does_not_end_the_search() -> None:
    assert search(clock({1: 1.0, 2: 1.2, 4: 0.4, 8: 0.5, 16: 0.6}), rows=500).best == 4


@pytest.mark.parametrize("disturbed", [1, 2, 3, 4, 5])
def test_one_slow_turn_is_not_believed(disturbed: int) -> None:
    """Whichever of the first turns of two neighbouring sizes meets a slow moment: as without it."""
    per_row, asked = {1: 1.0, 2: 0.6, 4: 0.4, 8: 0.38, 16: 0.6, 32: 0.9}, 0

    def seconds(size: int) -> float:
        nonlocal asked
        asked += size in (2, 4)
        return per_row[size] * (9 if size in (2, 4) and asked == disturbed else 1)

    found = search(seconds, rows=500)
    assert found.best == 8
    assert found.throughput == pytest.approx({size: 1 / time for size, time in per_row.items()}, rel=0.5)


def test_of_nearly_equal_sizes_the_smaller_is_taken() -> None:
    assert search(clock({1: 1.0, 2: 0.50, 4: 0.495, 8: 0.6, 16: 0.7}), rows=500).best == 2


def test_sizes_are_compared_in_turns() -> None:
    """The machine gets slower all the time; only what is measured beside it tells."""
    slower = [1.0]

    def seconds(size: int) -> float:
        slower[0] *= 1.5
        return slower[0] / size

    assert search(seconds, rows=64).best == 64


def test_no_batch_is_larger_than_the_rows_or_the_limit() -> None:
    asked: list[int] = []
    search(clock({size: 1 / size for size in (1, 2, 4, 8)}, asked), rows=11)
    assert max(asked) == 8
    assert search(clock({size: 1 / size for size in (1, 2, 4)}), rows=100, largest=4).best == 4


def test_memory_ends_the_search_upwards() -> None:
    def seconds(size: int) -> float:
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1 / size

    assert search(seconds, rows=100).best == 4

    def never(size: int) -> float:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(ValueError, match="one row alone does not fit in memory"):
        search(never, rows=100)

    def broken(size: int) -> float:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        search(broken, rows=100)


def test_what_was_found_is_kept_for_this_machine_and_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = small.plain_tier("swift")
    rows = Tokeniser(tier)(small.texts(40))
    shapes: list[tuple[int, ...]] = []

    def seconds_of(tier: object, batches: list[dict[str, torch.Tensor]]) -> float:
        shapes.extend(tuple(batch["input_ids"].shape) for batch in batches)
        size = len(batches[0]["input_ids"])
        return {1: 4, 2: 3, 4: 2, 8: 1}.get(size, 2) * sum(len(batch["input_ids"]) for batch in batches)

    monkeypatch.setattr(batch_size, "seconds_of", seconds_of)
    first = best_batch_size(tier, rows, tmp_path)
    assert first.best == 8 and not first.cached
    assert {size for size, _ in shapes} >= {1, 2, 4, 8}
    widths, lengths = {width for size, width in shapes if size == 1}, {len(row.ids) for row in rows}
    assert len(widths) > 8 and (min(widths), max(widths)) == (min(lengths), max(lengths))  # of the whole range
    shapes.clear()
    kept = batch_size.BatchSizes(8, first.throughput, cached=True, threads=first.threads)
    assert best_batch_size(tier, rows, tmp_path) == kept
    assert not shapes
    (file,) = (tmp_path / "batch-sizes").iterdir()
    content = json.loads(file.read_text())
    assert content["machine"]["threads"] == torch.get_num_threads() and content["tier"] == tier.fingerprint
    with torch.no_grad():
        next(tier.model.parameters()).add_(1)
    assert not best_batch_size(tier, rows, tmp_path).cached  # another tier
    for path in (tmp_path / "batch-sizes").iterdir():
        path.write_text("{")
    assert not best_batch_size(tier, rows, tmp_path).cached  # unreadable: searched again


@pytest.mark.parametrize(
    ("per_threads", "fewest"),
    [
        ({4: 1.0, 2: 0.9, 1: 0.8}, 1),  # a small model
        ({4: 1.0, 2: 1.01, 1: 1.5}, 2),
        ({4: 1.0, 2: 1.4, 1: 0.1}, None),  # fewer than those that are slower are not tried
        ({1: 1.0}, None),
    ],
)
def test_fewest_threads_that_are_as_fast_as_all(monkeypatch, per_threads: dict[int, float], fewest: int | None) -> None:
    now = [max(per_threads)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: now.__setitem__(0, count))
    turns = iter(range(100))

    def seconds() -> float:
        return per_threads[now[0]] * 1.1 ** next(turns)  # the machine gets slower all the time; turns lie beside it

    assert batch_size.fewest_threads(seconds, max(per_threads), repeats=5) == (None if fewest is None else fewest)
    assert now == [max(per_threads)]


def test_a_tier_is_computed_by_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = StagedModel([small.plain_tier("swift"), small.plain_tier("super", layers=2)])
    rule = rule_named("threshold", "softmax", stages=("swift", "super"), thresholds=(2.0,))
    labels = tuple(network.tiers[0].label_names)
    tiers = {tier.name: tier.fingerprint for tier in network.tiers}
    classifier = AdaptiveClassifier(network, OperatingPoint(rule, Promise(), label_names=labels, tiers=tiers))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(batch_size, "fewest_threads", lambda seconds, most, repeats: 1 if seconds() else None)
        monkeypatch.setattr(batch_size, "search", lambda seconds, rows, *_: batch_size.BatchSizes(4, {4: 1.0}))
        classifier.tune(small.texts(20), tmp_path)
        assert classifier.executor.threads == {"swift": 1, "super": 1}
        classifier.executor.threads["super"] = None
        seen: dict[str, int] = {}
        for tier in network.tiers:
            tier.register_forward_pre_hook(lambda tier, _: seen.__setitem__(tier.name, torch.get_num_threads()))
        classifier(small.texts(20))
        assert seen == {"swift": 1, "super": 2} and torch.get_num_threads() == 2
        assert best_batch_size(network.tiers[0], Tokeniser(network.tiers[0])(small.texts(20)), tmp_path).threads == 1
    finally:
        torch.set_num_threads(threads)


def test_a_slow_tier_is_searched_with_few_rows_of_all_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of a base-size model over 256 rows of 200 tokens would take a minute, and there are dozens."""
    tier = small.plain_tier("swift")
    rows = Tokeniser(tier)(small.texts(300))
    turns: list[list[int]] = []

    def seconds_of(tier: object, batches: list[dict[str, torch.Tensor]]) -> float:
        turns.append([width for batch in batches for width in [batch["input_ids"].shape[1]] * len(batch["input_ids"])])
        return 0.02 * len(batches) + 0.03 * len(turns[-1])

    monkeypatch.setattr(batch_size, "seconds_of", seconds_of)
    found = best_batch_size(tier, rows, tmp_path)
    lengths = [len(row.ids) for row in rows]
    assert max(map(len, turns)) == 80 and max(found.throughput) == 64  # of four seconds
    assert (min(turns[6]), max(turns[6])) == (min(lengths), max(lengths))


def test_what_few_or_short_rows_said_is_not_taken_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = small.plain_tier("swift", max_length=64)
    tokeniser = Tokeniser(tier)

    def seconds_of(tier: object, batches: list[dict[str, torch.Tensor]]) -> float:
        return float(len(batches))  # the larger the batch, the better

    monkeypatch.setattr(batch_size, "seconds_of", seconds_of)
    rows = tokeniser(small.texts(40))
    assert best_batch_size(tier, rows[:3], tmp_path).best == 2
    many = best_batch_size(tier, rows, tmp_path)
    assert many.best == 32 and not many.cached and best_batch_size(tier, rows, tmp_path).cached
    assert best_batch_size(tier, rows[:3], tmp_path).best == 2  # no more than there are
    longer = tokeniser(["good film " * 30] * 40)
    assert not best_batch_size(tier, longer, tmp_path).cached
    with pytest.raises(ValueError, match="`rows` must hold at least one row to measure with, but got none"):
        best_batch_size(tier, [], tmp_path)


def test_a_real_pass_is_timed() -> None:
    tier = small.plain_tier("swift")
    tokeniser = Tokeniser(tier)
    batch = tokeniser.collate(tokeniser(small.texts(4)))
    assert batch_size.seconds_of(tier, [batch, batch]) > 0
