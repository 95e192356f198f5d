"""`dial predict RUN INPUT`: what it writes, where it goes on after a crash, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dial import AdaptiveClassifier
from dial.cli import predict
from dial.cli.main import main
from dial.cli.record_files import JsonLines
from dial.stages.parquet import load_table
from dial.tiers.loading import load_tier
from tests.conftest import ROOT
from tests.inference.run_folder import make_run
from tests.tiers import small

Command = Callable[..., int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    base = small.plain_tier("base")
    tiers = [small.exits_tier("swift", base, (1, 2)), small.plain_tier("super", 2, words=12)]
    return make_run(tmp_path_factory.mktemp("run"), tiers, rows=60)


@pytest.fixture(scope="module")
def thresholds(run: Path) -> list[float]:
    """Half of the rows stop at each stage."""
    table = load_table(run / "sweep" / "stages.parquet")
    return [float(value) + 1e-4 for value in np.median(table.scores["softmax"][:, :-1], axis=0)]


@pytest.fixture
def classifier(run: Path, thresholds: list[float]) -> AdaptiveClassifier:
    return AdaptiveClassifier.from_run(run, threshold=thresholds, score="softmax")


@pytest.fixture(scope="module")
def by_threshold(thresholds: list[float]) -> list[str]:
    return ["--score", "softmax", "--threshold", *map(str, thresholds)]


@pytest.fixture
def command(run: Path, by_threshold: list[str]) -> Command:
    """Function that runs `dial predict RUN INPUT --out OUT` with thresholds, and gives the exit code."""

    def call(source: Path, out: Path, *more: str, rule: list[str] | None = None) -> int:
        return main(["predict", str(run), str(source), "--out", str(out), *(rule or by_threshold), *more])

    return call


def write_jsonl(path: Path, texts: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


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


@pytest.fixture
def done(command: Command, tmp_path: Path) -> tuple[Path, Path]:
    """An input whose rows 7, 20 and 59 are no text, and the finished output; rows 57 to 59 come after a skipped one."""
    texts: list[Any] = small.texts(60)
    for row in (7, 20, 56, 59):
        texts[row] = None
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    assert command(source, tmp_path / "done.jsonl", "--on-error", "skip") == 0
    return source, tmp_path / "done.jsonl"


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the last digits, in which other batches differ."""
    return [{k: round(value, 4) if isinstance(value, float) else value for k, value in row.items()} for row in rows]


def unfinished(manifest: Path) -> None:
    known = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({key: known[key] for key in ("schema", "settings")} | {"finished": False}))


@pytest.mark.parametrize("share", [0.0, 0.003, 0.2, 0.51, 0.77, 0.999, 1.0])
def test_goes_on_from_any_byte(
    done: tuple[Path, Path], command: Command, tmp_path: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    source, whole = done
    skipped = whole.with_name("done.jsonl.skipped.jsonl")
    assert [(row["row"], row["place"]) for row in lines(skipped)] == [
        *((7, "line 8"), (20, "line 21"), (56, "line 57"), (59, "line 60"))
    ]
    content, listed = whole.read_bytes(), skipped.read_bytes()
    whole.write_bytes(content[: int(share * len(content))])
    unfinished(whole.with_name("done.jsonl.manifest.json"))
    assert command(source, whole, "--on-error", "skip") == 0
    assert comparable(lines(whole)) == comparable([json.loads(line) for line in content.splitlines()])
    assert skipped.read_bytes() == listed
    if share == 0.51:
        assert f"going on after {content[: int(share * len(content))].count(10)} rows" in capsys.readouterr().err
    assert json.loads(whole.with_name("done.jsonl.manifest.json").read_text())["rows"] == 56


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_goes_on_after_any_part(command: Command, tmp_path: Path, kept: int) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", small.texts(50))
    assert command(source, tmp_path / "parts", "--part-rows", "20") == 0
    before = {path.name: pq.read_table(path) for path in (tmp_path / "parts").glob("part-*")}
    for path in sorted((tmp_path / "parts").glob("part-*"))[kept:]:
        path.unlink()
    (tmp_path / "parts" / ".part-00007.abc.part.parquet").write_text("half of a part")
    unfinished(tmp_path / "parts" / "_manifest.json")
    assert command(source, tmp_path / "parts", "--part-rows", "20") == 0
    after = {path.name: pq.read_table(path) for path in (tmp_path / "parts").iterdir() if path.suffix == ".parquet"}
    assert {name: table.drop(["score", "probability"]) for name, table in after.items()} == {
        name: table.drop(["score", "probability"]) for name, table in before.items()
    }


def test_a_folder_of_somebody_else_stays_as_it_is(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "an app"}')
    code = command(write_jsonl(tmp_path / "in.jsonl", ["good"]), folder)
    assert "must not exist yet" in error_of(code, capsys)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("manifest.json", '{"name": "an app"}')]


