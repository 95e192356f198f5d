"""The batch size and threads with which a tier answers most rows a second on this machine (TangoBERT, section 6.2)."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dial.files import write_json
from dial.inference.executor import is_out_of_memory
from dial.machine import describe_machine, key_of, limited_threads, synchronise
from dial.tiers.tier import Encoding, Tier
from dial.tiers.tokens import Tokens

SCHEMA = 2
LARGEST = 1024
BATCHES = 32  # timed in one turn
TURN_SECONDS, LEAST_ROWS = 4.0, 32  # a turn takes about so long, or has as few rows as that
CLEAR = 0.25  # logarithm of a ratio of times that two turns suffice for
NEAR = 0.98  # of the best throughput: where a smaller batch gives that much, it is taken
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchSizes:
    """What a search found.

    Attributes:
        best: rows per batch.
        throughput: rows per second by batch size, as far as the search went.
        cached: whether it was found earlier.
        threads: fewest with which batches of that size are as fast as with all that torch has, or faster: a small model
            loses more by waiting for a second thread than that one computes. None: all of them.
    """

    best: int
    throughput: dict[int, float]
    cached: bool = False
    threads: int | None = None


def best_batch_size(
    tier: Tier, rows: Sequence[Tokens], cache_dir: str | Path, repeats: int = 3, largest: int = LARGEST
) -> BatchSizes:
    """The best batch size of a tier, searched once for each machine, number of threads and version of torch.

    What few rows said, which allow no large batch, or rows of another length, is not taken for others.

    Args:
        tier: on its device, in eval mode.
        rows: real rows, encoded; they bound the batch size.
        cache_dir: where results are kept.
        repeats: turns of each batch size.
        largest: rows per batch at most.

    Raises:
        ValueError: no rows, or not even one fits in memory.
    """
    if not rows:
        raise ValueError("`rows` must hold at least one row to measure with, but got none.")
    device = next(tier.parameters()).device
    about: dict[str, Any] = {
        "machine": describe_machine(device),
        "tier": tier.fingerprint,
        "dtype": tier.view.dtype,
    }
    if tier.computed_by != "torch":
        about["computed_by"] = tier.computed_by
    mean_length = sum(len(row.ids) for row in rows) / len(rows)
    about |= {"rows": power_of_two(min(len(rows), largest)), "length": power_of_two(mean_length)}
    path = Path(cache_dir).expanduser() / "batch-sizes" / f"{key_of(about)}.json"
    known = read_cache(path)
    if known is not None:
        return known
    order = sorted(rows, key=lambda row: len(row.ids))
    tokeniser = tier.tokeniser()

    @cache
    def batches(size: int) -> list[Encoding]:
        starts = range(0, len(order), size)
        some = np.unique(np.linspace(0, len(starts) - 1, BATCHES).round().astype(int))  # of all lengths
        return [tokeniser.collate(order[starts[i] : starts[i] + size], device) for i in some]

    def seconds(size: int) -> float:
        return seconds_of(tier, batches(size)) / sum(tier.rows_in(batch) for batch in batches(size))

    order = _affordable(order, lambda row: seconds_of(tier, [tokeniser.collate([row], device)]))
    found = search(seconds, len(order), repeats, largest)
    if device.type == "cpu" and tier.parts is None:  # a backend prepares a graph anew for each number of threads
        found = replace(found, threads=fewest_threads(lambda: seconds(found.best), torch.get_num_threads(), repeats))
    content = {"best": found.best, "throughput": found.throughput, "threads": found.threads}
    write_json(path, {"schema": SCHEMA, **about, **content})
    logger.info("%s: best batch size %d, threads %s", tier.name, found.best, found.threads or torch.get_num_threads())
    return found


def _affordable(rows: list[Tokens], seconds: Callable[[Tokens], float]) -> list[Tokens]:
    """So many of the rows, evenly spaced, that a turn of the search takes a few seconds.

    Args:
        rows: by length.
        seconds: time of one.
    """
    try:
        seconds(rows[0])  # warms up
        pace = sum(seconds(rows[i]) for i in _spread(4, len(rows))) / 4
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return rows  # the search says so
    return [rows[i] for i in _spread(min(len(rows), max(LEAST_ROWS, int(TURN_SECONDS / pace))), len(rows))]


def _spread(count: int, rows: int) -> list[int]:
    """So many positions from the first to the last."""
    return np.linspace(0, rows - 1, count).round().astype(int).tolist()  # type: ignore[no-any-return]


def fewest_threads(seconds: Callable[[], float], threads: int, repeats: int = 3) -> int | None:
    """The fewest threads with which work is as fast as with all, or faster; None where all are best.

    Half of them take turns with all, then a quarter, and so on down to one, until fewer are slower; the median of the
    ratios decides.

    Args:
        seconds: time of the work.
        threads: all of them.
        repeats: turns of each number.
    """
    fewest, count = threads, threads // 2
    while count >= 1:
        ratios = []
        for turn in range(repeats + 1):
            with limited_threads(count):
                few = seconds()
            ratio = few / seconds()
            ratios += [ratio] if turn else []  # the first warms up
        if np.median(ratios) > 1 / NEAR:
            break
        fewest, count = count, count // 2
    return None if fewest == threads else fewest


def power_of_two(number: float) -> int:
    """The largest power of two that is no larger than ``number``, from 1 up.

    Example:
        >>> power_of_two(1), power_of_two(31.9), power_of_two(256)
        (1, 16, 256)
    """
    return 1 << (max(int(number), 1).bit_length() - 1)


def search(seconds: Callable[[int], float], rows: int, repeats: int = 3, largest: int = LARGEST) -> BatchSizes:
    """Double the batch size until throughput falls twice in a row, or memory ends.

    Each size takes turns with the best so far, so that both meet the same moments of the machine; the median of the
    ratios decides. Where the first two turns are clear and agree, they are the only ones, and the more cautious of them
    decides: a single turn may have met a moment in which the machine did something else.

    Args:
        seconds: time per row in batches of a size; raises where memory does not suffice.
        rows: how many there are; no batch is larger.
        repeats: turns of each size.
        largest: rows per batch at most.

    Raises:
        ValueError: not even one row fits in memory.
    """
    pace: dict[int, float] = {}  # seconds per row
    best, size, worse = 0, 1, 0
    while size <= min(largest, max(rows, 1)) and worse < 2:
        try:
            seconds(size)  # warms up: kernels are made for each new shape
            turns: list[tuple[float, float]] = []
            while len(turns) < repeats and not (best and _clear(turns)):
                turns.append((seconds(best) if best else 1.0, seconds(size)))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if not best:
                raise ValueError("`batch_size` search: one row alone does not fit in memory; free some.") from error
            break
        # Of turns that agree the one that says least counts: the other may have met a slow moment.
        ratios = [now / before for before, now in turns]
        ratio = (
            min(ratios, key=lambda value: abs(np.log(value))) if best and _clear(turns) else float(np.median(ratios))
        )
        # Relative to the best so far, whose pace was taken at another moment; the first is compared with one second.
        pace[size] = ratio * pace.get(best, 1.0)
        worse = 0 if not best or ratio < 1 else worse + 1
        best = size if not best or ratio < 1 else best
        size *= 2
    fastest = min(pace.values())
    chosen = min(size for size, value in pace.items() if fastest / value >= NEAR)
    return BatchSizes(chosen, {size: 1 / value for size, value in pace.items()})


def _clear(turns: Sequence[tuple[float, float]]) -> bool:
    """Whether two turns or more, each with the times of the best size and of another, say clearly the same."""
    signs = [np.log(now / before) / CLEAR for before, now in turns]
    return len(signs) > 1 and (min(signs) > 1 or max(signs) < -1)


def seconds_of(tier: Tier, batches: Sequence[Encoding]) -> float:
    """Seconds of one pass of a tier over encoded batches, all exits of all rows, and the answers that it writes."""
    device = next(tier.parameters()).device
    with torch.inference_mode():
        synchronise(device)
        start = time.perf_counter()
        for batch in batches:
            if tier.writes:
                tier.write(batch, torch.arange(tier.rows_in(batch), device=device))
            else:
                tier(batch)
        synchronise(device)
        return time.perf_counter() - start


def read_cache(path: Path) -> BatchSizes | None:
    """What an earlier search left; None if nothing, or nothing readable."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        throughput = {int(size): float(rows) for size, rows in value["throughput"].items()}
        if value["schema"] != SCHEMA or int(value["best"]) not in throughput:
            return None
        threads = None if value["threads"] is None else int(value["threads"])
        return BatchSizes(int(value["best"]), throughput, cached=True, threads=threads)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
