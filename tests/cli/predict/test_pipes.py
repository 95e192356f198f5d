"""`dial predict` in a pipe: standard input and output, and files compressed by gzip."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import TextDataModule
from datamodules.row_files import HEAD, Stream
from datamodules.row_formats import open_rows, open_stream
from datamodules.sources import TextFile
from dial.cli import predict
from dial.cli.main import main
from dial.cli.record_files import CompressedJsonLines, members
from tests.conftest import ROOT
from tests.inference.run_folder import make_run
from tests.tiers import small

RULE = ["--score", "softmax", "--threshold", "0.4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tiers = [small.plain_tier("swift"), small.plain_tier("super", 2, words=12)]
    return make_run(tmp_path_factory.mktemp("run"), tiers, rows=60)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that puts bytes on standard input."""
    return lambda content: monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))


def command(run: Path, source: object, out: object, *more: str) -> int:
    return main(["predict", str(run), str(source), "--out", str(out), *RULE, *more])


def written(texts: list[str], suffix: str) -> bytes:
    if suffix == "jsonl":
        return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    header = {"csv": "text,n\n", "tsv": "text\tn\n", "txt": ""}[suffix]
    end = {"csv": ",1\n", "tsv": "\t1\n", "txt": "\n"}[suffix]
    return (header + "".join(f"{text}{end}" for text in texts)).encode()


