"""What data modules of public benchmarks share: the hub, or a folder with one folder for each task."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import SequenceDataModule
from datamodules.sources import Columns, read_hub

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")  # in the order in which they are looked for


class BenchmarkDataModule(SequenceDataModule):
    """One task of a benchmark, whose validation split is the test role: the labels of its test split are hidden.

    Args:
        task: name of the task, as the hub calls it.
        source: ``hub``, or a folder: of the task, or with one folder for each task, called as on the hub or as in the
            official download.
        kwargs: see :class:`SequenceDataModule`.

    Raises:
        ValueError: for an unknown task or a folder that does not exist.
    """

    HUB: ClassVar[str]
    # Each has label_names (empty for regression), metrics (the primary first), the name of its official folder, and the
    # split that each test role is.
    TASKS: ClassVar[Mapping[str, Any]]
    OFFICIAL_SPLIT: ClassVar[str]  # what the official files call "validation"
    FORMATS: ClassVar[str]  # files that there may be beside parquet, for errors

    def __init__(self, task: str, source: str = "hub", **kwargs: Any) -> None:
        if task not in self.TASKS:
            raise ValueError(f"`task` must be one of {', '.join(self.TASKS)}, but got {task!r}.")
        if source != "hub" and not Path(source).expanduser().is_dir():
            raise ValueError(f"`source` must be 'hub' or a folder that exists, but got {source!r}. Check the path.")
        super().__init__(**kwargs)
        self.task, self.source = task, source
        self._task: Any = self.TASKS[task]
        self.metrics = list(self._task.metrics)

    @property
    def label_names(self) -> list[str]:
        """Class names in the hub's order; empty for regression."""
        return list(self._task.label_names)

    def test_roles(self) -> list[str]:
        """``test``, or those of the task."""
        return ["test"] if self._fractions["test"] else list(self._task.tests)

    def has(self, role: str) -> bool:
        """Train and test rows come from the source; test rows not where ``test_fraction`` is given."""
        return role == "train" or (role in self._task.tests and not self._fractions["test"])

    def columns(self, role: str, names: list[str]) -> tuple[Columns, str]:
        """Columns of the official split behind a role, and what errors call it: ``train``, or the validation split."""
        split = "train" if role == "train" else self._task.tests.get(role)
        if split is None:
            raise ValueError(f"`{role}` must be one of train, {', '.join(self._task.tests)} to be read.")
        if self.source == "hub":
            return read_hub(self.HUB, self.task, split, names), f"{self.HUB} ({self.task}, {split})"
        path = self._find(split)
        if path is None:
            raise ValueError(self._missing(split))
        return self._read_file(path, names), str(path)

    @abstractmethod
    def _read_file(self, path: Path, names: list[str]) -> Columns:
        """The named columns of a file, as the hub calls them."""

    def _folders(self) -> list[Path]:
        base = Path(self.source).expanduser()
        inside = [base / name for name in (self.task, self._task.official) if (base / name).is_dir()]
        return inside or [base]

    def _find(self, split: str) -> Path | None:
        """The file of a split, under the names of this project, the official archive, or a clone of the hub's."""
        for folder in self._folders():
            for stem in (split, split.replace("validation", self.OFFICIAL_SPLIT)):
                for suffix in SUFFIXES:
                    if (folder / f"{stem}{suffix}").is_file():
                        return folder / f"{stem}{suffix}"
            if (folder / f"{split}-00000-of-00001.parquet").is_file():  # as in a clone of the hub's repository
                return folder / f"{split}-00000-of-00001.parquet"
        return None

    def _missing(self, split: str) -> str:
        """What to say where a split has no file, and what would help."""
        folders = " or ".join(map(str, self._folders()))
        remedy = "Add the file"
        if split == "train" and self.calibration == "split":
            remedy += ", or to test without training rows take `--data.calibration crossfit`"
        elif split != "train":
            remedy += ", or cut test rows from the training rows with `test_fraction: 0.1`"
        return (
            f"`source` must have a file {split}.parquet (or {self.FORMATS}) for {self.task}, but "
            f"{folders} has none. {remedy}."
        )
