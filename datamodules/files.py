"""What data modules share that read the user's own files, one for each role."""

from pathlib import Path
from typing import Any

from datamodules.base import SequenceDataModule
from datamodules.row_formats import plain_stem


class FilesDataModule(SequenceDataModule):
    """Rows of files of the user's own.

    Validation and calibration rows are cut from ``train_file`` where no file is given for them; test rows only with
    ``test_fraction``. Where test rows alone are needed (``calibration: crossfit``), no other file is.

    Args:
        train_file: ``.csv``, ``.tsv`` (never quoted), ``.jsonl``, ``.json`` (one object a line), these also with
            ``.gz`` behind it, or ``.parquet``, read as ``dial predict`` reads its input; what is no text there is
            refused.
        validation_file: the same.
        calibration_file: the same.
        test_file: the same.
        task: what reports call the data; default the name of the first file.
        kwargs: see :class:`SequenceDataModule`.

    Raises:
        ValueError: if no file is given, or a file does not exist.
    """

    def __init__(
        self,
        train_file: str | None = None,
        validation_file: str | None = None,
        calibration_file: str | None = None,
        test_file: str | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        given = {"train": train_file, "validation": validation_file, "calibration": calibration_file, "test": test_file}
        self.files = {role: Path(file).expanduser() for role, file in given.items() if file is not None}
        if not self.files:
            raise ValueError("`train_file` or `test_file` must be given, but got neither. Name at least one file.")
        for role, path in self.files.items():
            if not path.is_file():
                raise ValueError(f"`{role}_file` must be a file that exists, but got {str(path)!r}. Check the path.")
        self.task = task or plain_stem(next(iter(self.files.values())))

    def has(self, role: str) -> bool:
        """Whether a file was given for the role."""
        return role in self.files

    def _is_at_hand(self, role: str, stage: str) -> bool:
        """Training rows, too, of a file that is given where rows are tested on: they may be the same."""
        return super()._is_at_hand(role, stage) or (role == "train" and stage == "test" and role in self.files)

    def file_of(self, role: str) -> Path:
        """The role's file.

        Raises:
            ValueError: none was given.
        """
        if role not in self.files:
            remedy = " or set `test_fraction`, which cuts them from the training rows" if role == "test" else ""
            if role == "train" and self.calibration == "split":
                remedy = ", or to test without training rows take `--data.calibration crossfit`"
            raise ValueError(f"`{role}_file` must be given for {role} rows, but got none. Name a file{remedy}.")
        return self.files[role]