@pytest.fixture
def too_long(classifier: AdaptiveClassifier) -> Callable[[str, str], bool]:
    """Whether a text has more tokens than a tier reads."""
    tiers = {tier.name: tier for tier in classifier.network.tiers}

    def call(text: str, name: str) -> bool:
        return len(tiers[name].tokenizer(text)["input_ids"]) > tiers[name].max_length

    return call


@pytest.mark.parametrize("out", ["out.jsonl", "parts"])
def test_truncated_rows_are_counted(
    command: Command, tmp_path: Path, out: str, too_long: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """In each record, in the manifest, on the screen; and by a run that goes on after a crash."""
    texts = small.texts(60, seed=4)
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    parts = ("--part-rows", "20")

    def written() -> list[dict[str, Any]]:
        if out == "out.jsonl":
            return lines(tmp_path / out)
        return [row for path in sorted((tmp_path / out).glob("part-*")) for row in pq.read_table(path).to_pylist()]

    assert command(source, tmp_path / out, *parts, "--progress", "1e-9") == 0
    rows, said = written(), capsys.readouterr()
    by_tier = {"swift": 0, "super": 0}
    for text, row in zip(texts, rows, strict=True):
        read = ["swift", "super"] if row["stage"] == "super" else ["swift"]
        assert row["truncated"] == [name for name in read if too_long(text, name)]
        for name in row["truncated"]:
            by_tier[name] += 1
    count = sum(bool(row["truncated"]) for row in rows)
    assert 0 < by_tier["super"] < count < 60
    file = tmp_path / ("parts/_manifest.json" if out == "parts" else "out.jsonl.manifest.json")
    manifest = json.loads(file.read_text())
    assert manifest["truncated"] == count and manifest["truncated_by"] == by_tier
    line = f"{count} of 60 rows exceed the tokens that a tier reads and were truncated"
    assert f"{line} (swift {by_tier['swift']}, super {by_tier['super']})" in said.out
    if out == "out.jsonl":
        content = (tmp_path / out).read_bytes()
        (tmp_path / out).write_bytes(content[: len(content) // 2])
    else:
        (tmp_path / out / "part-00002.parquet").unlink()
    unfinished(file)
    assert command(source, tmp_path / out, *parts) == 0
    assert json.loads(file.read_text())["truncated_by"] == by_tier
    assert line in capsys.readouterr().out


def test_progress_and_python_tell_truncated_rows(
    classifier: AdaptiveClassifier, tmp_path: Path, too_long: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    short, long = "good plot", "good " * 40
    assert [bool(answer.truncated) for answer in classifier([short, long])] == [False, True]
    assert classifier(long)[0].truncated[0] == "swift" and too_long(long, "swift")
    output = JsonLines(tmp_path / "out.jsonl", {})
    output.write([{"row": 0, "stage": "swift", "macs": 1.0, "reference_macs": 2.0, "truncated": ["swift"]}])
    progress = predict.Progress(1e-9, output)
    progress()
    assert "2.00x fewer MACs, 1 truncated" in capsys.readouterr().err
    output.close()


def test_a_run_goes_on_with_records_that_do_not_tell_truncated_rows(command: Command, tmp_path: Path) -> None:
    """As an earlier version wrote them."""
    source = write_jsonl(tmp_path / "in.jsonl", ["good"] * 9 + ["good " * 40])
    for out, manifest in (("out.jsonl", "out.jsonl.manifest.json"), ("parts", "parts/_manifest.json")):
        assert command(source, tmp_path / out, "--part-rows", "5") == 0
        if out == "parts":
            part = tmp_path / "parts/part-00000.parquet"
            pq.write_table(pq.read_table(part).drop(["truncated"]), part)
            (tmp_path / "parts/part-00001.parquet").unlink()
        else:
            kept = [{k: v for k, v in row.items() if k != "truncated"} for row in lines(tmp_path / out)[:5]]
            (tmp_path / out).write_text("".join(json.dumps(row) + "\n" for row in kept))
        unfinished(tmp_path / manifest)
        assert command(source, tmp_path / out, "--part-rows", "5") == 0
        found = json.loads((tmp_path / manifest).read_text())
        assert found["rows"] == 10 and found["truncated"] == 1


@pytest.mark.parametrize("row", [0, 1, 37, 59])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_keeps_what_was_answered_when_it_ends_early(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    row: int,
    kind: type[BaseException],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", small.texts(60))
    make = predict.record

    def broken(classifier: Any, answer: Any) -> dict[str, Any]:
        if answer.id == row:
            raise kind("stop")
        return make(classifier, answer)

    with monkeypatch.context() as patch:
        patch.setattr(predict, "record", broken)
        code = command(source, tmp_path / "out.jsonl")
    assert code == (130 if kind is KeyboardInterrupt else 2)
    assert len(lines(tmp_path / "out.jsonl")) == row
    if kind is KeyboardInterrupt:
        message = capsys.readouterr().err
        assert f"{row} rows are done" in message and "interrupted; the same command goes on from there" in message
    assert command(source, tmp_path / "out.jsonl") == 0
    assert [line["row"] for line in lines(tmp_path / "out.jsonl")] == list(range(60))


@pytest.mark.parametrize("out", ["out.jsonl", "parts"])
def test_rows_left_out_are_on_disk_before_the_rows_after_them(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    texts: list[Any] = small.texts(60)
    for row in (7, 20, 59):
        texts[row] = None
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    make = predict.record

    def broken(classifier: Any, answer: Any) -> dict[str, Any]:
        if answer.id == 33:
            raise KeyboardInterrupt
        return make(classifier, answer)

    monkeypatch.setattr(predict, "BATCH", 4)
    with monkeypatch.context() as patch:
        patch.setattr(predict, "record", broken)
        assert command(source, tmp_path / out, "--on-error", "skip", "--part-rows", "10") == 130
    skipped = tmp_path / ("out.jsonl.skipped.jsonl" if out == "out.jsonl" else "parts/_skipped.jsonl")
    assert [row["row"] for row in lines(skipped)] == [7, 20]
    assert command(source, tmp_path / out, "--on-error", "skip", "--part-rows", "10") == 0
    assert [row["row"] for row in lines(skipped)] == [7, 20, 59]


def test_an_interrupt_while_writing_waits_until_it_is_done(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", small.texts(60))
    write = JsonLines.write
    monkeypatch.setattr(predict, "BATCH", 16)

    def interrupted(self: JsonLines, records: Any) -> None:
        if self.totals.rows == 16:
            signal.raise_signal(signal.SIGINT)
        write(self, records)

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "write", interrupted)
        assert command(source, tmp_path / "out.jsonl") == 130
    assert [line["row"] for line in lines(tmp_path / "out.jsonl")] == list(range(32))
    assert command(source, tmp_path / "out.jsonl") == 0
    assert [line["row"] for line in lines(tmp_path / "out.jsonl")] == list(range(60))


def test_a_full_disk_loses_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", small.texts(60))
    monkeypatch.setattr(predict, "BATCH", 16)
    write = JsonLines.write

    def full(self: JsonLines, records: Any) -> None:
        if self.totals.rows < 32:
            write(self, records)
        elif not self._failed:
            self._failed = True
            assert self._file is not None
            self._file.write(b'{"row": 32, "predic')
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "write", full)
        assert command(source, tmp_path / "out.jsonl") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert command(source, tmp_path / "out.jsonl") == 0
    assert [line["row"] for line in lines(tmp_path / "out.jsonl")] == list(range(60))


def test_a_finished_output_is_left_alone(
    done: tuple[Path, Path], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    source, whole = done
    before = whole.stat().st_mtime_ns
    assert command(source, whole, "--on-error", "skip") == 0
    assert "holds the finished predictions of this command" in capsys.readouterr().out
    assert whole.stat().st_mtime_ns == before


@pytest.mark.parametrize("finished", [True, False])
def test_an_output_that_was_removed_is_written_again(
    finished: bool, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the messages ask for: the manifest beside a file that is gone keeps nobody from predicting."""
    source = write_jsonl(tmp_path / "in.jsonl", ["good", None, *small.texts(8)])
    out = tmp_path / "out.jsonl"
    assert command(source, out, "--on-error", "skip") == 0
    before = out.read_bytes()
    if not finished:
        unfinished(out.with_name("out.jsonl.manifest.json"))
    out.unlink()
    assert command(source, out, "--on-error", "skip") == 0
    assert out.read_bytes() == before
    assert [line["row"] for line in lines(out.with_name("out.jsonl.skipped.jsonl"))] == [1]
    out.unlink()
    other = write_jsonl(tmp_path / "other.jsonl", ["good"])
    assert command(other, out) == 0
    assert len(lines(out)) == 1


def test_a_part_that_could_not_be_written_at_once_holds_no_row_twice(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", small.texts(60))
    monkeypatch.setattr(predict, "BATCH", 16)
    write, failures = pq.write_table, [OSError(28, "No space left on device")]

    def once(*args: Any, **settings: Any) -> None:
        if failures:
            raise failures.pop()
        write(*args, **settings)

    monkeypatch.setattr(pq, "write_table", once)
    assert "No space left" in error_of(command(source, tmp_path / "out", "--part-rows", "16"), capsys)
    assert command(source, tmp_path / "out", "--part-rows", "16") == 0
    parts = [pq.read_table(path)["row"].to_pylist() for path in sorted((tmp_path / "out").glob("part-*.parquet"))]
    assert [row for part in parts for row in part] == list(range(60))


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


def error_of(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dial predict: error:")]
    return line


def test_refuses_an_output_that_is_not_its_own(
    done: tuple[Path, Path], command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, whole = done
    content = whole.read_bytes()
    other = write_jsonl(tmp_path / "other.jsonl", ["good"])
    assert "another input or rule: input.content was" in error_of(command(other, whole), capsys)
    code = command(source, whole, "--on-error", "skip", rule=["--threshold", "0.8", "--score", "softmax"])
    assert "another input or rule: rule.rule was 'per_stage' and is 'threshold'" in error_of(code, capsys)
    assert whole.read_bytes() == content
    taken = tmp_path / "taken.jsonl"
    taken.write_text("mine")
    assert "must not exist yet, but" in error_of(command(source, taken), capsys)
    assert taken.read_text() == "mine"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "note").write_text("mine")
    assert "must not exist yet, but" in error_of(command(source, folder), capsys)
    assert "must be a file ending in .jsonl, or a folder" in error_of(command(source, tmp_path / "out.csv"), capsys)


def test_refuses_an_output_that_was_changed(
    done: tuple[Path, Path], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    source, whole = done
    rows = whole.read_bytes().splitlines(keepends=True)
    unfinished(whole.with_name("done.jsonl.manifest.json"))
    for changed in ([*rows[:5], b"{\n", *rows[6:]], [*rows[:5], rows[3], *rows[5:]]):
        whole.write_bytes(b"".join(changed))
        assert "line 6, is no record of `dial predict`" in error_of(command(source, whole), capsys)
        assert whole.read_bytes() == b"".join(changed)


def test_one_process_writes_an_output(
    command: Command, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", small.texts(5))
    out = tmp_path / "out.jsonl"
    assert command(source, out) == 0
    manifest = json.loads(out.with_name("out.jsonl.manifest.json").read_text())
    unfinished(out.with_name("out.jsonl.manifest.json"))
    other = JsonLines(out, manifest["settings"])
    try:
        assert "is being written by another `dial predict`" in error_of(command(source, out), capsys)
    finally:
        other.close()
    assert command(source, out) == 0


def test_a_row_that_is_no_text_is_named_after_the_rows_before_it(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "good"}\n{"text": "bad"}\n{"text": \n{"text": "fine"}\n')
    message = error_of(command(path, tmp_path / "out.jsonl"), capsys)
    assert "line 3: is no JSON: Expecting value" in message and "--on-error skip" in message
    assert [row["row"] for row in lines(tmp_path / "out.jsonl")] == [0, 1]
    assert command(path, tmp_path / "out.jsonl", "--on-error", "skip") == 0
    assert [row["row"] for row in lines(tmp_path / "out.jsonl")] == [0, 1, 3]
    assert "1 rows are no text and were left out" in capsys.readouterr().out


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


@pytest.mark.parametrize("arguments", [["predict"], ["predict", "--help"], ["predict", "-h"]])
def test_help_is_that_of_the_routed_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if len(arguments) == 1:
        assert "the following arguments are required: RUN, INPUT, --out" in error_of(main(arguments), capsys)
        return
    with pytest.raises(SystemExit) as end:
        main(arguments)
    shown = capsys.readouterr().out
    assert end.value.code == 0 and "dial predict RUN INPUT --out" in shown and "--on-error" in shown
    assert "arguments of `dial validate`" in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "x"], "`--batch-size` must be N, NAME=N or best, but got x"),
        (["--batch-size", "4", "swift=2"], "`--batch-size` must be one value, or NAME=VALUE for each tier"),
        (["--batch-size", "supper=2"], "`--batch-size` allows the tiers swift, super, but got supper"),
        (["--tiers", "x"], "`--tiers` must be NAME=FOLDER, but got 'x'"),
        (["--columns", "title"], "`--columns` must name the column of the text"),
        (["--max-pending", "0"], "`--max-pending` must be 1 or more, but got 0"),
        (["--device", "gpu"], "`--device` must be auto, cpu, or a GPU of this machine"),
        (["--device", "cuda:99"], "such as cuda:1, but got 'cuda:99'"),
        (["--device", "meta"], "`--device` must be auto, cpu, or a GPU of this machine"),
        (["--nonsense"], "unrecognized arguments: --nonsense; see `dial predict RUN INPUT --help`"),
        (["--target", "0.9", "--point", "p.json"], "`--point` must be a JSON file"),
        (["--budget", "cheap"], "`--budget` must be MACs such as 2e9, or FLOPs"),
    ],
)
def test_bad_arguments_end_in_one_line(
    command: Command, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["good"])
    rule = more if "--budget" in more else None
    assert message in error_of(command(source, tmp_path / "out.jsonl", *([] if rule else more), rule=rule), capsys)
    assert not (tmp_path / "out.jsonl").exists()


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


def test_the_other_predict_is_still_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "run", "input", "--help"])
    assert ended.value.code == 0
    assert "dial predict RUN INPUT --out FILE.jsonl|FOLDER" in capsys.readouterr().out
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "RUN INPUT --out FILE" in text and "--model ... --data ..." in text


@pytest.mark.slow
@pytest.mark.timeout(900)  # it starts the command four times
@pytest.mark.parametrize("out", ["out.jsonl", "parts"])
def test_a_command_that_is_killed_again_and_again_loses_and_repeats_nothing(
    run: Path, classifier: AdaptiveClassifier, by_threshold: list[str], tmp_path: Path, out: str
) -> None:
    texts: list[Any] = small.texts(3000)
    texts[700] = texts[2999] = None
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    program = [sys.executable, "-m", "dial", "predict", str(run), str(source), "--out", str(tmp_path / out)]
    program += [*by_threshold, "--on-error", "skip", "--part-rows", "150", "--batch-size", "4", "--max-pending", "64"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def progress() -> int:
        place = tmp_path / out
        return sum(path.stat().st_size for path in ([place] if place.is_file() else place.glob("part-*")))

    for _ in range(3):
        before, process = progress() if (tmp_path / out).exists() else 0, subprocess.Popen(program, env=environment)
        while process.poll() is None and (not (tmp_path / out).exists() or progress() <= before):
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the input is too short for this machine"
    subprocess.run(program, env=environment, check=True)
    if out == "parts":
        rows = [row for path in sorted((tmp_path / out).glob("part-*")) for row in pq.read_table(path).to_pylist()]
        skipped = lines(tmp_path / out / "_skipped.jsonl")
    else:
        rows, skipped = lines(tmp_path / out), lines(tmp_path / "out.jsonl.skipped.jsonl")
    assert [row["row"] for row in rows] == [i for i in range(3000) if texts[i] is not None]
    assert [row["row"] for row in skipped] == [700, 2999]
    expected = classifier([text for text in texts if text is not None])
    assert [row["prediction"] for row in rows] == [p.label for p in expected]
    shutil.rmtree(tmp_path / "parts", ignore_errors=True)
