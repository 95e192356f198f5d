"""`dial predict` that is interrupted, killed or out of disk: nothing is lost, nothing is written twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datamodules.scratch import MACHINE
from dial import AdaptiveClassifier
from dial.cli import predict
from dial.cli.record_files import JsonLines
from tests.cli.predict.conftest import Command, comparable, error_of, lines, unfinished, write_jsonl
from tests.conftest import ROOT
from tests.tiers import small


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
    (tmp_path / "parts" / f".part-00007.{MACHINE}01234567.part.parquet").write_text("half of a part")
    unfinished(tmp_path / "parts" / "_manifest.json")
    assert command(source, tmp_path / "parts", "--part-rows", "20") == 0
    after = {path.name: pq.read_table(path) for path in (tmp_path / "parts").iterdir() if path.suffix == ".parquet"}
    assert {name: table.drop(["score", "probability"]) for name, table in after.items()} == {
        name: table.drop(["score", "probability"]) for name, table in before.items()
    }


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

    def broken(classifier: Any, answer: Any, ids: Any) -> dict[str, Any]:
        if answer.id == row:
            raise kind("stop")
        return make(classifier, answer, ids)

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

    def broken(classifier: Any, answer: Any, ids: Any) -> dict[str, Any]:
        if answer.id == 33:
            raise KeyboardInterrupt
        return make(classifier, answer, ids)

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
