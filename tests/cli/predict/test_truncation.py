"""Rows with more tokens than a tier reads: told in records, manifests and on the screen, and counted once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dial import AdaptiveClassifier
from dial.cli import predict
from dial.cli.record_files import JsonLines
from tests.cli.predict.conftest import Command, lines, unfinished, write_jsonl
from tests.tiers import small


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
