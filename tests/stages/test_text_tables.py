"""Stage tables of texts: round trip, what follows from texts and references, and what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sacrebleu.metrics import BLEU

from dial.parquet_checks import KEY
from dial.report.remarks import written_answers
from dial.stages.metrics.metrics import METRICS, evaluate
from dial.stages.parquet import load_table, save_slim, save_table
from dial.stages.table import StageTable
from dial.stages.task import UNREAD, Classification, Regression, Text, task_of
from tests.stages.tables import random_table
from tests.stages.test_text_metrics import streams
from tests.stages.texts import text_table

ALL = ("bleu", "chrf", "exact_match", "token_f1", "character_accuracy", "token_accuracy")


def test_label_names_decide_the_task() -> None:
    assert isinstance(task_of(["*"]), Text) and isinstance(task_of(["a", "*"]), Classification)
    assert isinstance(task_of([]), Regression)
    assert not task_of(["*"]).exact and task_of(["*"]).written


def test_texts_of_label_words_are_classes_and_others_are_wrong() -> None:
    table = random_table(4, 2)
    texts = np.array([["a", "b"], [" b ", "a b"], ["A", "a"], ["", "b"]], dtype=object)
    table = dataclasses.replace(table, outputs=None, predictions=None, texts=texts, label=np.zeros(4, int))
    assert table.predictions.tolist() == [[0, 1], [1, UNREAD], [UNREAD, 0], [UNREAD, 1]]
    assert table.metric_statistics("accuracy")[1][..., 0].tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]]
    assert table.task.answer(UNREAD) == (UNREAD, None)


def test_texts_that_are_no_number_are_as_wrong_as_can_be() -> None:
    texts = np.array([["garbage", "-1"], ["4", "nan"], ["-1", "9"], ["2", "2"]], dtype=object)
    label = np.array([-3.0, 4.0, -1.0, 2.0])
    changes = {"texts": texts, "label": label, "metrics": ("pearson",), "label_names": ()}
    table = dataclasses.replace(random_table(4, 2), outputs=None, predictions=None, **changes)
    assert table.predictions.tolist() == [[4, -1], [4, -3], [-1, 9], [2, 2]]
    assert table.take(np.array([0, 1])).predictions.tolist() == [[4, -1], [4, -3]]
    assert table.task.unread(texts).tolist() == [[True, False], [False, True], [False, False], [False, False]]
    assert table.task.answer(table.task.read("garbage").item()) == (None, None)
    remarks = list(written_answers(table))
    assert remarks == [
        "`tier0` wrote no number in 1 of 4 rows, which count as wrong: 'garbage' 1",
        "`tier1` wrote no number in 1 of 4 rows, which count as wrong: 'nan' 1",
    ]


@pytest.mark.parametrize("name", ["accuracy", "f1", "mcc", "macro_f1"])
def test_an_answer_that_is_no_class_counts_as_a_class_of_its_own(name: str) -> None:
    import sklearn.metrics

    random = np.random.default_rng(0)
    label, prediction = random.integers(0, 2, 60), random.integers(-1, 2, 60)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(label, prediction),
        "f1": sklearn.metrics.f1_score(label, prediction, labels=[1], average="macro"),
        "mcc": sklearn.metrics.matthews_corrcoef(label, prediction),
        "macro_f1": sklearn.metrics.f1_score(label, prediction, labels=[0, 1], average="macro"),
    }[name]
    assert evaluate(name, label, prediction, 2) == pytest.approx(expected)
    if name == "mcc":
        sums = METRICS[name].statistics(label, prediction, 2).sum(axis=0)
        steps = np.eye(len(sums)) * 1e-4
        slopes = [(METRICS[name].value(sums + s) - METRICS[name].value(sums - s)) / 2e-4 for s in steps]
        np.testing.assert_allclose(METRICS[name].gradient(sums), slopes, atol=1e-7)


def test_sums_follow_from_texts_and_references() -> None:
    table = text_table(30, 3, metrics=ALL)
    for name in ALL:
        metric, rows = table.metric_statistics(name)
        for stage in range(3):
            expected = evaluate(name, table.references, table.texts[:, stage])
            assert metric.value(rows[:, stage].sum(axis=0)) == pytest.approx(expected, abs=1e-12)
    expected = BLEU().corpus_score(table.texts[:, 1].tolist(), streams(table.references.tolist())).score
    rows = table.metric_statistics("bleu")[1]
    assert 100 * METRICS["bleu"].value(rows[:, 1].sum(axis=0)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("save", [save_table, lambda table, path: save_slim(table, path, None)], ids=["whole", "slim"])
def test_round_trip(save, tmp_path: Path) -> None:
    table = text_table(30, 3, metrics=ALL, splits=("calibration", "test"))
    save(table, tmp_path / "t.parquet")
    back = load_table(tmp_path / "t.parquet")
    for field in dataclasses.fields(StageTable):
        before, after = getattr(table, field.name), getattr(back, field.name)
        if isinstance(before, dict) and field.name != "settings":
            assert before.keys() == after.keys()
            assert all(np.array_equal(before[key], after[key]) for key in before), field.name
        elif isinstance(before, np.ndarray):
            assert before.dtype == after.dtype and np.array_equal(before, after), field.name
        else:
            assert before == after, field.name
    about = json.loads(pq.read_schema(tmp_path / "t.parquet").metadata[KEY])
    assert about["schema"] == 3


def test_tables_without_texts_stay_readable_for_older_readers(tmp_path: Path) -> None:
    save_table(random_table(), tmp_path / "t.parquet")
    assert json.loads(pq.read_schema(tmp_path / "t.parquet").metadata[KEY])["schema"] == 1


def test_rows_are_taken_with_all_that_belongs_to_them() -> None:
    table = text_table(20, 2)
    part = table.take(np.array([7, 3]))
    assert part.texts.tolist() == table.texts[[7, 3]].tolist()
    assert part.references.tolist() == [table.references[7], table.references[3]]
    assert part.written["tier0"].tolist() == table.written["tier0"][[7, 3]].tolist()


def test_repeats_of_a_distributed_sampler_may_be_written_otherwise() -> None:
    table = text_table(20, 2)
    twice = table.take(np.array([*range(20), 4]))
    texts = twice.texts.copy()
    texts[-1, 0] += " dog"
    repeated = dataclasses.replace(twice, texts=texts, statistics={}, predictions=None)
    assert repeated.without_repeats().texts.tolist() == table.texts.tolist()
    references = [*twice.references[:-1], ("another text",)]
    with pytest.raises(ValueError, match=r"`sample_id` must be unique .* with different references"):
        dataclasses.replace(twice, references=references).without_repeats()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"references": None},
            r"`metrics` with bleu need `references` for each row, or the sums `stat_bleu_length_<st",
        ),
        ({"texts": None, "predictions": np.zeros((60, 2))}, r"`metrics` with bleu need a text for each stage"),
        ({"references": [("a",)] * 59 + [()]}, r"`references` must be one or several texts .* row 59 has \(\)"),
        ({"references": [("a",)] * 59 + [("a", " ")]}, r"`references` must be one or several texts .* row 59"),
        ({"references": [("a",)] * 59}, r"`references` must have shape \(60,\)"),
        ({"texts": np.full((60, 2), None)}, r"`texts` must be texts, but got None"),
        ({"texts": np.full((60, 3), "a")}, r"`texts` must have shape \(60, 2\)|`predictions` must have shape"),
        ({"metrics": ("accuracy",)}, r"`metrics` for free text must be of: bleu, chrf, .*; but got 'accuracy'"),
        ({"label_names": ("a", "b")}, r"`metrics` for classification of 2 classes .* 'bleu'. It compares free text"),
        ({"label_names": ()}, r"`metrics` for regression .* 'bleu'. It compares free text"),
        (
            {"statistics": {"bleu": np.ones((60, 2))}},
            r"`stat_bleu_<stage>` must not be a column, as bleu is no mean .*`stat_bleu_length_<stage>`",
        ),
        ({"cut_off": {"tier0": np.zeros(3)}}, r"`cut_off\['tier0'\]` must have shape \(60,\)"),
    ],
)
def test_bad_tables_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_table(60, 2, **changes)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_sums_are_counts(value: float) -> None:
    table = text_table(20)
    statistics = {**table.statistics, "bleu_total_2": np.full((20, 2), value)}
    with pytest.raises(
        ValueError, match=rf"`stat_bleu_total_2_tier0` must lie in its range, 0 to inf, but got {value}"
    ):
        dataclasses.replace(table, statistics=statistics)


def test_scores_of_logits_do_not_exist_for_free_text() -> None:
    with pytest.raises(ValueError, match=r"`scores` for text must be one of: random; but got 'entropy'"):
        text_table(20).with_scores(["entropy"])
