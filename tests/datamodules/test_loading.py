from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.encoding import encode
from datamodules.loading import BucketSampler, EncodedRows, EpochSampler, share
from datamodules.rows import Rows

WORDS = "the a film plot cast is was not but good bad dull fine great poor".split()


@pytest.fixture
def data(tiny_tokenizer, tmp_path: Path) -> EncodedRows:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, generator.integers(1, 12))) for _ in range(45)]
    rows = Rows(texts, None, np.arange(45) % 2, 100 + np.arange(45))
    return EncodedRows(
        rows, {name: encode(rows, tiny_tokenizer, length, name, tmp_path) for name, length in (("a", 6), ("b", 20))}
    )


def test_a_batch_is_padded_to_its_own_longest_row(data: EncodedRows, tiny_tokenizer) -> None:
    batch = data.collate([data[i] for i in (3, 0, 7)])
    assert batch["sample_id"].tolist() == [103, 100, 107] and batch["sample_id"].dtype == torch.int64
    assert batch["label"].tolist() == [1, 0, 1] and batch["label"].dtype == torch.int64
    for name, longest in (("a", 6), ("b", 20)):
        texts = [data.rows.text[i] for i in (3, 0, 7)]
        expected = tiny_tokenizer(texts, truncation=True, max_length=longest, padding="longest", return_tensors="pt")
        assert batch["encodings"][name].keys() == expected.keys()
        for key, value in batch["encodings"][name].items():
            torch.testing.assert_close(value, expected[key])


def test_left_padding(data: EncodedRows, tiny_tokenizer, tmp_path: Path) -> None:
    from copy import deepcopy

    left = deepcopy(tiny_tokenizer)
    left.padding_side = "left"
    data = EncodedRows(data.rows, {"left": encode(data.rows, left, 20, "left", tmp_path)})
    expected = left([data.rows.text[i] for i in range(5)], padding="longest", return_tensors="pt")
    batch = data.collate([data[i] for i in range(5)])["encodings"]["left"]
    torch.testing.assert_close(batch, dict(expected))


def test_regression_labels_are_float32(data: EncodedRows) -> None:
    rows = Rows(data.rows.text, None, np.linspace(0, 5, 45).astype(np.float32), data.rows.sample_id)
    assert EncodedRows(rows, data.tokens).collate([EncodedRows(rows, data.tokens)[0]])["label"].dtype == torch.float32


def test_order_is_by_the_last_tokenizer_then_the_others(data: EncodedRows) -> None:
    a, b = (tokens.lengths.tolist() for tokens in data.tokens.values())
    expected = sorted(range(45), key=lambda i: (-b[i], -a[i], i))
    assert data.order().tolist() == expected


@pytest.mark.parametrize("rows", [1, 2, 7, 12, 13, 24, 45])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_cover_all_rows_with_equally_many_each(rows: int, world_size: int) -> None:
    order = np.random.default_rng(rows).permutation(rows)
    shares = [share(order, 4, rank, world_size).tolist() for rank in range(world_size)]
    assert len({len(part) for part in shares}) == 1
    everything = [i for part in shares for i in part]
    assert set(everything) == set(range(rows))
    assert len(everything) - rows == -rows % world_size  # no more repeats than needed
    for start in range(0, len(shares[0]), 4):  # in one round, all ranks have neighbours of the order
        together = {i for part in shares for i in part[start : start + 4]}
        assert together <= set(order[start * world_size : (start + 4) * world_size].tolist())


def test_bucket_sampler_gives_each_rank_its_share() -> None:
    order = np.array([4, 2, 0, 1, 3])
    first, second = (list(BucketSampler(order, 2, rank, 2)) for rank in (0, 1))
    assert first == [4, 0, 3] and second == [2, 1, 3]
    assert len(BucketSampler(order, 2, 0, 2)) == 3


def test_epoch_sampler_depends_on_seed_and_epoch_only() -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 333)
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = EpochSampler(lengths, 8, seed)
            sampler.set_epoch(epoch)
            torch.rand(3)  # the global random state has no say
            np.random.default_rng()
            orders[seed, epoch] = list(sampler)
            assert sorted(orders[seed, epoch]) == list(range(333)) and list(sampler) == orders[seed, epoch]
    assert len({tuple(order) for order in orders.values()}) == 4


def test_epoch_sampler_keeps_the_short_batch_and_groups_lengths() -> None:
    lengths = 2 + np.random.default_rng(2).poisson(3 + np.random.default_rng(3).gamma(2, 5, 4001))
    order = list(EpochSampler(lengths, 32, 7))
    batches = [order[i : i + 32] for i in range(0, 4001, 32)]
    assert [len(batch) for batch in batches] == [32] * 125 + [1]
    real = sum(int(lengths[i]) for i in order)
    padded = sum(len(batch) * max(int(lengths[i]) for i in batch) for batch in batches)
    assert 1 - real / padded < 0.1
    longest = [max(int(lengths[i]) for i in batch) for batch in batches]
    assert np.corrcoef(longest[:-1], longest[1:])[0, 1] < 0.3  # batches do not come sorted


def test_epoch_sampler_mixes_small_sets() -> None:
    lengths = np.random.default_rng(3).integers(5, 60, 320)
    sampler, meetings = EpochSampler(lengths, 32, 0), set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        order = list(sampler)
        meetings |= {
            j for start in range(0, 320, 32) if 0 in order[start : start + 32] for j in order[start : start + 32]
        }
    assert len(meetings) > 60  # sorting the whole set each epoch would always join the same 32 rows


def test_epoch_sampler_splits_each_batch_among_ranks() -> None:
    lengths = np.random.default_rng(4).integers(1, 90, 130)
    single = list(EpochSampler(lengths, 8, 5))
    ranks = [list(EpochSampler(lengths, 4, 5, rank, 2)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == len(EpochSampler(lengths, 4, 5, 0, 2)) == 65
    for start in range(0, 65, 4):
        joined = sorted(ranks[0][start : start + 4] + ranks[1][start : start + 4])
        assert joined == sorted(single[2 * start : 2 * start + 8])
