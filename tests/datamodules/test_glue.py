from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules import GLUEDataModule
from datamodules.glue import TASKS

# Rows in the layout of each official download, and what the hub's columns would hold.
OFFICIAL = {
    "cola": (
        "CoLA",
        ['gj04\t1\t\tThe "cat" sat.', "gj04\t0\t*\tCat the sat."],
        [('The "cat" sat.', 1), ("Cat the sat.", 0)],
    ),
    "sst2": ("SST-2", ["sentence\tlabel", "so good \t1", "bad \t0"], [("so good ", 1), ("bad ", 0)]),
    "mrpc": (
        "MRPC",
        ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t1\t2\tHe "said .\tHe said .', "0\t3\t4\tA .\tB ."],
        [('He "said .', "He said .", 1), ("A .", "B .", 0)],
    ),
    "qqp": (
        "QQP",
        ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\tWhat?\tHow?\t0", "1\t1\t2\tA?\tA ?\t1"],
        [("What?", "How?", 0), ("A?", "A ?", 1)],
    ),
    "stsb": (
        "STS-B",
        [
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            "0\tm\tf\t2012\t0\tn\tn\tA plane.\tA jet.\t4.600",
            "1\tm\tf\t2012\t0\tn\tn\tA dog.\tA cat.\t0.000",
        ],
        [("A plane.", "A jet.", 4.6), ("A dog.", "A cat.", 0.0)],
    ),
    "qnli": (
        "QNLI",
        ["index\tquestion\tsentence\tlabel", "0\tWhy?\tSo.\tnot_entailment", "1\tWho?\tI.\tentailment"],
        [("Why?", "So.", 1), ("Who?", "I.", 0)],
    ),
    "rte": (
        "RTE",
        ["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tnot_entailment", "1\tC.\tC.\tentailment"],
        [("A.", "B.", 1), ("C.", "C.", 0)],
    ),
    "wnli": (
        "WNLI",
        ["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t1", "1\tC.\tC.\t0"],
        [("A.", "B.", 1), ("C.", "C.", 0)],
    ),
    "mnli": (
        "MNLI",
        [
            "index\tpromptID\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label",
            "0\t1\tfiction\t( A )\tA.\tB.\tneutral\tcontradiction",
            "1\t1\tfiction\t( C )\tC.\tD.\tneutral\tentailment",
        ],
        [("A.", "B.", 2), ("C.", "D.", 0)],
    ),
}


