"""Sources and targets: what a decoder learns to write, tokenised once, and the same rows in every role."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules import TextDataModule, TextToTextDataModule
from datamodules.row_tokens import check_label_words
from tests.datamodules.stub import Recorder
from tests.datamodules.test_base import make_trainer

PAIRS = [("a good film", "the plot"), ("the cast is bad", "a dull cast"), ("fine", "a film was fine"), ("so so", "and")]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pairs(count: int) -> list[dict]:
    return [
        {"source": f"{source} {i}", "target": f"{target} {i}", "other": "good"}
        for i, (source, target) in ((i, PAIRS[i % 4]) for i in range(count))
    ]


def module_of(file: str, tokenizer, **kwargs) -> TextToTextDataModule:
    data = TextToTextDataModule(train_file=file, batch_size=3, **kwargs)
    data.use_tokenizers({"words": (tokenizer, 32)})
    return data


def test_a_batch_holds_the_targets_padded_by_hand(tiny_tokenizer, tmp_path: Path) -> None:
    data = module_of(write(tmp_path / "a.jsonl", pairs(40)), tiny_tokenizer)
    seen = 0
    for batch in data.val_dataloader():
        labels = batch["encodings"]["words"]["labels"]
        rows = data.rows("validation")
        for row, position in zip(labels, batch["label"].tolist(), strict=True):
            ids = tiny_tokenizer(data.references("validation")[position][0])["input_ids"]
            assert row.tolist() == ids + [-100] * (len(row) - len(ids))
            assert rows.sample_id[position] in batch["sample_id"].tolist()
        assert labels.shape[1] == (labels != -100).sum(dim=1).max()
        seen += len(labels)
    assert seen == len(data.rows("validation")) > 0


def test_the_label_of_free_text_is_the_position_in_the_role(tiny_tokenizer, tmp_path: Path) -> None:
    data = module_of(write(tmp_path / "a.jsonl", pairs(60)), tiny_tokenizer, max_rows=7)
    for role in ("train", "validation", "calibration"):
        rows = data.rows(role)
        assert rows.label.tolist() == list(range(len(rows))) and len(rows) <= 7
        for position, sample_id in enumerate(rows.sample_id.tolist()):
            assert data.references(role)[position] == (pairs(60)[sample_id]["target"],)
    assert data.label_names == ["*"] and data.metrics == ["bleu"]


def test_targets_come_with_rows_that_are_trained_on_and_no_others(tiny_tokenizer, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", pairs(60))
    data = module_of(file, tiny_tokenizer, test_fraction=0.2)
    batches = {"train": data.train_dataloader(), "test": data.test_dataloader()[-1]}
    assert all(("labels" in b["encodings"]["words"]) == (role == "train") for role, bs in batches.items() for b in bs)

    class Encoder(Recorder):
        reads_targets = False

    class Decoder(Recorder):
        def training_step(self, batch, batch_idx):
            assert batch["encodings"]["words"]["labels"].dtype == torch.int64
            return super().training_step(batch, batch_idx)

    for kind in (Encoder, Decoder):
        data = TextToTextDataModule(train_file=file, batch_size=3)
        trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=1)
        trainer.fit(kind({"words": (tiny_tokenizer, 32)}), datamodule=data)
        (batch, *_) = data.train_dataloader()
        assert ("labels" in batch["encodings"]["words"]) == (kind is Decoder)


def test_targets_are_tokenised_once_and_counted_where_they_are_cut(tiny_tokenizer, tmp_path: Path) -> None:
    rows = [{"source": f"a film {i}", "target": "good " * (i % 9 + 1)} for i in range(40)]
    file = write(tmp_path / "a.jsonl", rows)
    data = module_of(file, tiny_tokenizer, max_target_length=6, cache_dir=str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match=r"train: \d+ of \d+ targets exceed 6 tokens and are truncated"):
        tokens = data.target_tokens("train", "words")
    lengths = [len(tiny_tokenizer(references[0])["input_ids"]) for references in data.references("train")]
    assert data.truncated_targets == {"train": {"words": sum(length > 6 for length in lengths)}}
    assert tokens.lengths.tolist() == [min(length, 6) for length in lengths]
    before = sorted(path.name for path in (tmp_path / "cache" / "encodings").iterdir())
    second = module_of(file, tiny_tokenizer, max_target_length=6, cache_dir=str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="targets exceed"):
        np.testing.assert_array_equal(second.target_tokens("train", "words").ids, tokens.ids)
    assert sorted(path.name for path in (tmp_path / "cache" / "encodings").iterdir()) == before


def test_targets_of_two_lengths_are_two_entries_of_the_cache(tiny_tokenizer, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", pairs(40))
    cut, whole = (module_of(file, tiny_tokenizer, max_target_length=length) for length in (3, None))
    with pytest.warns(UserWarning, match="targets exceed"):
        assert cut.target_tokens("train", "words").lengths.max() == 3
    assert whole.target_tokens("train", "words").lengths.max() > 3


def test_a_prefix_is_read_and_changes_no_role(tiny_tokenizer, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", pairs(60))
    plain, prefixed = module_of(file, tiny_tokenizer), module_of(file, tiny_tokenizer, prefix="the plot: ")
    for role in ("train", "validation", "calibration"):
        assert plain.sample_ids(role).tolist() == prefixed.sample_ids(role).tolist()
    ids = prefixed.tokens("train", "words").row(0).tolist()
    assert ids == tiny_tokenizer("the plot: " + plain.rows("train").text[0])["input_ids"]


def test_rows_are_in_the_roles_that_their_texts_have_in_other_modules(tiny_tokenizer, tmp_path: Path) -> None:
    rows = [row | {"label": "yes" if i % 2 else "no"} for i, row in enumerate(pairs(80))]
    file = write(tmp_path / "a.jsonl", rows)
    classes = TextDataModule(train_file=file, text_column="source")
    words = module_of(file, tiny_tokenizer, target_column="label", label_names=["no", "yes"])
    for role in ("train", "validation", "calibration"):
        assert classes.sample_ids(role).tolist() == words.sample_ids(role).tolist()
        assert classes.rows(role).label.tolist() == words.rows(role).label.tolist()
    assert words.references("train")[0][0] == ["no", "yes"][words.rows("train").label[0]]
    assert words.metrics == ["accuracy"]


def test_numbers_are_written_as_they_stand(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"source": "x", "target": 3.8}, {"source": "y", "target": "0.4"}])
    data = TextToTextDataModule(test_file=file, label_names=[], calibration="crossfit")
    assert data.references("test") == [("3.8",), ("0.4",)] and data.metrics == ["pearson", "spearman"]
    np.testing.assert_allclose(data.rows("test").label, [3.8, 0.4], rtol=1e-6)


def test_references_come_from_lists_or_from_several_columns(tmp_path: Path) -> None:
    lists = write(tmp_path / "a.jsonl", [{"source": "x", "target": ["b", "c"]}, {"source": "y", "target": "d"}])
    data = TextToTextDataModule(test_file=lists, calibration="crossfit")
    assert data.references("test") == [("b", "c"), ("d",)]
    rows = [{"source": "x", "one": "b", "two": "c"}, {"source": "y", "one": "d", "two": None}]
    columns = write(tmp_path / "b.jsonl", rows)
    data = TextToTextDataModule(test_file=columns, target_column=["one", "two"], calibration="crossfit")
    assert data.references("test") == [("b", "c"), ("d",)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": " ", "target": "x"}, r"`source` must be a text in every row, but .*a.jsonl, row 1: is empty"),
        ({"source": "x", "target": ""}, r"`target` must be a text in every row, but .*a.jsonl, row 1: is empty"),
        ({"source": "x", "target": None}, r"`target` must be a text in every row, but .*row 1: .* has null"),
        ({"source": "x", "target": []}, r"`target` must be a text in every row, but .*row 1: .* has null"),
        ({"source": "x", "target": ["", "y"]}, r"`target` must be a text in every row, but .*row 1"),
        ({"source": "x", "target": {"de": "y"}}, r"`target` must be a text in every row, but .*row 1"),
        ({"source": "x"}, r"`test_file` .*a.jsonl, line 2: has no 'target'"),
    ],
)
def test_rows_without_source_or_target_are_refused(tmp_path: Path, row: dict, message: str) -> None:
    file = write(tmp_path / "a.jsonl", [{"source": "a", "target": "b"}, row])
    with pytest.raises(ValueError, match=message):
        TextToTextDataModule(test_file=file, calibration="crossfit").rows("test")


def test_a_target_that_is_no_label_word_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"source": "a", "target": "maybe"}])
    data = TextToTextDataModule(test_file=file, label_names=["no", "yes"], calibration="crossfit")
    with pytest.raises(ValueError, match=r"`target` must be one of 0 \(no\), 1 \(yes\), but 1 of 1 rows .* 'maybe'"):
        data.rows("test")


def test_label_words_that_spaces_alone_tell_apart_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", pairs(2))
    with pytest.raises(ValueError, match=r"`label_names` must name every class once, but got 'a  b' as class 0 and as"):
        TextToTextDataModule(train_file=file, label_names=["a b", "a  b"])


def test_label_words_that_collide_after_tokenisation_are_refused(tiny_tokenizer, tmp_path: Path) -> None:
    check_label_words(["good", "bad"], tiny_tokenizer)
    message = r"`label_names` .* reads both 'gut' and 'schlecht' as \[CLS\] \[UNK\] \[SEP\]"
    with pytest.raises(ValueError, match=message):
        check_label_words(["gut", "schlecht"], tiny_tokenizer)
    with pytest.raises(ValueError, match=r"`label_names` .* can spell, but of 'Good' its tokens give back 'good'"):
        check_label_words(["bad", "Good"], tiny_tokenizer)
    file = write(tmp_path / "a.jsonl", [{"source": "a", "target": "gut"}, {"source": "b", "target": "schlecht"}])
    data = module_of(file, tiny_tokenizer, label_names=["gut", "schlecht"])
    with pytest.raises(ValueError, match=message):
        data.tokens("train", "words")


def test_a_tokenizer_for_two_languages_reads_targets_as_such(tiny_tokenizer) -> None:
    from datamodules.row_tokens import RowTokeniser

    class TwoLanguages:
        """Marks what it reads as a target, as those of mBART and NLLB do."""

        model_input_names, pad_token_id, eos_token_id, padding_side, unk_token_id = ["input_ids"], 0, 3, "right", 1

        def _switch_to_target_mode(self) -> None:
            raise AssertionError

        def __call__(self, text=None, text_pair=None, text_target=None, **kwargs):
            texts = text if text_target is None else text_target
            mark = 77 if text_target is not None else 66
            return {"input_ids": [[mark, *map(ord, each)][: kwargs.get("max_length")] for each in texts]}

    assert RowTokeniser(TwoLanguages(), 2, target=True)(["ab"])[0].ids == [77, 97]
    assert RowTokeniser(TwoLanguages(), None)(["ab"])[0].ids == [66, 97, 98]


def test_the_tokenizer_of_a_new_model_is_built_from_both_sides(tmp_path: Path) -> None:
    data = TextToTextDataModule(train_file=write(tmp_path / "a.jsonl", pairs(40)), prefix="to: ")
    texts = list(data.train_texts()())
    rows = data.rows("train")
    assert texts == [f"to: {text}" for text in rows.text] + [target for (target,) in rows.targets or []]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "csv.gz"])
def test_every_format_of_files_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = [{"de": "ein „Hund“, läuft", "en": 'a "dog", runs', "doc": "x"}, {"de": "zwei", "en": "two", "doc": "y"}]
    frame, path = pd.DataFrame(rows), tmp_path / f"a.{suffix}"
    if suffix == "tsv":
        path.write_text("".join("\t".join(row) + "\n" for row in [rows[0], *(row.values() for row in rows)]))
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    columns = {"source_column": "en", "target_column": "de", "group_column": "doc"}
    data = TextToTextDataModule(test_file=str(path), calibration="crossfit", **columns)
    assert data.rows("test").text == [row["en"] for row in rows]
    assert data.references("test") == [(row["de"],) for row in rows]
    assert data.rows("test").group.tolist() == ["x", "y"]
