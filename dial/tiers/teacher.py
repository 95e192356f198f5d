"""Teacher logits: computed once per training text, kept on disk, read memory-mapped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from datamodules.scratch import made_once
from dial.files import atomic_write
from dial.tiers.backends.comparison import Comparison
from dial.tiers.tier import Tier

TELL_EVERY = 30.0  # seconds


def teacher_logits(
    tier: Tier,
    loader: Iterable[Mapping[str, Any]],
    rows: ArrayLike,
    rows_fingerprint: str,
    cache_dir: str | Path,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], object] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the tier's last exit for every row, from the cache if they lie there.

    The key is made of the tier's fingerprint (weights, view, labels), what computes it where that is a backend, its
    encoding key (tokenizer, length) and the rows' fingerprint. A backend in lower precision is compared with float32
    on the first rows, which a line tells.

    Each rank computes the rows that its loader gives and writes them as a part; rank 0 puts the parts together under a
    temporary name and renames the result, so that a killed run leaves all or nothing.

    Args:
        tier: the teacher.
        loader: batches with ``sample_id`` ``(B,)`` and ``encodings``; the ranks' shares together hold all rows, repeats
            allowed. Only read if the logits are not in the cache.
        rows: ``(N,)`` sample ids that the result must hold.
        rows_fingerprint: changes with the content of the rows.
        cache_dir: folder that all ranks see.
        device: where to compute.
        rank: of this process.
        world_size: number of processes.
        barrier: waits for all processes.

    Returns:
        Sample ids ``(N,)`` int64, ascending, and logits ``(N, C)`` float32, both memory-mapped and read-only.

    Raises:
        ValueError: the loader lacks a row, or a logit is not finite; names the teacher and the row. Or more answers
            change in a backend's int8 than allowed.
    """
    ids = np.unique(np.asarray(rows, dtype=np.int64))
    about = {"teacher": tier.fingerprint, "encoding": tier.encoding_key, "rows": rows_fingerprint, "count": len(ids)}
    if tier.computed_by != "torch":
        about["computed_by"] = tier.computed_by
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(cache_dir) / f"teacher-{key}"
    there = folder.is_dir()
    barrier()  # every rank passes the same barriers, whatever it saw: another run may finish the same folder meanwhile
    if not there:
        folder.parent.mkdir(parents=True, exist_ok=True)
        batches = with_progress(loader, len(ids) // world_size) if rank == 0 else loader
        found, logits = _compute(tier, batches, torch.device(device))
        with atomic_write(_part(folder, rank, world_size)) as temporary:
            np.savez(temporary, sample_id=found, logits=logits)
    barrier()
    if rank == 0 and not folder.is_dir():
        _join(folder, [_part(folder, r, world_size) for r in range(world_size)], ids, about)
    barrier()
    _part(folder, rank, world_size).unlink(missing_ok=True)
    return np.load(folder / "sample_id.npy", mmap_mode="r"), np.load(folder / "logits.npy", mmap_mode="r")


def _part(folder: Path, rank: int, world_size: int) -> Path:
    # Another run with as many processes writes the same rows there; one with more or fewer must not.
    return folder.with_name(f"{folder.name}.part{rank}of{world_size}.npz")


def with_progress(loader: Iterable[Mapping[str, Any]], rows: int) -> Iterator[Mapping[str, Any]]:
    """The batches of a loader; every half a minute a line says how far the reading is.

    Args:
        loader: batches with ``sample_id`` ``(B,)``.
        rows: how many there are.
    """
    begin = last = time.monotonic()
    done = 0
    for batch in loader:
        yield batch
        done += len(batch["sample_id"])
        now = time.monotonic()
        if now - last >= TELL_EVERY:
            last, pace = now, done / (now - begin)
            left = max(0, rows - done) / pace / 60
            print(f"teacher: {done:,} of {rows:,} rows, {pace:,.0f} rows/s, {left:.1f} minutes left", flush=True)


@torch.inference_mode()
def _compute(tier: Tier, loader: Iterable[Mapping[str, Any]], device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Sample ids ``(R,)`` and logits ``(R, C)`` of the loader's rows; the tier returns to its device and mode."""
    training, home = tier.training, next(tier.parameters()).device
    tier.eval().to(device)
    ids, logits = [np.empty(0, np.int64)], [np.empty((0, tier.task.columns), np.float32)]
    comparison = Comparison(tier)
    try:
        for batch in loader:
            encoding = {name: value.to(device) for name, value in batch["encodings"][tier.encoding_key].items()}
            ids.append(batch["sample_id"].cpu().numpy())
            outputs = tier(encoding)
            comparison.see(encoding, outputs)
            logits.append(outputs[:, -1].float().cpu().numpy())
        comparison.finish()
    finally:
        tier.train(training).to(home)
    return np.concatenate(ids), np.concatenate(logits)


def _join(folder: Path, parts: list[Path], ids: np.ndarray, about: dict[str, Any]) -> None:
    """Put the ranks' parts together in the order of ``ids``, each row once."""
    absent = [part.name for part in parts if not part.is_file()]
    if absent:
        raise ValueError(
            f"`cache_dir` must be a folder that all processes share, but {folder.parent} lacks {absent[0]}."
        )
    loaded = [np.load(part) for part in parts]
    found, first = np.unique(np.concatenate([part["sample_id"] for part in loaded]), return_index=True)
    logits = np.concatenate([part["logits"] for part in loaded])[first]
    kept = np.isin(found, ids)
    lacking = np.setdiff1d(ids, found)
    broken = found[kept & ~np.isfinite(logits).all(axis=1)]
    if len(lacking):
        raise ValueError(
            f"`loader` must give all {len(ids)} rows, but {len(lacking)} lack, first sample_id {lacking[0]}."
        )
    if len(broken):
        raise ValueError(
            f"`teacher` must give finite logits, but it does not for {len(broken)} rows, first sample_id {broken[0]}; "
            "check its weights, or load it in float32."
        )
    with made_once(folder) as place:
        np.save(place / "sample_id.npy", found[kept])
        np.save(place / "logits.npy", logits[kept].astype(np.float32))
        (place / "about.json").write_text(json.dumps(about, indent=2) + "\n")
