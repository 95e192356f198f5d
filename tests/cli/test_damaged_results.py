"""Damaged or odd results, tables and numbers: one line that names the file, or the option as it is typed."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from dial.cli.main import main
from dial.cli.record_files import Parts
from dial.files import atomic_write
from dial.inference.classifier import AdaptiveClassifier
from dial.report.runs import read_run
from tests.inference.run_folder import make_run
from tests.tiers import small

ODD = ["{}", "[]", "3", "null", '"x"', '{"a"', '{"schema": 1, "splits": {}, "stages": [], "metrics": []}']
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tiers = [small.plain_tier("swift"), small.plain_tier("super", 2, words=12)]
    return make_run(tmp_path_factory.mktemp("run"), tiers, rows=120)


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Path:
    """A copy of the run to be damaged."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Function that runs a command and gives the one line of its refusal."""
    (tmp_path / "in.txt").write_text("good film\nbad film\n")

    def call(command: str, place: object, *more: str) -> str:
        places = [str(place), str(tmp_path / "in.txt")] if command == "predict" else [str(place)]
        out = tmp_path / ("out.jsonl" if command == "predict" else "out")
        fast = ["--bootstrap", "100"] if command == "sweep" and "--bootstrap" not in more else []
        assert main([command, *places, "--out", str(out), *fast, *more]) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert not out.exists()
        return line

    return call


@pytest.mark.parametrize("content", ODD)
def test_odd_json_is_named(run: Path, damaged: Path, tmp_path: Path, refused: Refused, content: str) -> None:
    (tmp_path / "odd.json").write_text(content)
    assert (
        "`--point`" in (line := refused("predict", run, "--point", str(tmp_path / "odd.json"))) and "odd.json" in line
    )
    table = run / "sweep" / "stages.parquet"
    line = refused("sweep", table, "--times", str(tmp_path / "odd.json"))
    assert "`--times`" in line and "odd.json" in line
    (damaged / "sweep" / "summary.json").write_text(content)
    for command in ("predict", "compare"):
        assert "summary.json" in refused(command, damaged)


class Chosen(Exception):  # noqa: N818
    """The point is chosen: models would be loaded now."""


def parts_of(value: Any, path: tuple[Any, ...] = (), depth: int = 4) -> Iterator[tuple[Any, ...]]:
    """Paths to the entries of a nested value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, each in inside if depth else ():
        yield (*path, key)
        yield from parts_of(each, (*path, key), depth - 1)


@pytest.mark.parametrize("wrong", ["absent", None, 3, "x", [], {}], ids=str)
def test_any_entry_of_a_summary_may_be_wrong(damaged: Path, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either it is not needed, or one line names the file: never a traceback."""

    def stop(*given: Any) -> None:
        raise Chosen

    monkeypatch.setattr("dial.inference.run.load_network", stop)
    file = damaged / "sweep" / "summary.json"
    whole, lines = json.loads(file.read_text()), set()
    for path in parts_of(whole):
        content = copy.deepcopy(whole)
        node = content
        for key in path[:-1]:
            node = node[key]
        if wrong == "absent":
            del node[path[-1]]
        else:
            node[path[-1]] = wrong
        file.write_text(json.dumps(content))
        for attempt in (lambda: AdaptiveClassifier.from_run(damaged, 0.98), lambda: read_run(damaged)):
            with contextlib.suppress(Chosen):
                try:
                    attempt()
                except ValueError as error:
                    lines.add(str(error))
    assert lines and all(line.startswith("`") and "\n" not in line for line in lines)


