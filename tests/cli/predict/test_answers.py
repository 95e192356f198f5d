"""`dial predict RUN INPUT`: its answers are the classifier's, in every format, from any point and in any batches."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dial import AdaptiveClassifier
from dial.cli.main import main
from dial.cli.record_files import JsonLines
from dial.tiers.loading import load_tier
from tests.cli.predict.conftest import Command, error_of, lines, write_jsonl
from tests.tiers import small


def test_writes_what_the_classifier_says_in_order(
    classifier: AdaptiveClassifier, command: Command, tmp_path: Path
) -> None:
    texts = small.texts(90, seed=3)
    out = tmp_path / "new" / "out.jsonl"
    assert command(write_jsonl(tmp_path / "in.jsonl", texts), out) == 0
    expected = classifier(texts)
    found = lines(out)
    assert [row["row"] for row in found] == list(range(90))
    assert [row["stage"] for row in found] == [p.stage for p in expected]
    assert len({row["stage"] for row in found}) == 3
    assert [row["prediction"] for row in found] == [p.label for p in expected]
    assert [row["label_name"] for row in found] == [p.label_name for p in expected]
    assert [row["macs"] for row in found] == pytest.approx([p.macs for p in expected])
    assert [row["probability"] for row in found] == pytest.approx([p.probability for p in expected], abs=1e-5)
    assert [row["score"] for row in found] == pytest.approx([p.score for p in expected], abs=1e-5)
    manifest = json.loads((tmp_path / "new" / "out.jsonl.manifest.json").read_text())
    assert manifest["finished"] and manifest["rows"] == 90
    assert manifest["shares"]["super"] == pytest.approx(sum(row["stage"] == "super" for row in found) / 90)
    total = sum(row["reference_macs"] for row in found) / sum(row["macs"] for row in found)
    assert manifest["speedup"] == pytest.approx(total)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "txt"])
def test_reads_every_format_and_pairs(command: Command, tmp_path: Path, suffix: str) -> None:
    texts = [text or "good" for text in small.texts(30)]
    path = tmp_path / f"in.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"text": texts, "other": texts[::-1]}), path)
    elif suffix == "txt":
        path.write_text("".join(f"{text}\n" for text in texts))
    else:
        mark = {"csv": ",", "tsv": "\t"}[suffix]
        pairs = zip(texts, texts[::-1], strict=True)
        path.write_text(f"text{mark}other\n" + "".join(f"{a}{mark}{b}\n" for a, b in pairs))
    plain = write_jsonl(tmp_path / "plain.jsonl", texts)
    assert command(plain, tmp_path / "a.jsonl") == command(path, tmp_path / "b.jsonl") == 0
    assert lines(tmp_path / "a.jsonl") == lines(tmp_path / "b.jsonl")
    if suffix != "txt":
        assert command(path, tmp_path / "c.jsonl", "--columns", "text", "other") == 0
        assert [row["macs"] for row in lines(tmp_path / "c.jsonl")] != [
            row["macs"] for row in lines(tmp_path / "a.jsonl")
        ]


def test_parquet_parts_hold_the_same(command: Command, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", small.texts(90))
    assert command(source, tmp_path / "out.jsonl") == 0
    assert command(source, tmp_path / "parts", "--part-rows", "40") == 0
    manifest = json.loads((tmp_path / "parts" / "_manifest.json").read_text())
    assert [part["rows"] for part in manifest["parts"]] == [40, 40, 10]
    rows = [row for part in manifest["parts"] for row in pq.read_table(tmp_path / "parts" / part["file"]).to_pylist()]
    assert rows == lines(tmp_path / "out.jsonl")
    assert pq.read_table(tmp_path / "parts").to_pylist() == rows  # as pandas reads a folder
    assert not [path for path in (tmp_path / "parts").iterdir() if path.name.startswith(".")]


def test_many_rows_left_out_one_after_the_other_take_no_time(tmp_path: Path) -> None:
    output = JsonLines(tmp_path / "out.jsonl", {})
    for row in range(20_000):
        output.skip({"row": row, "place": f"line {row + 1}", "problem": "is no JSON"})
    start = time.process_time()
    output.write([{"row": 20_000, "stage": "swift", "macs": None, "reference_macs": None}])
    assert time.process_time() - start < 2
    assert [line["row"] for line in lines(output.skipped)] == list(range(20_000))
    output.skip({"row": 20_001, "place": "line 20002", "problem": "is no JSON"})
    output.finish({})
    assert lines(output.skipped)[-1]["row"] == 20_001


def test_an_empty_input_gives_an_empty_output(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [])
    assert command(source, tmp_path / "out.jsonl") == command(source, tmp_path / "parts") == 0
    assert capsys.readouterr().out.count("the input has no rows") == 2
    assert (tmp_path / "out.jsonl").read_text() == ""
    assert json.loads((tmp_path / "parts" / "_manifest.json").read_text())["parts"] == []


def test_takes_the_point_of_an_earlier_prediction(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", small.texts(30))
    assert command(source, tmp_path / "a.jsonl") == 0
    manifest = tmp_path / "a.jsonl.manifest.json"
    assert command(source, tmp_path / "b.jsonl", rule=["--point", str(manifest)]) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    content = json.loads(manifest.read_text())
    content["point"]["tiers"]["super"] = "0" * 12
    manifest.write_text(json.dumps(content))
    code = command(source, tmp_path / "c.jsonl", rule=["--point", str(manifest)])
    assert "was chosen for a tier super with the fingerprint 000000000000" in error_of(code, capsys)
    assert not (tmp_path / "c.jsonl").exists()
    code = command(source, tmp_path / "c.jsonl", rule=["--point", str(source)])
    assert "`--point` must be a JSON file" in error_of(code, capsys)


def test_says_how_far_low_precision_depends_on_the_batch(
    run: Path, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", small.texts(20))
    assert command(source, tmp_path / "out.jsonl") == 0
    assert "between batches" not in capsys.readouterr().err
    point = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["point"]
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    path = moved / "sweep" / "summary.json"
    summary = json.loads(path.read_text())
    view = {"path": str(run.parent / "tiers" / "super"), "dtype": "bfloat16"}
    known = summary["table"]["tiers"]["super"]
    known["view"] = view
    known["fingerprint"] = point["tiers"]["super"] = load_tier(view, "super", small.CLASSES).fingerprint
    path.write_text(json.dumps(summary))
    (tmp_path / "point.json").write_text(json.dumps(point))
    arguments = ["--out", str(tmp_path / "low.jsonl"), "--point", str(tmp_path / "point.json")]
    assert main(["predict", str(moved), str(source), *arguments]) == 0
    assert "bfloat16: a score differs by up to" in capsys.readouterr().err
    assert json.loads((tmp_path / "low.jsonl.manifest.json").read_text())["epsilon"]["rows"] == 20


def test_batch_sizes_change_no_answer(command: Command, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", small.texts(40))
    for name, sizes in (("a", ["1"]), ("b", ["swift=7", "super=3"])):
        assert command(source, tmp_path / f"{name}.jsonl", "--batch-size", *sizes, "--max-pending", "9") == 0
    keys = ("row", "prediction", "stage", "macs")
    one, other = ([{k: row[k] for k in keys} for row in lines(tmp_path / f"{n}.jsonl")] for n in "ab")
    assert one == other
