"""The file of new texts beside the training rows: what it is made of, what is refused, and that texts stay on disk."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.augmentation import file as augmentation
from datamodules.augmentation.file import FIRST_ID, AugmentationFile, StoredTexts, about_rows, with_mask, write
from datamodules.augmentation.generation import Generated
from datamodules.encoding import ArrayFile
from datamodules.rows import Rows
from datamodules.text import TextDataModule

NAMES = ["negative", "positive"]


def some_rows(numbers: bool = False) -> Rows:
    label = np.array([0.5, 2.0, 1.5], np.float32) if numbers else np.array([1, 0, 1])
    return Rows(["a b", "c d", "e f"], ["g", "h", "i"], label, np.array([3, 5, 9]), np.array(["x", "y", "x"]))


def write_some(path: Path, rows: Rows, names: list[str]) -> int:
    generated = [Generated(3, [("A", "g"), ("a b", "G")]), Generated(5, []), Generated(9, [("[MASK] f", "i")])]
    return write(path, generated, rows, about_rows(rows, names, {"seed": 1}))


@pytest.mark.parametrize("numbers", [False, True])
def test_labels_and_sides_are_kept_in_the_file_and_hidden_in_training(numbers: bool, tmp_path: Path) -> None:
    rows, names = some_rows(numbers), [] if numbers else NAMES
    assert write_some(tmp_path / "new.parquet", rows, names) == 3
    stored = pq.read_table(tmp_path / "new.parquet").to_pylist()
    first, last = (0.5, 1.5) if numbers else ("positive", "positive")
    assert [list(row.values()) for row in stored] == [
        ["A", "g", first, 3],
        ["a b", "G", first, 3],
        ["[MASK] f", "i", last, 9],
    ]
    file = AugmentationFile(tmp_path / "new.parquet")
    file.check(rows, names)
    both = file.beside(rows)
    assert list(both.units()) == [*rows.units(), ("A", "g"), ("a b", "G"), ("[MASK] f", "i")]
    assert (
        [both.text[i] for i in range(6)] == list(both.text)
        and both.text[-1] == "[MASK] f"
        and both.text[3:5] == ["A", "a b"]
    )
    assert both.sample_id.tolist() == [3, 5, 9, FIRST_ID, FIRST_ID + 1, FIRST_ID + 2]
    assert both.group.tolist() == ["x", "y", "x", "x", "x", "x"]
    np.testing.assert_array_equal(both.label, [*rows.label, *([np.nan] * 3 if numbers else [-1] * 3)])
    assert list(with_mask(both, "<mask>").text)[-1] == "<mask> f" and list(both.text)[-1] == "[MASK] f"
    assert with_mask(both, "<mask>").fingerprint != both.fingerprint != rows.fingerprint


def test_files_of_other_labels_or_rows_are_refused(tmp_path: Path) -> None:
    rows, path = some_rows(), tmp_path / "new.parquet"
    write_some(path, rows, NAMES)
    file = AugmentationFile(path)
    file.check(rows, ["Positive", "NEGATIVE"])  # the same, spelt otherwise
    for names in (["no", "yes"], [*NAMES, "neutral"], []):
        with pytest.raises(
            ValueError, match=r"`augmentation` must be of the labels .* made of rows with negative, pos"
        ):
            file.check(rows, names)
    with pytest.raises(ValueError, match=r"`augmentation` must be made of these 2 training rows, but .* of 3 others"):
        file.check(rows.take(np.array([0, 1])), NAMES)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("a")
    for name, message in (
        ("other.parquet", "must be a file that `dial augment` wrote"),
        ("text.parquet", "must be a parquet file"),
        ("none.parquet", "must be a file that exists"),
    ):
        with pytest.raises(ValueError, match=f"`augmentation` {message}"):
            AugmentationFile(tmp_path / name)


def test_texts_of_the_file_are_read_as_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing and reading hold a row group and a batch, not the file."""
    monkeypatch.setattr(augmentation, "ROW_GROUP", 1000)
    rows, count = some_rows(), 40_000
    text = "a text that is not short at all, of a hundred characters or so, as those of a data set often are, too"
    generated = (Generated(3, [(f"{text} {i} {k}", "g") for k in range(100)]) for i in range(count // 100))
    assert write(tmp_path / "new.parquet", generated, rows, about_rows(rows, NAMES, {})) == count
    stored = StoredTexts(tmp_path / "new.parquet", "text", count)
    tracemalloc.start()
    assert sum(len(each) > 100 for each in stored) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * 150 / 4
    assert pq.ParquetFile(tmp_path / "new.parquet").num_row_groups == 40
    assert stored[12_345] == f"{text} 123 45" and stored[-1] == f"{text} 399 99"


def test_arrays_written_in_parts_are_numpy_s(tmp_path: Path) -> None:
    parts = [np.arange(size) for size in (0, 3, 5000, 1)]
    with ArrayFile(tmp_path / "a.npy", np.int32) as file:
        for part in parts:
            file.append(part)
    loaded = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert loaded.dtype == np.int32
    np.testing.assert_array_equal(loaded, np.concatenate(parts))


def test_a_data_module_trains_on_both_and_tests_on_neither_more(tmp_path: Path, tiny_tokenizer) -> None:
    texts = [f"the film was {word} {i}" for i in range(60) for word in ("good", "bad")]
    lines = "\n".join(f"{text},{'positive' if 'good' in text else 'negative'}" for text in texts)
    (tmp_path / "train.csv").write_text(f"text,label\n{lines}\n")
    arguments = {"train_file": str(tmp_path / "train.csv"), "cache_dir": str(tmp_path), "test_fraction": 0.1}
    plain = TextDataModule(**arguments)
    rows = plain.rows("train")
    new = [Generated(int(i), [(f"[MASK] {text}",)]) for i, text in zip(rows.sample_id, rows.text, strict=True)]
    write(tmp_path / "new.parquet", new, rows, about_rows(rows, plain.label_names, {}))
    data = TextDataModule(**arguments, augmentation=str(tmp_path / "new.parquet"))
    data.use_tokenizers({"a": (tiny_tokenizer, 16)})
    both = data.rows("train")
    assert len(both) == 2 * len(rows) and (both.label[len(rows) :] == -1).all()
    for role in ("validation", "calibration", "test"):
        assert data.fingerprint(role) == plain.fingerprint(role)
    assert data.fingerprint("train") != plain.fingerprint("train")
    encoded = data.encoded("train").tokens["a"]
    for i in (len(rows), 2 * len(rows) - 1):
        text = f"[MASK] {rows.text[i - len(rows)]}"
        assert encoded.row(i).tolist() == tiny_tokenizer(text)["input_ids"]
        assert tiny_tokenizer.mask_token_id in encoded.row(i)
    assert not any("MASK" in text for text in data.train_texts()())
    assert data.train_batches() == -(-2 * len(rows) // 32)
    other = TextDataModule(**{**arguments, "max_rows": {"train": 20}}, augmentation=str(tmp_path / "new.parquet"))
    with pytest.raises(ValueError, match="`augmentation` must be made of these 20 training rows"):
        other.rows("train")
