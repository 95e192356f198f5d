"""The checks of a GPU, on a CPU: one that fails, hangs or dies does not stop the others; packages may be missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts import gpu
from scripts.gpu_bench import CHECKS, halving_thresholds, largest_probability, stage_by_hand

ROOT = Path(__file__).resolve().parents[2]
TIMED = ("clocks wait for the device", "rows/s of a base-size encoder")  # whose times a busy machine changes
COMMANDS = ("the commands", "answers by spans", "written answers", "written answers in bf16")
FAKES = """
import os, sys, time
sys.path.insert(0, {root!r})
from scripts import gpu, gpu_bench
gpu_bench.CHECKS.clear()
gpu.SCRIPT = __file__

@gpu_bench.check("first")
def first(bench): return gpu_bench.Seen("one | two", figures={{"rate": 1.5}})
@gpu_bench.check("raises")
def raises(bench): raise RuntimeError("CUDA error: an illegal memory access")
@gpu_bench.check("dies")
def dies(bench): os._exit(7)
@gpu_bench.check("hangs")
def hangs(bench): time.sleep(600)
@gpu_bench.check("of a GPU", cuda=True)
def of_a_gpu(bench): raise AssertionError
@gpu_bench.check("of a package", packages=("no_such_package",))
def of_a_package(bench): raise AssertionError
@gpu_bench.check("is wrong")
def is_wrong(bench): return gpu_bench.Seen("3 rows otherwise", False)
@gpu_bench.check("last")
def last(bench): return gpu_bench.Seen("all well")

raise SystemExit(gpu.main())
"""


def run(script: Path, *arguments: str, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, cwd=ROOT, env=environment
    )


def test_without_a_gpu_it_says_so_and_leaves(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("No GPU") and said.count("\n") == 1 and not (tmp_path / "gpu.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_check_does_not_stop_the_others(tmp_path) -> None:
    script = tmp_path / "fakes.py"
    script.write_text(FAKES.format(root=str(ROOT)))
    done = run(script, "--device", "cpu", "--out", str(tmp_path / "gpu.json"), "--limit", "100")
    content = json.loads((tmp_path / "gpu.json").read_text())
    results = {row["name"]: (row["result"], row["seen"]) for row in content["checks"]}
    assert done.returncode == 1, done.stderr
    assert list(results) == [
        "first", "raises", "dies", "hangs", "of a GPU", "of a package", "is wrong", "last"
    ]  # fmt: skip
    assert results["first"] == ("pass", "one | two") and content["checks"][0]["figures"] == {"rate": 1.5}
    assert results["raises"] == ("FAIL", "RuntimeError: CUDA error: an illegal memory access")
    assert results["dies"][0] == "FAIL" and "ended with 7" in results["dies"][1]
    assert results["hangs"] == ("FAIL", "took more than 30 s")
    assert results["of a GPU"] == ("skipped", "needs CUDA")
    assert results["of a package"] == ("left out", "needs no_such_package, which is not installed")
    assert results["is wrong"] == ("FAIL", "3 rows otherwise") and results["last"] == ("pass", "all well")
    assert content["failed"] == ["raises", "dies", "hangs", "is wrong"]
    assert "| first | one / two | pass |" in done.stdout and "4 of 8 checks failed" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_all_checks_on_a_cpu_without_the_small_packages(tmp_path) -> None:
    shutil.copy(Path(__file__).with_name("hide_packages.py"), tmp_path / "sitecustomize.py")
    out = tmp_path / "gpu.json"
    script, path = ROOT / "scripts/gpu.py", f"{tmp_path}{os.pathsep}{ROOT}"
    names = [name for name in CHECKS if name not in TIMED]
    done = run(script, "--device", "cpu", "--out", str(out), "--limit", "2000", "--only", *names, path=path)
    content = json.loads(out.read_text())
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert [content["versions"][name] for name in ("datasets", "fvcore", "jsonargparse")] == ["none"] * 3
    results = {row["name"]: row["result"] for row in content["checks"]}
    assert list(results) == names
    without_cuda = {name for name, check in CHECKS.items() if check.cuda}
    assert without_cuda == {"out of memory halves the batch", "peak memory", "sharded weights"}
    expected = {name: "skipped" if name in without_cuda else "pass" for name in names}
    assert results == {**expected, **dict.fromkeys(COMMANDS, "left out")}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_on_a_cpu(tmp_path, name) -> None:
    options = ("--device", "cpu", "--only", name, "--limit", "2000", "--out", str(tmp_path / "gpu.json"))
    done = run(ROOT / "scripts/gpu.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert json.loads((tmp_path / "gpu.json").read_text())["checks"][0]["result"] == "pass"


def test_thresholds_halve_the_rows_that_are_left() -> None:
    scores = np.random.default_rng(0).random((64, 4))
    thresholds = halving_thresholds(scores)
    stages = [stage_by_hand(row, thresholds) for row in scores]
    assert [stages.count(stage) for stage in range(4)] == [32, 16, 8, 8]
    assert largest_probability(np.array([[0.0, 0.0], [np.log(3.0), 0.0]])).tolist() == pytest.approx([0.5, 0.75])
