"""The teacher reads each text once; its logits lie on disk, whole or not at all."""

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch

from dial.tiers.loading import build_tier
from dial.tiers.teacher import teacher_logits
from dial.tiers.tier import Tier

TEXTS = [f"{'word ' * (i % 5 + 1)}number {i}" for i in range(13)]
IDS = np.arange(13) * 3 + 100


class Loader:
    """This rank's share of the rows in batches of three, filled up with repeats; counts how often it is read."""

    def __init__(self, tier: Tier, rank: int = 0, world_size: int = 1, order: list[int] | None = None) -> None:
        self.tier, self.reads = tier, 0
        rows = order or list(range(13))[::-1]
        rows += rows[: -len(rows) % world_size]
        self.rows = rows[rank::world_size]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.reads += 1
        for start in range(0, len(self.rows), 3):
            rows = self.rows[start : start + 3]
            encoding = dict(self.tier.tokenizer([TEXTS[row] for row in rows], padding=True, return_tensors="pt"))
            yield {"sample_id": torch.from_numpy(IDS[rows]), "encodings": {self.tier.encoding_key: encoding}}


def make_teacher() -> Tier:
    torch.manual_seed(0)
    tier = build_tier(
        {"model_type": "bilstm", "vocab_size": 20}, "words", ["a", "b", "c"], max_length=16, name="teacher"
    )
    tier.fit_tokenizer(lambda: TEXTS)
    return tier


@pytest.fixture
def teacher() -> Tier:
    return make_teacher()


def one_by_one(tier: Tier) -> np.ndarray:
    tier.eval()
    with torch.no_grad():
        return np.stack([tier(dict(tier.tokenizer([t], return_tensors="pt")))[0, 0].numpy() for t in TEXTS])


def test_logits_are_those_of_each_row_alone(teacher: Tier, tmp_path: Path) -> None:
    teacher.train()
    ids, logits = teacher_logits(teacher, Loader(teacher), IDS, "rows", tmp_path)
    assert teacher.training  # as it was found
    assert ids.tolist() == IDS.tolist() and logits.dtype == np.float32
    assert isinstance(logits, np.memmap) and not logits.flags.writeable
    np.testing.assert_allclose(logits, one_by_one(teacher), atol=1e-6)


def test_it_is_read_once_and_again_when_anything_changes(teacher: Tier, tmp_path: Path) -> None:
    def reads(tier: Tier, rows: str = "rows") -> int:
        loader = Loader(tier)
        teacher_logits(tier, loader, IDS, rows, tmp_path)
        return loader.reads

    assert [reads(teacher), reads(teacher), reads(make_teacher())] == [1, 0, 0]
    assert [reads(teacher, "other rows"), reads(teacher, "other rows")] == [1, 0]
    with torch.no_grad():
        teacher.model.classifier.bias += 1
    assert [reads(teacher), reads(teacher)] == [1, 0]
    teacher.order = [2, 1, 0]
    assert [reads(teacher), reads(teacher)] == [1, 0]


def test_nothing_half_done_stays_after_a_crash(teacher: Tier, tmp_path: Path) -> None:
    class Killed(Loader):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield from list(super().__iter__())[:2]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teacher_logits(teacher, Killed(teacher), IDS, "rows", tmp_path)
    assert list(tmp_path.iterdir()) == []
    _, logits = teacher_logits(teacher, Loader(teacher), IDS, "rows", tmp_path)
    np.testing.assert_allclose(logits, one_by_one(teacher), atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("world_size", [2, 3, 14])
def test_ranks_share_the_rows(world_size: int, tmp_path: Path) -> None:
    barrier, results = Barrier(world_size), {}
    loaders = [Loader(make_teacher(), rank, world_size) for rank in range(world_size)]

    def work(rank: int) -> None:
        results[rank] = teacher_logits(
            *(loaders[rank].tier, loaders[rank], IDS, "rows", tmp_path),
            rank=rank,
            world_size=world_size,
            barrier=barrier.wait,
        )

    threads = [Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    expected = one_by_one(make_teacher())
    for rank in range(world_size):
        ids, logits = results[rank]
        assert ids.tolist() == IDS.tolist()
        np.testing.assert_allclose(logits, expected, atol=1e-6)
    assert max(len(loader.rows) for loader in loaders) == -(-13 // world_size)
    assert len(list(tmp_path.iterdir())) == 1  # no parts left


def test_a_run_of_other_processes_at_the_same_time_does_no_harm(teacher: Tier, tmp_path: Path) -> None:
    """Rank 0 of two writes its half, and is killed, while a single process is about to put its own part together."""
    passed = 0

    def killed() -> None:
        nonlocal passed
        passed += 1
        if passed == 2:
            raise KeyboardInterrupt

    def meanwhile() -> None:
        if len(list(tmp_path.iterdir())) == 1 and not passed:
            with pytest.raises(KeyboardInterrupt):
                teacher_logits(
                    make_teacher(), Loader(make_teacher(), 0, 2), IDS, "rows", tmp_path, world_size=2, barrier=killed
                )

    _, logits = teacher_logits(teacher, Loader(teacher), IDS, "rows", tmp_path, barrier=meanwhile)
    assert passed == 2
    np.testing.assert_allclose(logits, one_by_one(teacher), atol=1e-6)


def test_only_the_rows_asked_for_are_kept(teacher: Tier, tmp_path: Path) -> None:
    ids, logits = teacher_logits(teacher, Loader(teacher), IDS[[7, 2]], "rows", tmp_path)
    assert ids.tolist() == IDS[[2, 7]].tolist()
    np.testing.assert_allclose(logits, one_by_one(teacher)[[2, 7]], atol=1e-6)


def test_missing_rows_and_broken_logits_are_errors(teacher: Tier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`loader` must give all 13 rows, but 1 lack, first sample_id 112"):
        teacher_logits(teacher, Loader(teacher, order=[i for i in range(13) if i != 4]), IDS, "rows", tmp_path)
    with torch.no_grad():
        teacher.model.bilstm.embeddings.weight[teacher.tokenizer.convert_tokens_to_ids("12")] = float("nan")
    with pytest.raises(ValueError, match=r"`teacher` must give finite logits, but it does not for 1 rows, .* 136"):
        teacher_logits(teacher, Loader(teacher), IDS, "rows", tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_long_reading_says_how_far_it_is(
    teacher: Tier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dial.tiers.teacher.TELL_EVERY", 0.0)
    teacher_logits(teacher, Loader(teacher), IDS, "rows", tmp_path)
    told = capsys.readouterr().out.splitlines()
    assert [line.split(" rows,")[0] for line in told] == [f"teacher: {n} of 13" for n in (3, 6, 9, 12, 13)]
    assert told[-1].endswith("0.0 minutes left")
