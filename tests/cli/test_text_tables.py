"""`dial sweep` of tables of texts that something else wrote: with references, with sums of a metric, or of classes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sacrebleu.metrics import BLEU

from dial.cli.tables import SweepCommand
from dial.report.remarks import written_answers
from dial.stages.parquet import load_table
from tests.stages.test_text_metrics import streams
from tests.stages.texts import text_table

ROWS = 240
TABLE = text_table(ROWS, 2, seed=20, metrics=("bleu", "chrf"))


def write(folder: Path, drop: tuple[str, ...] = (), **more) -> Path:
    frame: dict[str, object] = {"split": ["test"] * ROWS, "sample_id": range(ROWS)}
    frame["references"] = [list(row) for row in TABLE.references]
    for stage, name in enumerate(("swift", "super")):
        frame[f"text_{name}"] = TABLE.texts[:, stage]
        frame[f"macs_{name}"] = TABLE.macs[:, stage] - (TABLE.decide_macs[:, 0] if stage else 0)
        frame[f"sureness_{name}"] = TABLE.scores["energy"][:, stage]
    frame |= more
    frame = {name: values for name, values in frame.items() if name not in drop}
    pd.DataFrame(frame).to_parquet(folder / "mine.parquet")
    return folder / "mine.parquet"


def sweep(path: Path, *more: str) -> dict:
    arguments = [str(path), "--costs", "own", "--scores", "sureness", "--targets", "0.9", "--bootstrap", "100", *more]
    assert SweepCommand.main([*arguments, "--out", str(path.parent / "out")]) == 0
    return json.loads((path.parent / "out/summary.json").read_text())


def test_texts_with_references(tmp_path: Path) -> None:
    summary = sweep(write(tmp_path))
    assert summary["metrics"] == ["bleu"] and summary["label_names"] == ["*"]
    stages = summary["splits"]["test"]["stages"]
    references = streams(TABLE.references.tolist())
    for stage, found in enumerate(stages):
        expected = BLEU().corpus_score(TABLE.texts[:, stage].tolist(), references).score
        assert 100 * found["quality"]["bleu"] == pytest.approx(expected, abs=1e-9)
    kinds = {point["kind"] for point in summary["splits"]["test"]["points"]}
    assert {"expected", "confident", "in_sample"} <= kinds
    back = load_table(tmp_path / "out/stages.parquet")
    assert back.texts.tolist() == TABLE.texts.tolist() and back.references.tolist() == TABLE.references.tolist()


def test_other_metrics_are_computed_from_the_texts(tmp_path: Path) -> None:
    summary = sweep(
        write(tmp_path, group=np.arange(ROWS) // 3), "--metrics", "character_accuracy", "chrf", "exact_match"
    )
    assert list(summary["splits"]["test"]["stages"][0]["quality"]) == ["character_accuracy", "chrf", "exact_match"]


def test_sums_alone_give_the_same_curve(tmp_path: Path) -> None:
    sums = {
        f"stat_{name}_{stage}": values[:, index]
        for name, values in TABLE.statistics.items()
        if name.startswith("bleu")
        for index, stage in enumerate(("swift", "super"))
    }
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = sweep(write(tmp_path / "a"))
    alone = sweep(write(tmp_path / "b", ("text_swift", "text_super", "references"), **sums))
    assert alone["metrics"] == ["bleu"]
    for one, other in zip(whole["splits"]["test"]["points"], alone["splits"]["test"]["points"], strict=True):
        assert one["quality"] == other["quality"] and one["speedup"] == other["speedup"]


def test_texts_that_name_classes(tmp_path: Path) -> None:
    label = np.arange(ROWS) % 2
    words = np.array(["no", "yes"])
    swift = np.where(np.arange(ROWS) % 5 == 0, "maybe", words[label])
    path = write(tmp_path, ("references",), label=words[label], text_swift=swift, text_super=words[label])
    summary = sweep(path, "--label-names", "no", "yes")
    split = summary["splits"]["test"]
    assert [stage["quality"]["accuracy"] for stage in split["stages"]] == [0.8, 1.0]
    assert any(
        "`swift` wrote no label word in 48 of 240 rows, which count as wrong: 'maybe' 48" in r for r in split["remarks"]
    )


def test_routing_at_random_for_want_of_a_head_is_said() -> None:
    bare = dataclasses.replace(TABLE, scores={"random": TABLE.scores["energy"]})
    remark = next(written_answers(bare))
    assert remark.startswith(f"Rows are routed at random, as `{bare.stage_names[0]}` has no energy head: `dial fit")
    assert not any("at random" in remark for remark in written_answers(TABLE))


def test_texts_that_were_cut_off_are_counted(tmp_path: Path) -> None:
    summary = sweep(write(tmp_path, cut_off_swift=(np.arange(ROWS) < 7).astype(int)))
    assert "`swift` was cut off at its limit in 7 of 240 texts" in summary["splits"]["test"]["remarks"]


@pytest.mark.parametrize(
    ("drop", "more", "arguments", "message"),
    [
        (("references",), {}, [], r"`table` must have a column 'references' beside texts"),
        (("text_super",), {}, [], r"`table` must have a column 'text_super', as it has others"),
        (
            ("text_swift", "text_super", "references"),
            {},
            [],
            r"`table` must have a column 'output_<stage>', .* or 'text",
        ),
        ((), {"references": [None] * ROWS}, [], r"`references` must be one or several texts .* row 0 has None"),
        ((), {"references": np.arange(ROWS)}, [], r"`references` must be one or several texts .* row 0 has 0\."),
        ((), {}, ["--scores", "softmax"], r"`--scores` for text must be one of: random, sureness; but got 'softmax'"),
        ((), {}, ["--metrics", "accuracy"], r"`--metrics` for free text must be of: bleu, .* but got 'accuracy'"),
        ((), {"text_swift": [None] * ROWS}, [], r"`table` must have no missing values, but column 'text_swift'"),
        (
            ("references",),
            {"label": ["no", "yes"] * (ROWS // 2)},
            ["--label-names", "no", "yes", "--metrics", "bleu"],
            r"`--metrics` for classification of 2 classes must be of: .* but got 'bleu'. It compares free text",
        ),
        (
            ("text_swift", "text_super", "references"),
            {f"stat_bleu_length_{stage}": np.ones(ROWS) for stage in ("swift", "super")},
            ["--metrics", "bleu"],
            r"`--metrics` with bleu need a text for each stage",
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, drop: tuple, more: dict, arguments: list, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        sweep(write(tmp_path, drop, **more), *arguments)
    assert "\n" not in str(raised.value)
