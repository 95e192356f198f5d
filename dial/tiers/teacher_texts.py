"""What a teacher that writes would answer to the training text: written once, kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dial.files import read_json, write_json
from dial.tiers.teacher import with_progress
from dial.tiers.tier import Tier

FORMAT = 2
"""Of the file: texts with whether they were cut off."""


def teacher_texts(
    tier: Tier,
    loader: Iterable[Mapping[str, Any]],
    rows: int,
    rows_fingerprint: str,
    cache_dir: str | Path,
    device: torch.device | str = "cpu",
    rank: int = 0,
    barrier: Callable[[], object] = lambda: None,
) -> dict[int, tuple[str, bool]]:
    """A text for every row, and whether it was cut off at the teacher's limit, from the cache if they lie there.

    They are what sequence-level distillation (Kim and Rush 2016) trains on.

    The key is made of the tier's fingerprint (weights, view, how it generates), its encoding key and the rows'
    fingerprint. Rank 0 writes; a killed run leaves all or nothing.

    Args:
        tier: the teacher.
        loader: batches of all rows with ``sample_id`` ``(B,)`` and ``encodings``; read by rank 0, and only if the texts
            are not in the cache.
        rows: how many there are.
        rows_fingerprint: changes with the content of the rows.
        cache_dir: folder that all ranks see.
        device: where to compute.
        rank: of this process.
        barrier: waits for all processes.

    Returns:
        By sample id.
    """
    about = [FORMAT, tier.fingerprint, tier.encoding_key, rows_fingerprint, rows]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    path = Path(cache_dir) / f"teacher-texts-{key}.json"
    if rank == 0 and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _write(tier, with_progress(loader, rows), torch.device(device)))
    barrier()
    return {int(row): (str(text), bool(cut)) for row, (text, cut) in read_json(path, "teacher").items()}


@torch.inference_mode()
def _write(tier: Tier, loader: Iterable[Mapping[str, Any]], device: torch.device) -> dict[str, tuple[str, bool]]:
    """Texts by sample id, and whether they were cut off; the tier returns to its device and mode."""
    training, home = tier.training, next(tier.parameters()).device
    tier.eval().to(device)
    texts: dict[str, tuple[str, bool]] = {}
    try:
        for batch in loader:
            encoding = {k: v.to(device) for k, v in batch["encodings"][tier.encoding_key].items() if k != "labels"}
            written = tier.write(encoding, torch.arange(len(batch["sample_id"]), device=device))
            answers = zip(written.texts, written.limited.tolist(), strict=True)
            texts |= dict(zip(map(str, batch["sample_id"].tolist()), answers, strict=True))
    finally:
        tier.train(training).to(home)
    return texts