@pytest.mark.parametrize("kind", ["cut", "garbled", "empty", "magic", "text"])
def test_a_damaged_parquet_file_is_named(damaged: Path, refused: Refused, kind: str) -> None:
    for name, commands in {"stages.parquet": ("predict", "sweep", "compare"), "curve.parquet": ("compare",)}.items():
        file = damaged / "sweep" / name
        whole = file.read_bytes()
        bad = whole[:100] + b"\xff" * 500 + whole[600:]
        contents = {"cut": whole[: len(whole) // 2], "garbled": bad, "empty": b"", "magic": b"PAR1\0\0PAR1"}
        file.write_bytes(contents.get(kind, b"hello"))
        for command in commands:
            assert str(file) in refused(command, file if command == "sweep" else damaged)
        file.write_bytes(whole)


METADATA: dict[str, Any] = {
    "schema": "x", "stages": [{"a": 1}], "scores": ["nope"], "metrics": 3, "label_names": None, "statistics": ["nope"],
    "settings": {"temperatures": 3, "tiers": 4},
}  # fmt: skip


@pytest.mark.parametrize(
    "odd", [*METADATA, "{}", "[]", "{", "\xff", "no stages", "settings []", "ranges", "temperature"]
)
def test_odd_metadata_of_a_table_is_named(damaged: Path, tmp_path: Path, refused: Refused, odd: str) -> None:
    table = pq.read_table(damaged / "sweep" / "stages.parquet")
    about = json.loads(table.schema.metadata[b"dial"])
    changed = {
        "no stages": {"stages": []},
        "settings []": {"settings": []},
        "ranges": {"settings": about["settings"] | {"ranges": [1]}},
        "temperature": {"settings": about["settings"] | {"temperatures": {"swift": "x"}}},
    }.get(odd, {odd: METADATA.get(odd)})
    content = json.dumps(about | changed).encode() if odd in METADATA or len(odd) > 2 else odd.encode("latin-1")
    pq.write_table(table.replace_schema_metadata({b"dial": content}), tmp_path / "odd.parquet")
    assert "odd.parquet" in refused("sweep", tmp_path / "odd.parquet")


@pytest.mark.parametrize("foreign", [True, False])
def test_a_table_without_rows_is_named(damaged: Path, refused: Refused, foreign: bool) -> None:
    file = damaged / "sweep" / "stages.parquet"
    none = pq.read_table(file).slice(0, 0)
    pq.write_table(none.replace_schema_metadata({}) if foreign else none, file)
    assert f"at least one row, but '{file}' has none" in refused(
        "sweep", file, *(["--costs", "own"] if foreign else [])
    )
    if not foreign:
        assert f"{file} has none" in refused("predict", damaged, "--target", "0.97")


@pytest.mark.parametrize(
    "options",
    [
        ("--targets", "2"), ("--targets", "-inf"), ("--targets", "-1e3"), ("--budgets", "-5"), ("--budgets", "nan"),
        ("--confidence", "2"), ("--folds", "1"), ("--bootstrap", "-1"), ("--seed", "-1"), ("--patience", "0"),
        ("--tolerance", "-1"), ("--metrics", "foo"), ("--scores", "foo"), ("--range", "a", "1", "0"),
        ("--label-names", "a"), ("--costs", "own"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_of_a_sweep_are_named_as_typed(run: Path, refused: Refused, options: tuple[str, ...]) -> None:
    assert f"`{options[0]}`" in refused("sweep", run / "sweep" / "stages.parquet", *options)


@pytest.mark.parametrize(
    "options",
    [
        ("--threshold", "nan"), ("--threshold", "0.5", "0.6", "0.7", "--score", "softmax"), ("--target", "-0.5"),
        ("--target", "-inf"), ("--target", "nan"), ("--budget", "-3"), ("--ms", "-inf"), ("--ms", "3"),
        ("--reading", "foo"), ("--split", "foo"), ("--tiers", "swift=/no"), ("--tiers", "x=/no"),
        ("--batch-size", "foo=3"), ("--max-pending", "0"), ("--max-lost-lines", "-1"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_of_a_prediction_are_named_as_typed(run: Path, refused: Refused, options: tuple[str, ...]) -> None:
    assert f"`{options[0]}" in refused("predict", run, *options)


@pytest.mark.parametrize("value", ["-inf", "-Infinity", "-1e3", "-.5", "inf"])
def test_a_negative_threshold_is_no_option(run: Path, tmp_path: Path, value: str) -> None:
    (tmp_path / "in.txt").write_text("good film\nbad film\n")
    arguments = ["predict", str(run), str(tmp_path / "in.txt"), "--out", str(tmp_path / "out.jsonl")]
    assert main([*arguments, "--score", "softmax", "--threshold", value]) == 0
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert {float(t) for t in manifest["point"]["decision"]["thresholds"]} == {float(value)}


def test_what_would_act_on_a_terminal_is_escaped(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.csv").write_text("a\x1b[31mred,b\x07\nx,y\n")
    assert main(["predict", str(run), str(tmp_path / "in.csv"), "--out", str(tmp_path / "o.jsonl")]) == 2
    assert main(["predict\x1b[31m"]) == 2
    error = capsys.readouterr().err
    assert r"a\x1b[31mred, b\x07" in error and "\x1b" not in error and "\x07" not in error


def test_an_error_names_the_file_and_not_its_scratch(tmp_path: Path) -> None:
    target = tmp_path / "no" / "a.csv"

    def write() -> None:
        with atomic_write(target) as scratch:
            shutil.rmtree(target.parent)
            scratch.write_text("x")

    with pytest.raises(FileNotFoundError) as caught:
        write()
    assert str(caught.value.filename) == str(target) and ".part" not in str(caught.value)


@pytest.mark.parametrize("command", ["sweep", "compare", "predict"])
def test_an_output_below_a_file_is_refused_at_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "file").write_text("mine\n")
    place = {"sweep": [str(run / "sweep" / "stages.parquet")], "predict": [str(run), str(tmp_path / "in.txt")]}
    (tmp_path / "in.txt").write_text("good\n")
    for out in ("file/deep/out.jsonl", "file/out"):
        arguments = [*place.get(command, [str(run)]), "--out", str(tmp_path / out)]
        assert main([command, *arguments]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"`--out` must lie in a folder, but {tmp_path / 'file'} is a file" in error


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    output = Parts(tmp_path / "out", {}, part_rows=2)
    output.write([{"row": row, "stage": "a", "macs": 1.0, "reference_macs": 1.0} for row in range(4)])
    output.close()
    part = tmp_path / "out" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"`--out` .* but .*part-00001.parquet"):
        Parts(tmp_path / "out", {}, part_rows=2)
