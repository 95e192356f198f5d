"""SuperGLUE from a folder as on the hub, from the official download and from the hub; for encoders and as text."""

from collections import Counter
from pathlib import Path

import pytest

from datamodules import SuperGLUEAsTextDataModule, SuperGLUEDataModule
from datamodules.superglue import TASKS
from tests.superglue_files import fields, write_hub, write_official

ROWS = {"train": 360, "validation": 24}
PLAIN = [task for task in TASKS if task != "copa"]


@pytest.mark.parametrize("kind", [SuperGLUEDataModule, SuperGLUEAsTextDataModule])
@pytest.mark.parametrize("task", TASKS)
def test_the_official_files_give_the_rows_of_the_hub(tmp_path: Path, kind: type, task: str) -> None:
    if task == "copa" and kind is SuperGLUEDataModule:
        pytest.skip("COPA is text only")
    hub = kind(task, source=str(write_hub(tmp_path / "hub", task, ROWS)))
    download = kind(task, source=str(write_official(tmp_path / "official", task, ROWS)))
    for role in ("train", "validation", "calibration", "test"):
        one, other = hub.rows(role), download.rows(role)
        assert one.fingerprint == other.fingerprint and len(one) > 0
    assert len(hub.rows("test")) == 24


@pytest.mark.parametrize(
    ("task", "unit"),
    [
        ("boolq", ("is the song good 6", "The song was bad.")),
        ("cb", ("The song was good 6.", "the plot was good")),
        ("multirc", ("<b>Sent 1: </b>The plot was good 1.<br>So it was.", "What was good 2? the song 6")),
        ("rte", ("A song was good 6.", "The plot was good.")),
        ("wic", ("song: A song 6.", "The song ended.")),
        ("wsc", ("The song was better than the plot as *it* was good 6.", "the plot")),
    ],
)
def test_what_an_encoder_reads(tmp_path: Path, task: str, unit: tuple[str, ...]) -> None:
    data = SuperGLUEDataModule(task, source=str(write_hub(tmp_path, task, {"validation": 12})), calibration="crossfit")
    assert list(data.rows("test").units())[6] == unit
    assert data.rows("test").label.tolist() == [fields(task, i)["label"] for i in range(12)]


@pytest.mark.parametrize(
    ("task", "source", "target"),
    [
        ("boolq", "boolq passage: The actor was good. question: is the actor good 5", "True"),
        ("cb", "cb hypothesis: the film was good premise: The actor was good 5.", "neutral"),
        (
            "copa",
            "copa choice1: He left. choice2: He stayed. premise: The actor was dull 5. question: cause",
            "choice2",
        ),
        (
            "multirc",
            "multirc question: What was good 1? answer: the actor 5 paragraph: Sent 1: The film was good 0. So it was.",
            "True",
        ),
        ("rte", "rte hypothesis: The film was good. premise: A actor was good 5.", "not_entailment"),
        ("wic", "wic sentence1: A actor 5. sentence2: The actor ended. word: actor", "True"),
        ("wsc", "wsc: The actor was better than the film as *it* was good 5.", "the actor"),
    ],
)
def test_what_t5_reads_and_writes(tmp_path: Path, task: str, source: str, target: str) -> None:
    folder = str(write_hub(tmp_path, task, {"validation": 12}))
    data = SuperGLUEAsTextDataModule(task, source=folder, calibration="crossfit")
    rows = data.rows("test")
    assert rows.sources is not None and rows.sources[5] == source
    assert data.references("test")[5] == (target,)
    assert data.label_names == (["*"] if task == "wsc" else list(TASKS[task].label_names))
    pairs = {"boolq": ("question", "passage"), "cb": ("premise", "hypothesis"), "rte": ("premise", "hypothesis")}
    assert (data.source_form == "") == (task not in pairs)  # a row of the others is more than a text or a pair


