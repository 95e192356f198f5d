"""What every data module shares: roles, encodings per tokenizer, loaders."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from datamodules import checks, roles
from datamodules.augmentation.file import AugmentationFile, with_mask
from datamodules.checks import check_seed, is_partial
from datamodules.encoding import Tokens, default_cache_dir, encode
from datamodules.loading import BucketSampler, EncodedRows, EpochSampler, ResumableLoader
from datamodules.rows import Rows


class SequenceDataModule(LightningDataModule, ABC):
    """Single texts or pairs with a class or a number each.

    A batch is ``{"sample_id": (B,) int64, "label": (B,) int64 | float32, "encodings": {key: encoding}}`` where an
    encoding is ``{"input_ids", "attention_mask"[, "token_type_ids"]}``, each ``(B, L)`` int64 and padded to the longest
    row of the batch. The keys and tokenizers come from ``tokenizers()`` of the module that the trainer runs (or from
    :meth:`use_tokenizers`).

    Validation and calibration rows, where the source has none of their own, are cut from its training rows by a hash of
    their content: the same for every model and seed. They are never trained on, whatever ``calibration`` says.

    Args:
        batch_size: rows per rank and step.
        num_workers: loader processes per rank.
        seed: of the order of the training rows; nothing else depends on it.
        calibration: ``split`` tests on calibration rows too; ``crossfit`` on the test rows only (for tiers trained
            elsewhere, which have seen all training rows).
        validation_fraction: expected share of the training rows; default 5 %, up to 10 % in small sets.
        calibration_fraction: the same; default 5 %, in small sets up to 20 % to reach about 600 rows.
        test_fraction: cuts the test rows from the training rows too, for a source that has none.
        min_calibration: fewest calibration rows to choose an operating point on.
        max_rows: keep at most so many rows of each role (or of the named roles), drawn by hash.
        augmentation: file that `dial augment` wrote of these training rows, to be trained on beside them. The teacher's
            answers stand in for the labels of its texts.
        cache_dir: where encodings are kept; default ``$DIAL_CACHE``, else ``~/.cache/dial``.
    """

    metrics: list[str]

    def __init__(
        self,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 42,
        calibration: Literal["split", "crossfit"] = "split",
        validation_fraction: float | None = None,
        calibration_fraction: float | None = None,
        test_fraction: float | None = None,
        min_calibration: int = 50,
        max_rows: int | dict[str, int] | None = None,
        augmentation: str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, but got {batch_size}.")
        if num_workers < 0:
            raise ValueError(f"`num_workers` must be at least 0 (load in the process itself), but got {num_workers}.")
        check_seed("seed", seed)
        if calibration not in ("split", "crossfit"):
            raise ValueError(f"`calibration` must be split or crossfit, but got {calibration!r}.")
        self._fractions = {
            "calibration": calibration_fraction,
            "validation": validation_fraction,
            "test": test_fraction,
        }
        for role, fraction in self._fractions.items():
            if fraction is not None and not 0 <= fraction < 1:
                raise ValueError(f"`{role}_fraction` must be at least 0 and below 1, but got {fraction}.")
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.calibration, self.min_calibration, self.max_rows = calibration, min_calibration, max_rows
        checks.check_max_rows(max_rows)
        self.augmentation = AugmentationFile(Path(augmentation).expanduser()) if augmentation else None
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self._tokenizers: dict[str, tuple[Any, int | None]] | None = None
        self._learned_from: object = None
        self._rows: dict[str, Rows] = {}
        self._tokens: dict[tuple[str, str], Tokens] = {}
        self.truncated: dict[str, dict[str, int]] = {}
        self._said = False

    # ---- what a data set gives ----

    @property
    @abstractmethod
    def label_names(self) -> list[str]:
        """Class names in the order of the labels; empty for regression."""

    @abstractmethod
    def has(self, role: str) -> bool:
        """Whether the source has rows of its own for this role."""

    @abstractmethod
    def read(self, role: str) -> Rows:
        """Read the source's rows of a role.

        Raises:
            ValueError: naming the argument, if the source has none or they cannot be read.
        """

    @property
    def labelled(self) -> bool:
        """Whether rows have labels; else a teacher's or the Super's answers stand in for them."""
        return True

    def test_roles(self) -> list[str]:
        """Names of the test splits that the source has."""
        return ["test"]

    # ---- roles ----

    @property
    def test_splits(self) -> list[str]:
        """Names of the loaders of ``test_dataloader()``, in order."""
        return [*(["calibration"] if self.calibration == "split" else []), *self.test_roles()]

    def rows(self, role: str) -> Rows:
        """Rows of a role, read or cut on first use.

        Raises:
            ValueError: if the role has no rows.
        """
        if role not in self._rows:
            if role != "train" and (self.has(role) or role not in self._cut_roles()):
                self._keep(role, self.read(role))
            else:
                for name, part in self._cut().items():
                    self._keep(name, part)
        if len(self._rows[role]) == 0:
            remedy = "Give more rows." if role == "train" else f"Give more rows, or raise `{role}_fraction`."
            raise ValueError(f"`{role}` must have at least one row, but got 0. {remedy}")
        return self._rows[role]

    def _keep(self, role: str, rows: Rows) -> None:
        """Keeps the rows of a role: checked, at most as many as asked for, new texts beside those of training."""
        checks.check_ids(rows, role)
        limit = self.max_rows.get(role) if isinstance(self.max_rows, dict) else self.max_rows
        rows = roles.sample(rows, limit)
        if role == "train" and self.augmentation is not None:
            self.augmentation.check(rows, self.label_names)
            known, rows = len(rows), self.augmentation.beside(rows)
            self.tell(f"train: {len(rows) - known} new texts of {known} rows, which the teacher labels")
        self._rows[role] = rows

    def _cut_roles(self) -> list[str]:
        wanted = ["calibration", "validation", *(["test"] if self._fractions["test"] else [])]
        return [role for role in wanted if not self.has(role)]

    def _cut(self) -> dict[str, Rows]:
        """Roles cut from the training rows, by the fractions that were given or follow from their number."""
        whole = self.read("train")
        fractions = {}
        for role in self._cut_roles():
            given = self._fractions[role]
            fractions[role] = roles.default_fractions(len(whole))[role] if given is None else given
        if sum(fractions.values()) >= 1:
            raise ValueError(
                f"`validation_fraction`, `calibration_fraction` and `test_fraction` must sum to less than 1, "
                f"but got {fractions}. Lower one."
            )
        return roles.cut(whole, fractions)

    def sample_ids(self, role: str) -> np.ndarray:
        """``(N,)`` int64 ids of a role's rows, rising."""
        return self.rows(role).sample_id

    def fingerprint(self, role: str) -> str:
        """16 hex digits of the content of a role's rows."""
        return self.rows(role).fingerprint

    # ---- Lightning's hooks ----

    def prepare_data(self) -> None:
        """Read and tokenise in one process per node, so that the others find it done."""
        for role in self.roles_of_stage():
            self.encoded(role)

    def setup(self, stage: str) -> None:
        """Check the roles that this stage needs and load their encodings."""
        checks.check_trainer(self.trainer)
        needed = self.roles_of_stage(stage)
        if "calibration" in needed and not is_partial(self.trainer) and self.labelled:
            checks.check_calibration(self.rows("calibration"), self.label_names, self.min_calibration)
        for role in needed:
            self.encoded(role)
        self._say_rows(stage, needed)

    def _say_rows(self, stage: str, needed: list[str]) -> None:
        """Print once how many rows each role has and of which classes, and whether test rows are trained on.

        A fit names the other roles too, where the source has them: what will be tested on is known then.
        """
        if self._said:
            return
        self._said = True
        others = [role for role in ("train", "validation", "calibration", *self.test_roles()) if role not in needed]
        told = [role for role in others if role in self._rows or self._is_at_hand(role, stage)]
        parts = {}
        for role in [*needed, *told]:
            try:
                parts[role] = self._rows[role] if role in self._rows else self.rows(role)
            except ValueError as error:  # of a role that this command does not need
                rank_zero_warn(f"{role}: no rows that could be used, {error}")
        order = [role for role in ("train", "validation", "calibration") if role in parts]
        for role in [*order, *(role for role in parts if role not in order)]:
            self.tell(checks.role_line(role, parts[role], self.label_names))
        for line in checks.leakage_lines(parts):
            self.tell(line)

    def _is_at_hand(self, role: str, stage: str) -> bool:
        """Whether rows that a command does not need are to be read, so that it can tell of them."""
        return stage == "fit" and (self.has(role) or role in self._cut_roles())

    def roles_of_stage(self, stage: str | None = None) -> list[str]:
        """Roles that a stage of Lightning reads; default: the one that the trainer is in."""
        if stage is None:
            state = getattr(self.trainer, "state", None)
            stage = str(state.fn.value) if state is not None and state.fn is not None else "fit"
        return {"fit": ["train", "validation"], "validate": ["validation"], "predict": self.test_roles()}.get(
            stage, self.test_splits
        )

    @staticmethod
    def tell(line: str) -> None:
        """Say something once, whatever the number of processes."""
        rank_zero_info(line)

    # ---- encodings ----

    def use_tokenizers(self, tokenizers: dict[str, tuple[Any, int | None]]) -> None:
        """Set key -> (tokenizer, maximum length) by hand, where there is no trainer."""
        self._tokenizers = dict(tokenizers)

    @property
    def tokenizers(self) -> dict[str, tuple[Any, int | None]]:
        """Key -> (tokenizer, maximum length), asked from the module that the trainer runs.

        A module that builds its tokenizer from the training text has ``fit_tokenizer(texts)``, which is called first,
        once per process; ``texts()`` gives a new iterator of strings, or of pairs of strings.
        """
        module = getattr(self.trainer, "lightning_module", None)
        if module is not None and self._learned_from is not module:
            if hasattr(module, "fit_tokenizer"):
                module.fit_tokenizer(self.train_texts())
            if not hasattr(module, "tokenizers"):
                raise ValueError(
                    f"`model` must have a method tokenizers(), but {type(module).__name__} has none. Add it."
                )
            self._tokenizers, self._learned_from = dict(module.tokenizers()), module
        if not self._tokenizers:
            raise ValueError(
                "`tokenizers` are not known yet: attach the data module to a trainer, or call use_tokenizers() first."
            )
        return self._tokenizers

    def train_texts(self) -> Callable[[], Iterator[Any]]:
        """A function that gives an iterator over the training role's texts; rows are read when it is called."""

        def texts() -> Iterator[Any]:
            for unit in self._spelt("train", "").units():
                yield unit[0] if len(unit) == 1 else unit

        return texts

    def tokens(self, role: str, key: str) -> Tokens:
        """Tokens of a role's rows for one tokenizer."""
        if (role, key) not in self._tokens:
            tokenizer, max_length = self.tokenizers[key]
            rows = self._spelt(role, tokenizer.mask_token or tokenizer.unk_token or "")
            tokens = encode(self.as_read(rows, key), tokenizer, max_length, key, self.cache_dir)
            self._tokens[role, key] = tokens
            self.truncated.setdefault(role, {})[key] = tokens.truncated
            self._say_truncated(role, "rows", tokens)
        return self._tokens[role, key]

    def _spelt(self, role: str, mask: str) -> Rows:
        """Rows of a role, with the masked words of an augmentation as a tokenizer spells them."""
        rows = self.rows(role)
        return with_mask(rows, mask) if role == "train" and self.augmentation is not None else rows

    def as_read(self, rows: Rows, key: str) -> Rows:
        """Rows as the models of one tokenizer read them."""
        return rows

    @staticmethod
    def _say_truncated(role: str, what: str, tokens: Tokens) -> None:
        if tokens.truncated:
            rank_zero_warn(
                f"{role}: {tokens.truncated} of {len(tokens.lengths)} {what} exceed {tokens.max_length} tokens and are "
                "truncated."
            )

    def encoded(self, role: str, key: str | None = None) -> EncodedRows:
        """Rows of a role with their encodings for one tokenizer, or for all."""
        keys = list(self.tokenizers) if key is None else [key]
        return EncodedRows(self.rows(role), {name: self.tokens(role, name) for name in keys})

    # ---- loaders ----

    def train_dataloader(self) -> ResumableLoader:
        """Random length-grouped batches; continues mid-epoch from a checkpoint."""
        data = self.encoded("train")
        rank, world_size = self._rank()
        trained = next(iter(data.tokens.values()))  # a teacher's tokenizer, which needs no grouping here, comes later
        sampler = EpochSampler(trained.lengths, self.batch_size, self.seed, rank, world_size)
        return ResumableLoader(
            data, sampler=sampler, **self._loader_options(data, persistent_workers=self.num_workers > 0)
        )

    def train_batches(self) -> int:
        """Batches of one training epoch on each rank."""
        return -(-len(self.rows("train")) // (self.batch_size * self._rank()[1]))

    def inference_loader(self, role: str, key: str | None = None, shard: bool = True) -> DataLoader[Any]:
        """Length-grouped batches, longest first, always the same: this rank's share, or all (``shard=False``)."""
        data = self.encoded(role, key)
        rank, world_size = self._rank() if shard else (0, 1)
        return DataLoader(
            data, sampler=BucketSampler(data.order(), self.batch_size, rank, world_size), **self._loader_options(data)
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation role."""
        return self.inference_loader("validation")

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """One loader per name in ``test_splits``."""
        return [self.inference_loader(role) for role in self.test_splits]

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """One loader per test split, without calibration."""
        return [self.inference_loader(role) for role in self.test_roles()]

    def _loader_options(self, data: EncodedRows, **options: Any) -> dict[str, Any]:
        # A generator of its own: otherwise each new iterator draws from the global random state, and resuming differs.
        generator = torch.Generator().manual_seed(self.seed)
        shared = {"batch_size": self.batch_size, "num_workers": self.num_workers, "collate_fn": data.collate}
        return {**shared, "generator": generator, "pin_memory": torch.cuda.is_available(), **options}

    def _rank(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