def lines(content: str | bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without digits that depend on the batch."""
    return [{**row, **{key: round(row[key], 5) for key in ("score", "probability")}} for row in rows]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "txt"])
@pytest.mark.parametrize("named", [True, False])
def test_a_pipe_gives_what_a_file_gives(
    run: Path, tmp_path: Path, pipe: Any, capfdbinary: pytest.CaptureFixture[bytes], suffix: str, named: bool
) -> None:
    content = written([text or "good" for text in small.texts(50)], suffix)
    path = tmp_path / f"in.{suffix}"
    path.write_bytes(content)
    assert command(run, path, tmp_path / "a.jsonl") == 0
    expected = lines((tmp_path / "a.jsonl").read_bytes())
    zipped = tmp_path / f"in.{suffix.upper()}.gz"
    zipped.write_bytes(gzip.compress(content[:300]) + gzip.compress(content[300:]))
    assert command(run, zipped, tmp_path / "b.jsonl") == 0
    assert lines((tmp_path / "b.jsonl").read_bytes()) == expected
    capfdbinary.readouterr()
    more = ["--format", suffix] if named else []
    pipe(content)
    assert command(run, "-", "-", "--batch-size", "best", *more) == 0
    said = capfdbinary.readouterr()
    assert rounded(lines(said.out)) == rounded(expected)  # other batches
    assert b"50 predictions written to standard output" in said.err and b"rows/s" in said.err
    assert (b"standard input is read as" in said.err) == (not named)
    pipe(content)
    assert command(run, "-", tmp_path / "c.jsonl.gz", *more) == 0
    assert lines(gzip.decompress((tmp_path / "c.jsonl.gz").read_bytes())) == expected
    assert json.loads((tmp_path / "c.jsonl.gz.manifest.json").read_text())["rows"] == 50


def test_standard_input_cannot_be_read_again(
    run: Path, tmp_path: Path, pipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "a.jsonl", tmp_path / "parts"):
        pipe(b"good\n")
        assert command(run, "-", out) == 0
        pipe(b"good\n")
        assert command(run, "-", out) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "`--out` must be new where INPUT is standard input, which cannot be read again" in error
    pipe(b"")
    assert command(run, "-", "-") == 0  # no rows
    assert command(run, tmp_path / "a.txt", "-", "--format", "txt") == 2
    assert "`--format` is for standard input" in capsys.readouterr().err


def test_rows_that_are_no_text_are_said_on_standard_error(
    run: Path, pipe: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe(b'{"text": "good"}\n{"text": 1}\n{"text": "bad"}\n{"te\x1b[31m\n')
    assert command(run, "-", "-", "--on-error", "skip") == 0
    said = capfd.readouterr()
    assert [row["row"] for row in lines(said.out)] == [0, 2]
    assert "left out: line 2 must have a text" in said.err and "left out: line 4 is no JSON" in said.err
    assert "2 rows could not be read and were left out\n" in said.err and "\x1b" not in said.err


@pytest.mark.parametrize("cut", [0, 1, 9, 10**6])
def test_a_compressed_output_goes_on_after_any_cut(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes(written([text or "good" for text in small.texts(40)], "txt"))
    out = tmp_path / "out.jsonl.gz"
    assert command(run, source, tmp_path / "whole.jsonl") == 0
    monkeypatch.setattr(predict, "BATCH", 8)
    monkeypatch.setattr(CompressedJsonLines, "pause", -1.0)
    write = CompressedJsonLines.write

    def stopped(self: CompressedJsonLines, records: Any) -> None:
        if self.totals.rows >= 24:
            raise KeyboardInterrupt
        write(self, records)

    with monkeypatch.context() as patch:
        patch.setattr(CompressedJsonLines, "write", stopped)
        assert command(run, source, out) == 130
    monkeypatch.setattr(CompressedJsonLines, "pause", 10.0)
    content = out.read_bytes()
    ends = [0, *(end for _, end in members(out))]
    out.write_bytes(content[: max(0, ends[-1] - cut)])
    rows = sum(content.count(b"\n") for content, _ in members(out))
    assert rows <= 24 and (cut or rows == 24) and (cut < 10**6 or rows == 0)
    assert command(run, source, out) == 0
    expected = lines((tmp_path / "whole.jsonl").read_bytes())
    found = lines(gzip.decompress(out.read_bytes()))
    assert rounded(found) == rounded(expected)
    manifest = json.loads((tmp_path / "out.jsonl.gz.manifest.json").read_text())
    assert "resumed" not in json.loads((tmp_path / "whole.jsonl.manifest.json").read_text())
    assert manifest.get("resumed") == ({"after_rows": rows, "scores_equal_to": 1e-5} if rows else None)
    assert max(abs(a["score"] - b["score"]) for a, b in zip(found, expected, strict=True)) <= 1e-5


def test_what_is_no_gzip_is_refused_by_name(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = written([f"good film {i}" * 20 for i in range(3000)], "csv")
    whole = gzip.compress(texts)
    for name, content in {
        "plain": texts,
        "cut": whole[: len(whole) // 2],
        "bad": whole[:40] + b"\xff" * 40 + whole[80:],
    }.items():
        path = tmp_path / f"{name}.csv.gz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"`x`: .*{name}\.csv\.gz is damaged or not compressed by gzip"):
            list(open_rows(path, "x").rows(["text"]))
        assert command(run, path, tmp_path / f"{name}.jsonl") == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert f"{path} is damaged" in line
    (tmp_path / "a.csv").write_bytes(whole)
    with pytest.raises(ValueError, match=r"but .*a.csv is compressed by gzip. Name it a.csv.gz."):
        open_rows(tmp_path / "a.csv", "x")
    for name in ("a.parquet.gz", "a.gz", "a.zip.gz"):
        (tmp_path / name).write_bytes(whole)
        with pytest.raises(ValueError, match=r"must be a file ending in .* but got .*\.gz'"):
            open_rows(tmp_path / name, "x")


def test_a_stream_is_kept_only_as_long_as_it_is_read_again() -> None:
    source = io.BytesIO(b"".join(b"text %d\n" % i for i in range(400_000)))
    stream = Stream(source)
    file = TextFile("", stream=stream, stream_format=".txt")
    some = [row.unit for row, _ in zip(file.rows(), range(10), strict=False)]
    assert some == [f"text {i}" for i in range(10)]
    assert len(stream.kept) <= 2 * HEAD
    rows = file.rows(last=True)
    assert [next(rows).unit for _ in range(200_000)][-1] == "text 199999" and len(stream.kept) == 0
    assert sum(1 for _ in rows) == 200_000
    with pytest.raises(ValueError, match="standard input can be read once only"):
        next(file.rows())


def test_a_stream_gives_lines_as_they_come() -> None:
    """Nothing waits for the end of the stream."""
    read, write = os.pipe()
    with os.fdopen(write, "wb", buffering=0) as sender, os.fdopen(read, "rb") as source:
        sender.write(b"text\n")
        sender.write(b"one\n")
        rows = open_stream(Stream(source), "x", ".csv", []).rows(["text"])
        assert next(rows).values == ["one"]
        sender.write(b"two\n")
        assert next(rows).values == ["two"]


@pytest.mark.parametrize(
    ("first", "columns", "expected"),
    [
        ('{"text": 1}', [], "jsonl"),
        ("[", [], "jsonl"),
        ("id,text", [], "csv"),
        ('"a","b"', ["b"], "csv"),
        ("id\ttext", [], "tsv"),
        ("text", [], "csv"),
        ("a good, funny film", [], "text"),
        ("", [], "text"),
        ('"' + "x" * 200_000, [], "text"),
    ],
)
def test_the_format_of_a_stream(first: str, columns: list[str], expected: str) -> None:
    stream = Stream(io.BytesIO(first.encode() + b"\n"))
    if first == "[":
        with pytest.raises(ValueError, match="standard input begins with a JSON array"):
            open_stream(stream, "x", None, columns)
    else:
        assert open_stream(stream, "x", None, columns).format == expected


def test_a_reader_that_leaves_is_no_error() -> None:
    """`dial ... | head -0`: no traceback, no line, and the exit code of SIGPIPE."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "dial", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)


def test_a_reader_that_leaves_ends_a_prediction(
    run: Path, pipe: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(b"good film\n" * 2000)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as broken, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", types.SimpleNamespace(buffer=broken, flush=lambda: None, fileno=lambda: write))
        assert command(run, "-", "-") == 141
    assert "error" not in capsys.readouterr().err


SWALLOWED = 'text,n\n"good ""film""",1\n"never closed,2\n' + "".join(f"film {i},{i}\n" for i in range(20))


@pytest.mark.parametrize(
    ("content", "answered", "lost"),
    [
        (SWALLOWED, 1, 20),  # to the end of the file
        (SWALLOWED + 'dull,2\n"bad",3\ngood,4\n', 2, 22),  # the next quote ends it, with something behind
        ("text,n\ngood,1\n" + '"a\nb\n",1,2,3\n' * 8 + "bad,1\n", 2, 16),  # several of two lines more each
        ("text,n\ngood,1\n" + "bad\n" * 200, 1, 0),  # broken, but no lines are lost
    ],
)
def test_lines_behind_a_quote_that_is_not_closed_are_counted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, answered: int, lost: int
) -> None:
    path = tmp_path / "in.csv"
    path.write_text(content)
    out = tmp_path / "out.jsonl"
    if lost:
        assert command(run, path, out, "--on-error", "skip") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "lines are lost behind the first lines of broken rows" in error and "--max-lost-lines" in error
        assert command(run, path, out, "--on-error", "skip", "--max-lost-lines", str(lost - 1)) == 2
        assert f"{lost} lines are lost" in capsys.readouterr().err
    assert command(run, path, out, "--on-error", "skip", "--max-lost-lines", str(lost)) == 0
    assert len(lines(out.read_bytes())) == answered
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest.get("lost_lines", 0) == lost
    skipped = lines((tmp_path / "out.jsonl.skipped.jsonl").read_bytes())
    assert sum(row.get("lines", 1) - 1 for row in skipped) == lost
    assert (f"and {lost} lines behind their first ones" in capsys.readouterr().out) == bool(lost)


def test_lost_lines_count_on_after_an_interruption(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = '"a\nb\nc\nd",1,2,3\n'
    path = tmp_path / "in.csv"
    path.write_text("text,n\n" + broken * 3 + "good,1\n" * 30 + broken)
    monkeypatch.setattr(predict, "BATCH", 8)
    for _ in range(2):  # the second begins behind the first three
        assert command(run, path, tmp_path / "out.jsonl", "--on-error", "skip") == 2
        assert "12 lines are lost" in capsys.readouterr().err
    assert len(lines((tmp_path / "out.jsonl").read_bytes())) == 30


def test_a_fit_reads_compressed_files(tmp_path: Path) -> None:
    rows = [{"text": f"film {i}", "label": "ab"[i % 2]} for i in range(40)]
    path = tmp_path / "rows.JSON.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    data = TextDataModule(test_file=str(path), calibration="crossfit")
    assert data.rows("test").text == [row["text"] for row in rows] and data.task == "rows"
