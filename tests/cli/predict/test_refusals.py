"""What `dial predict` leaves alone, and what it refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dial.cli.main import main
from dial.cli.record_files import JsonLines
from tests.cli.predict.conftest import Command, error_of, lines, unfinished, write_jsonl
from tests.tiers import small


def test_a_folder_of_somebody_else_stays_as_it_is(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "an app"}')
    code = command(write_jsonl(tmp_path / "in.jsonl", ["good"]), folder)
    assert "must not exist yet" in error_of(code, capsys)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("manifest.json", '{"name": "an app"}')]


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
    assert "1 rows could not be read and were left out" in capsys.readouterr().out


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


def test_the_other_predict_is_still_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "run", "input", "--help"])
    assert ended.value.code == 0
    assert "dial predict RUN INPUT --out FILE.jsonl|FOLDER" in capsys.readouterr().out
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "RUN INPUT --out FILE" in text and "--model ... --data ..." in text
