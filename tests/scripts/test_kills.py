"""What the kills look for is found, and a few kills of each command."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from scripts import kills
from scripts import kills_checks as checks
from scripts.kills_commands import Command, Ended, Running, run

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"row": i, "prediction": i % 2, "stage": "swift", "score": 0.25 * i} for i in range(6)]


def write(out: Path, rows: list[dict], finished: bool = True, end: str = "") -> Path:
    """An output of `dial predict`, as lines, compressed lines or parts of two rows."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) + "\n" for row in rows]
    if out.suffix == ".gz":
        members = [gzip.compress("".join(lines[i : i + 2]).encode()) for i in range(0, len(lines), 2)]
        out.write_bytes(b"".join(members) + end.encode())
    elif out.suffix:
        out.write_text("".join(lines) + end)
    else:
        out.mkdir()
        for part in range(0, len(rows), 2):
            pq.write_table(pa.Table.from_pylist(rows[part : part + 2]), out / f"part-{part // 2:05d}.parquet")
    manifest = {"finished": finished, "rows": len(rows), "last_run": {"seconds": random.random()}}
    checks.manifest_of(out).write_text(json.dumps(manifest))
    return out


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows"])
def test_rows_lost_twice_or_too_early_finished(tmp_path, name) -> None:
    whole = write(tmp_path / "whole" / name, ROWS)

    def half(folder: str, rows: list[dict], finished: bool = False) -> str:
        return " ".join(checks.half_way(write(tmp_path / folder / name, rows, finished), whole))

    assert half("some", ROWS[:4]) == half("none", []) == half("all", ROWS, True) == ""
    assert "not the first ones" in half("lost", [ROWS[0], *ROWS[2:4]])
    assert "not the first ones" in half("twice", [*ROWS[:4], ROWS[3]])
    assert "not the first ones" in half("more", [*ROWS, {**ROWS[5], "row": 6}])
    assert "finished after 4 of 6" in half("early", ROWS[:4], True)
    out = write(tmp_path / "bare" / name, ROWS[:2])
    checks.manifest_of(out).unlink()
    assert "without" in " ".join(checks.half_way(out, whole))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows"])
def test_predictions_that_differ(tmp_path, name) -> None:
    whole = write(tmp_path / "whole" / name, ROWS)

    def different(folder: str, rows: list[dict], **more: object) -> str:
        return " ".join(checks.predictions_differ(write(tmp_path / folder / name, rows, **more), whole))

    def changed(**values: object) -> list[dict]:
        return [*ROWS[:3], {**ROWS[3], **values}, *ROWS[4:]]

    assert different("same", ROWS) == different("near", changed(score=0.75 + 9e-6)) == ""
    assert "1 rows differ, the first is 3" in different("far", changed(score=0.75 + 2e-5))
    assert "1 rows differ" in different("answer", changed(prediction=0))
    assert "1 rows lost, 0 twice" in different("lost", ROWS[:5])
    assert "0 rows lost, 1 twice" in different("twice", [*ROWS, ROWS[5]])
    assert "manifest differs" in different("unfinished", ROWS, finished=False)
    if name != "rows":
        assert "torn" in different("torn", ROWS, end='{"row": 6')


def test_torn_files_and_what_was_left_behind(tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    pq.write_table(pa.table({"x": [1, 2]}), folder / "b.parquet")
    save_file({"x": torch.ones(3)}, folder / "c.safetensors")
    torch.save({"state_dict": {"x": torch.ones(3)}}, folder / "d.ckpt")
    (folder / ".fit.lock").touch()
    (folder / "logs").mkdir()
    (folder / "logs/e.json").write_text("{")
    assert checks.torn_files(folder) == checks.torn_files(tmp_path / "none") == checks.crumbs(folder) == []
    whole = [path for path in sorted(folder.iterdir()) if path.suffix in checks.READERS]
    for path in whole:
        path.write_bytes(path.read_bytes()[:-1])
    assert [problem.split()[0] for problem in checks.torn_files(folder)] == [path.name for path in whole]
    (folder / ".a.0123.part.json").touch()
    assert checks.crumbs(folder) == [".a.0123.part.json was left behind"]


def test_results_that_differ(tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "tier").mkdir(parents=True)
        save_file({"x": torch.ones(3)}, tmp_path / name / "tier/model.safetensors")
        (tmp_path / name / "card.json").write_text(json.dumps({"seconds": random.random(), "rows": 3}))
    one, two = tmp_path / "one", tmp_path / "two"
    assert checks.differences(one, two) == []
    save_file({"x": torch.ones(3) + 1e-7}, one / "tier/model.safetensors")
    (one / "card.json").write_text('{"rows": 4}')
    (one / "more.csv").touch()
    (two / "less.csv").touch()
    assert checks.differences(one, two) == [
        "less.csv is missing", "more.csv is too much", "card.json differs", "tier/model.safetensors differs"
    ]  # fmt: skip


def test_how_a_killed_command_must_end() -> None:
    command = Command(("fit",), Path("run"), ("interrupted; go on",))

    def problems(code: int, output: str, name: str = "SIGTERM") -> str:
        return " ".join(kills.signal_problems(command, Ended(code, output, 1.0, True), name, kills.Counts()))

    assert problems(143, "step 3\ninterrupted; go on\n") == problems(-15, "") == problems(0, "done") == ""
    assert problems(-9, "step 3", "SIGKILL") == ""
    assert "exit code 2" in problems(2, "interrupted; go on\n")
    assert "it said []" in problems(143, "")
    assert "it said" in problems(143, "interrupted; go on\n" * 2)
    assert "traceback" in problems(143, "Traceback (most ...\ninterrupted; go on\n")
    assert "exit code 3 after SIGKILL" in problems(3, "", "SIGKILL")


def test_a_kill_that_comes_after_the_end_is_none(tmp_path, monkeypatch) -> None:
    script = tmp_path / "over.sh"
    looks: list[bool] = []

    def wait(self: Running, seconds: float) -> bool:
        """Say that it runs when first asked, although it has ended by then."""
        looks.append(os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT) is not None)
        return len(looks) > 1 and self.poll()

    monkeypatch.setattr(Running, "wait", wait)
    for code, killed in ((0, False), (3, True)):
        script.write_text(f"exit {code}\n")
        looks.clear()
        ended = run(Command((str(script),), tmp_path / "run", (), program=True), tmp_path, "SIGKILL")
        assert (ended.code, ended.killed) == (code, killed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_some_kills_of_each_command(tmp_path) -> None:
    """Of all but the demo, whose commands these are, and which takes as long as all of them together."""
    names = [name for name in kills.SHARES if name != "demo"]
    out = tmp_path / "kills.json"
    done = subprocess.run(
        [sys.executable, "scripts/kills.py", "--kills", "5", "--seed", "1", "--only", *names, "--out", str(out)],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    found = json.loads(out.read_text())["commands"]
    assert list(found) == names
    assert all(counts["kills"] >= 1 and not counts["failures"] for counts in found.values())
