"""Batches: rows of similar length together, every rank its share, and a train loader that can continue mid-epoch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.encoding import Tokens
from datamodules.rows import Rows

MEGA = 50  # most batches among which rows are sorted by length: more pads less, but always the same rows meet
IGNORED = -100  # the target that cross-entropy leaves out


class EncodedRows(Dataset[dict[str, Any]]):
    """Rows with their tokens, one encoding per tokenizer key.

    Attributes:
        rows: the N rows.
        tokens: key to the tokens of the N rows, in the order of the tiers.
        targets: key to the tokens of what a decoder is to write; empty where it is not told.
    """

    def __init__(self, rows: Rows, tokens: dict[str, Tokens], targets: dict[str, Tokens] | None = None) -> None:
        self.rows, self.tokens, self.targets = rows, tokens, targets or {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = {"sample_id": self.rows.sample_id[index], "label": self.rows.label[index]}
        example["encodings"] = {key: self.row(key, index) for key in self.tokens}
        if self.targets:
            example["targets"] = {key: tokens.row(index) for key, tokens in self.targets.items()}
        return example

    def row(self, key: str, index: int) -> Any:
        """What :meth:`encoding` is made of for one row: its ids and token types."""
        tokens = self.tokens[key]
        span = slice(tokens.offsets[index], tokens.offsets[index + 1])
        return tokens.ids[span], None if tokens.types is None else tokens.types[span]

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack examples, each encoding padded to its own longest row of the batch; targets are its ``labels``."""
        batch: dict[str, Any] = {
            "sample_id": torch.from_numpy(np.array([example["sample_id"] for example in examples])),
            "label": torch.from_numpy(np.array([example["label"] for example in examples])),
            "encodings": {key: self.encoding(key, examples) for key in self.tokens},
        }
        for key in self.targets:
            batch["encodings"][key]["labels"] = padded_labels([example["targets"][key] for example in examples])
        return batch

    def encoding(self, key: str, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors of the examples for one tokenizer."""
        return self.tokens[key].padding.batch([example["encodings"][key] for example in examples])

    def order(self) -> np.ndarray:
        """``(N,)`` indices, longest row first; the last tokenizer counts first, its tier being the dearest."""
        keys = [-tokens.lengths for tokens in self.tokens.values()]
        return np.lexsort([np.arange(len(self)), *keys])


def padded_labels(rows: Sequence[np.ndarray]) -> torch.Tensor:
    """Targets ``(B, T)`` int64 with their ends filled by -100, which losses leave out.

    Example:
        >>> padded_labels([np.array([5, 1]), np.array([7, 8, 1])]).tolist()
        [[5, 1, -100], [7, 8, 1]]
    """
    labels = np.full((len(rows), max(map(len, rows))), IGNORED, np.int64)
    for line, row in zip(labels, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(labels)


def share(order: np.ndarray, batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """One rank's rows of ``order``: from every round of ``batch_size * world_size`` rows each ``world_size``-th.

    The last round is filled with repeats from its own rows, so that all ranks have equally many rows and batches.
    """
    missing = -len(order) % world_size
    last = order[len(order) - (len(order) % (batch_size * world_size)) :]
    filled = np.concatenate([order, np.resize(last, missing)]) if missing else order
    return filled[rank::world_size]


class BucketSampler(Sampler[int]):
    """All rows in a fixed order, this rank's share of them."""

    def __init__(self, order: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = share(order, batch_size, rank, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices.tolist())


class EpochSampler(Sampler[int]):
    """Random batches of rows of similar length; the order depends on ``(seed, epoch)`` only.

    Rows are shuffled, sorted by length among each 50 batches (in small sets, a quarter of the epoch or 4), cut into
    batches, and the batches shuffled. A plain index sampler: the loader cuts its indices into the batches meant here.
    The short batch comes last and is not dropped.

    Args:
        lengths: ``(N,)`` tokens per row.
        batch_size: rows per rank.
        seed: see above.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.rank, self.world_size, self.epoch = rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(share(self._order(), self.batch_size, self.rank, self.world_size).tolist())

    def _order(self) -> np.ndarray:
        """Order of an epoch: within shuffled stretches by length, their batches shuffled again."""
        generator = np.random.default_rng((self.seed, self.epoch))
        shuffled = generator.permutation(len(self.lengths))
        size = self.batch_size * self.world_size
        whole = len(shuffled) - len(shuffled) % size
        step = size * max(4, min(MEGA, whole // size // 4))
        batches = []
        for start in range(0, whole, step):
            mega = shuffled[start : min(start + step, whole)]
            mega = mega[np.argsort(self.lengths[mega], kind="stable")]
            batches.extend(np.split(mega, len(mega) // size))
        shuffle = generator.permutation(len(batches))
        return np.concatenate([*(batches[i] for i in shuffle), shuffled[whole:]])


class ResumableLoader(DataLoader[Any]):
    """Counts the batches it gave; after ``load_state_dict`` it skips that many, once, if the epoch is still the same.

    Lightning keeps the state of loaders that have these two methods in its checkpoints.
    """

    done = 0
    resume: dict[str, int] | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the sampler; 0 where Lightning replaced it by one without epochs."""
        return getattr(self.sampler, "epoch", 0)

    def state_dict(self) -> dict[str, int]:
        """Batches given in this epoch."""
        return {"done": self.done, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from ``state`` at the next epoch start."""
        self.resume = dict(state)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        resume, self.resume = self.resume, None
        # A checkpoint of an epoch's end holds that epoch's count, but the next epoch is what starts.
        skip = resume["done"] if resume is not None and resume["epoch"] == self.epoch else 0
        self.done = skip
        for index, batch in enumerate(super().__iter__()):
            if index >= skip:
                self.done += 1
                yield batch
