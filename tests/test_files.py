import errno
import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.scratch import MACHINE
from dial.files import atomic_write, read_json, write_json


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "curve.csv"
    with atomic_write(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename across file systems is not atomic
        assert temporary.suffix == ".csv"
        temporary.write_text("whole")
    assert [path.name for path in target.parent.iterdir()] == ["curve.csv"]
    assert target.read_text() == "whole"


@pytest.mark.parametrize("earlier", [None, "earlier results"])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path, earlier: str | None) -> None:
    target = tmp_path / "summary.json"
    if earlier:
        target.write_text(earlier)
    with pytest.raises(OSError, match="No space left"), atomic_write(target) as temporary:  # noqa: PT012
        temporary.write_text("half of it")
        full_disk()
    assert [path.read_text() for path in tmp_path.iterdir()] == ([earlier] if earlier else [])


def test_a_disk_that_turns_out_full_at_fsync_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "summary.json"
    write_json(target, {"run": 1})
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_json(target, {"run": 2})
    assert json.loads(target.read_text()) == {"run": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_json_holds_numpy_values_and_infinities(tmp_path: Path) -> None:
    content = {
        "t": np.array([-np.inf, 0.25, np.inf]),
        "n": np.int64(3),
        "none": np.float32("nan"),
        "path": Path("a/b"),
        1: (True, "ä"),
    }
    write_json(tmp_path / "x.json", content)
    loaded = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert [float(value) for value in loaded["t"]] == [-np.inf, 0.25, np.inf]
    assert (loaded["n"], loaded["none"], loaded["path"], loaded["1"]) == (3, None, "a/b", [True, "ä"])


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"module": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == 1


@pytest.mark.parametrize(("content", "message"), [('{"a": ', r"is damaged: .*Remove it"), ("[1]", r"holds list")])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"ä": np.float64(0.5)})
    assert read_json(path, "runs") == {"ä": 0.5}
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"`runs` must lead to .* but .*summary.json {message}"):
        read_json(path, "runs")


def test_a_writer_removes_what_killed_ones_left_in_the_folder(tmp_path: Path) -> None:
    left = tmp_path / f".curve.{MACHINE}{'0a' * 4}.part.csv"
    for name in (left.name, ".curve.csv", "curve.part.csv", ".curve.0a.part.csv"):
        (tmp_path / name).touch()
    write_json(tmp_path / "summary.json", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".curve.0a.part.csv",
        ".curve.csv",
        "curve.part.csv",
        "summary.json",
    ]