@pytest.mark.parametrize("task", list(TASKS))
def test_official_tsv(task: str, tmp_path: Path) -> None:
    name, lines, expected = OFFICIAL[task]
    (tmp_path / name).mkdir()
    for file in ("train", "dev_matched", "dev_mismatched") if task == "mnli" else ("train", "dev"):
        (tmp_path / name / f"{file}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = GLUEDataModule(task, str(tmp_path))
    for role in ["train", *data.test_roles()]:
        rows = data.read(role)
        found = [(*unit, label) for unit, label in zip(rows.units(), rows.label.tolist(), strict=True)]
        assert [row[:-1] for row in found] == [row[:-1] for row in expected]
        assert [row[-1] for row in found] == pytest.approx([row[-1] for row in expected])


def folder_of(tmp_path: Path, splits: dict[str, int], columns: tuple[str, ...] = ("sentence",)) -> str:
    for split, count in splits.items():
        texts = {name: [f"{split} {name} {i}" for i in range(count)] for name in columns}
        pq.write_table(pa.table({**texts, "label": [i % 2 for i in range(count)]}), tmp_path / f"{split}.parquet")
    return str(tmp_path)


def test_roles_of_a_task(tmp_path: Path) -> None:
    data = GLUEDataModule("sst2", folder_of(tmp_path, {"train": 1000, "validation": 10}))
    assert data.test_splits == ["calibration", "test"]
    parts = {role: data.rows(role) for role in ("train", "validation", "calibration")}
    assert sum(map(len, parts.values())) == 1000
    for rows in parts.values():  # ids are rows of the training file
        assert rows.text == [f"train sentence {i}" for i in rows.sample_id]
    assert data.rows("test").text == [f"validation sentence {i}" for i in range(10)]
    assert data.sample_ids("test").tolist() == list(range(10))


def test_mnli_has_two_test_sets_and_does_with_one(tmp_path: Path) -> None:
    columns = ("premise", "hypothesis")
    source = folder_of(tmp_path, {"train": 50, "validation_matched": 8}, columns)
    with pytest.warns(UserWarning, match=r"no validation_mismatched file: test_mismatched is skipped"):
        assert GLUEDataModule("mnli", source).test_splits == ["calibration", "test_matched"]
    folder_of(tmp_path, {"validation_mismatched": 5}, columns)
    data = GLUEDataModule("mnli", source, calibration="crossfit")
    assert data.test_splits == ["test_matched", "test_mismatched"]
    assert [len(data.rows(role)) for role in data.test_splits] == [8, 5]


def test_without_a_training_file_only_crossfit_works(tmp_path: Path) -> None:
    source = folder_of(tmp_path, {"validation": 20})
    assert len(GLUEDataModule("sst2", source, calibration="crossfit").rows("test")) == 20
    with pytest.raises(ValueError, match=r"`source` must have a file train.parquet .* `--data.calibration crossfit`"):
        GLUEDataModule("sst2", source).rows("calibration")


def test_test_rows_can_be_cut_from_the_training_rows(tmp_path: Path) -> None:
    source = folder_of(tmp_path, {"train": 400})
    with pytest.raises(ValueError, match=r"`source` must have a file validation.parquet .* `test_fraction: 0.1`"):
        GLUEDataModule("sst2", source).rows("test")
    data = GLUEDataModule("sst2", source, test_fraction=0.2)
    ids = [i for role in ("train", "validation", "calibration", "test") for i in data.sample_ids(role).tolist()]
    assert sorted(ids) == list(range(400)) and 40 < len(data.rows("test")) < 120
    mnli = GLUEDataModule("mnli", source, test_fraction=0.2)
    assert mnli.test_splits == ["calibration", "test"]


def test_unknown_task_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`task` must be one of cola, sst2, .*, but got 'sst5'"):
        GLUEDataModule("sst5")
    with pytest.raises(ValueError, match=r"`source` must be 'hub' or a folder that exists, but got"):
        GLUEDataModule("sst2", str(tmp_path / "none"))


def test_a_hub_that_cannot_be_reached() -> None:
    with pytest.raises(ValueError, match=r"`source` is 'hub'"):
        GLUEDataModule("rte").rows("test")


def test_names_and_metrics() -> None:
    assert TASKS["mnli"].label_names == ("entailment", "neutral", "contradiction")
    assert TASKS["rte"].label_names == ("entailment", "not_entailment")
    assert TASKS["wnli"].label_names == ("not_entailment", "entailment")
    assert GLUEDataModule("stsb").label_names == [] and GLUEDataModule("stsb").metrics == ["pearson", "spearman"]
    assert {task: GLUEDataModule(task).metrics[0] for task in TASKS} == {
        "cola": "mcc",
        "stsb": "pearson",
        "mrpc": "f1",
        "qqp": "f1",
        **dict.fromkeys(["sst2", "mnli", "qnli", "rte", "wnli"], "accuracy"),
    }


@pytest.mark.parametrize("task", ["sst2", "cola", "mrpc", "rte", "stsb", "wnli"])
def test_real_rows(task: str, data_folder: Path) -> None:
    data = GLUEDataModule(task, str(data_folder / "glue"))
    train = sum(len(data.rows(role)) for role in ("train", "validation", "calibration"))
    official = {"sst2": (67349, 872), "cola": (8551, 1043), "mrpc": (3668, 408), "rte": (2490, 277)}
    official |= {"stsb": (5749, 1500), "wnli": (635, 71)}
    assert (train, len(data.rows("test"))) == official[task]
    assert len(data.rows("calibration")) >= (100 if task == "wnli" else 500)


def test_sst2_pads_little(data_folder: Path, models_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models_folder / "minilm-l6-h384")
    data = GLUEDataModule("sst2", str(data_folder / "glue"), batch_size=32, max_rows={"train": 20_000})
    data.use_tokenizers({"minilm": (tokenizer, 128)})
    for loader in (data.train_dataloader(), data.inference_loader("test")):
        masks = [batch["encodings"]["minilm"]["attention_mask"] for batch in loader]
        real, padded = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
        assert 1 - real / padded <= 0.1