@pytest.mark.parametrize("task", PLAIN)
def test_rows_are_in_the_same_roles_for_encoders_and_as_text(tmp_path: Path, task: str) -> None:
    source = str(write_hub(tmp_path, task, ROWS))
    plain, text = SuperGLUEDataModule(task, source=source), SuperGLUEAsTextDataModule(task, source=source)
    for role in ("calibration", "test") if task == "wsc" else ("train", "validation", "calibration", "test"):
        assert plain.sample_ids(role).tolist() == text.sample_ids(role).tolist()
        if task != "wsc":
            assert plain.rows(role).label.tolist() == text.rows(role).label.tolist()


def test_wrong_noun_phrases_are_tested_on_and_not_learnt(tmp_path: Path) -> None:
    data = SuperGLUEAsTextDataModule("wsc", source=str(write_hub(tmp_path, "wsc", ROWS)))
    marks = {
        role: Counter(r.startswith("≠ ") for (r,) in data.references(role)) for role in ("train", "validation", "test")
    }
    assert marks["train"][True] == marks["validation"][True] == 0 < marks["train"][False]
    assert marks["test"] == {True: 12, False: 12}
    assert data.metrics == ["referent_accuracy"]
    assert data.rows("test").label.tolist() == list(range(24))


def test_answers_to_a_question_of_multirc_stay_together(tmp_path: Path) -> None:
    data = SuperGLUEDataModule("multirc", source=str(write_hub(tmp_path, "multirc", ROWS)))
    assert data.metrics == ["f1", "group_accuracy"]
    for whole in (lambda name: name, lambda name: name.split("-")[0]):  # the question, and its paragraph
        parts = [set(map(whole, data.rows(role).group.tolist())) for role in ("train", "validation", "calibration")]
        assert all(not one & other for one in parts for other in parts if one is not other)
    assert Counter(data.rows("test").group.tolist()) == {f"{60 + i // 2}-{120 + i}": 3 for i in range(8)}


def test_the_hub_is_asked_for_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(repository: str, configuration: str, split: str, columns: list[str]) -> dict:
        asked.append((repository, configuration, split))
        rows = [fields("wic", i) for i in range(60)]
        return {name: [row[name] for row in rows] for name in columns}

    monkeypatch.setattr("datamodules.benchmark.read_hub", read)
    assert len(SuperGLUEDataModule("wic").rows("test")) == 60
    assert asked == [("aps/super_glue", "wic", "validation")]


@pytest.mark.parametrize(
    ("kind", "task", "message"),
    [
        (
            SuperGLUEDataModule,
            "record",
            r"`task` must be one of boolq, cb, multirc, rte, wic, wsc, but got 'record', which",
        ),
        (SuperGLUEAsTextDataModule, "record", r"`task` must be one of .*copa.*, but got 'record', which is left out"),
        (SuperGLUEDataModule, "copa", r"but got 'copa', which asks for one of two texts .* SuperGLUEAsTextDataModule"),
        (SuperGLUEDataModule, "sst2", r"`task` must be one of boolq, .*, but got 'sst2'"),
    ],
)
def test_unknown_tasks_are_refused(kind: type, task: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(task)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    data = SuperGLUEDataModule("boolq", source=str(write_hub(tmp_path, "boolq", {"validation": 12})))
    with pytest.raises(ValueError, match=r"`source` must have a file train.parquet .* official val.jsonl\) for boolq"):
        data.rows("train")


def test_a_row_of_wsc_without_its_pronoun_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "wsc").mkdir()
    rows = [fields("wsc", 0), fields("wsc", 1) | {"span2_text": "them"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "wsc/validation.parquet")
    data = SuperGLUEDataModule("wsc", source=str(tmp_path), calibration="crossfit")
    with pytest.raises(ValueError, match=r"`source` .*validation.parquet, row 1: has no word 'them'"):
        data.rows("test")


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("copa", "boolq")])
def test_the_real_data(data_folder: Path, task: str) -> None:
    data = SuperGLUEDataModule(task, source=str(data_folder / "superglue"))
    assert len(data.rows("train")) > len(data.rows("validation")) > 0
    text = SuperGLUEAsTextDataModule(task, source=str(data_folder / "superglue"))
    assert len(text.rows("test")) == len(data.rows("test")) > 50
    if task == "wsc":
        assert sum("*" in source for source in text.rows("test").sources or []) == 104
