"""Pairs of languages from files with a column each, from WMT's nested column, and from the hub."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules import TranslationDataModule

ROWS = [{"en": f"A dog runs {i}.", "de": f"Ein Hund läuft {i}."} for i in range(60)]


def write(folder: Path, names: dict[str, int], nested: bool = False) -> str:
    for name, count in names.items():
        rows = [{"translation": {"en": row["en"], "ro": row["de"]}} if nested else row for row in ROWS[:count]]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return str(folder)


@pytest.mark.parametrize(
    ("source", "target", "text", "reference"),
    [
        ("en", "de", "translate English to German: A dog runs 7.", "Ein Hund läuft 7."),
        ("de", "en", "translate German to English: Ein Hund läuft 7.", "A dog runs 7."),
    ],
)
def test_multi30k_both_ways(tmp_path: Path, source: str, target: str, text: str, reference: str) -> None:
    folder = write(tmp_path, {"train": 60, "validation": 20, "test": 10})
    data = TranslationDataModule("multi30k", source_language=source, target_language=target, source=folder)
    rows = data.rows("test")
    assert len(rows) == 10 and rows.sources is not None
    assert rows.sources[7] == text and data.references("test")[7] == (reference,)
    assert len(data.rows("validation")) == 20
    assert len(data.rows("train")) + len(data.rows("calibration")) == 60
    assert data.metrics == ["bleu", "chrf"] and data.label_names == ["*"]


def test_wmt_with_both_languages_in_one_column_and_stand_ins_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path, {"train_proxy": 60, "validation_ntrex": 20, "test": 10}, nested=True)
    data = TranslationDataModule("wmt16", target_language="ro", source=folder, prefix="")
    assert data.rows("test").sources is None and data.rows("test").text[0] == "A dog runs 0."
    assert data.references("validation")[3] == ("Ein Hund läuft 3.",)
    assert data.task == "wmt16 en-ro"


@pytest.mark.parametrize(
    ("corpus", "languages", "repository", "configuration"),
    [("wmt16", ("en", "ro"), "wmt/wmt16", "ro-en"), ("wmt16", ("ro", "en"), "wmt/wmt16", "ro-en"),
     ("multi30k", ("en", "de"), "bentrevett/multi30k", None)],
)  # fmt: skip
def test_the_hub(monkeypatch, corpus: str, languages: tuple, repository: str, configuration: str | None) -> None:
    asked = []

    def read(*arguments):
        asked.append(arguments[:3])
        pairs = [{code: f"{code} {i}" for code in languages} for i in range(5)]
        nested = "translation" in arguments[3]
        return {"translation": pairs} if nested else {code: [pair[code] for pair in pairs] for code in languages}

    monkeypatch.setattr("datamodules.translation.read_hub", read)
    data = TranslationDataModule(corpus, *languages)
    assert data.rows("test").text[2] == f"{languages[0]} 2" and data.references("test")[2] == (f"{languages[1]} 2",)
    assert asked == [(repository, configuration, "test")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corpus": "wmt14"}, r"`corpus` must be one of wmt16, multi30k, but got 'wmt14'"),
        ({"corpus": "multi30k", "target_language": "ro"}, r"`target_language` of multi30k must be one of en, de, but"),
        ({"corpus": "multi30k", "target_language": "en"}, r"must make two languages with the source, but got 'en' to"),
        (
            {"corpus": "wmt16", "source_language": "de", "target_language": "ro"},
            r"must make English and another language with the source, but got 'de' to 'ro'",
        ),
        ({"corpus": "multi30k", "source": "nowhere"}, r"`source` must be 'hub' or a folder that exists"),
    ],
)
def test_what_there_is_not(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TranslationDataModule(**arguments)


def test_missing_and_ambiguous_files_and_empty_sentences(tmp_path: Path) -> None:
    data = TranslationDataModule("multi30k", source=write(tmp_path, {"test": 5}))
    with pytest.raises(ValueError, match=r"`source` must have one file whose name begins with train, but .* has none"):
        data.rows("train")
    (tmp_path / "test2.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(ValueError, match=r"begins with test, but .* has test.parquet, test2.jsonl. Leave one"):
        data.rows("test")
    (tmp_path / "test.parquet").unlink()
    (tmp_path / "test2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (ROWS[0], {"en": "a", "de": " "})))
    with pytest.raises(ValueError, match=r"`de` must be a text in every row, but .*test2.jsonl, row 1: is empty"):
        data.rows("test")


def test_the_real_pairs(data_folder: Path) -> None:
    data = TranslationDataModule("wmt16", target_language="ro", source=str(data_folder / "wmt16/ro-en"))
    assert len(data.rows("test")) == 1999
    data = TranslationDataModule("multi30k", source=str(data_folder / "multi30k/en-de"))
    assert len(data.rows("test")) == 1000 and len(data.rows("validation")) == 1014
