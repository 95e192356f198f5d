"""The tables of backends, from what the benchmark and the studies leave; and the commands that leave it."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from dial.cli.main import main as dial
from scripts import speed_page as page


def contender(name: str, speedup: float, hand: bool = False, changed: float | None = 0.0) -> dict[str, Any]:
    return {
        "name": name, "ms": 30 / speedup, "wall_ms": 31 / speedup, "speedup": speedup, "by_hand": hand,
        "interval": [speedup - 0.5, speedup + 0.5], "rows": 8, "changed": changed, "at_least": 0.99,
    }  # fmt: skip


def run(batches: float, single: float) -> dict[str, Any]:
    def alone(ratio: float) -> dict[str, Any]:
        return {
            "chosen": "openvino bfloat16",
            "hand": "openvino bfloat16 by hand",
            "ratio": ratio,
            "interval": [1, 1.1],
        }

    kinds = {
        kind: [
            contender("padded", 1, changed=None),
            contender("openvino bfloat16", value - 2, changed=0.0011),
            contender("onnxruntime int8 by hand", value + 9, hand=True, changed=0.013),
            contender("cascade", value, changed=None),
        ]
        for kind, value in (("batches", batches), ("single", single))
    }
    return {
        **kinds, "batches_alone": alone(1.01), "single_alone": alone(1.2), "routes": ["swift is computed by torch"],
        "computed_by": {"batches": {"swift": "torch bfloat16", "super": "torch int8"}},
        "file_to_file": {"of_model_calls": {"wall": 0.8, "processor": 0.93}, "rows_per_second": 700.0, "rows": 100},
        "quality": {"kept": 0.995, "accuracy": 0.9, "shares": {"swift": 0.2, "super": 0.8}, "rows": 872},
    }  # fmt: skip


MACHINE = {"processor": "P", "threads": 1, "instructions": "AVX512", "torch": "T", "instruction_sets": ["avx512_bf16"]}
TARGETS = {"": {"batches": 25, "single": 10}, "CAP": {"batches": 15, "single": 6}}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    content = {
        "machine": MACHINE,
        "settings": {"turns": 7},
        "targets": TARGETS,
        "runs": {"": run(26, 9), "CAP": run(14, 7)},
    }
    (tmp_path / page.TARGETS).write_text(json.dumps(content))
    ratio = {"speedup": 2.0, "speedup_interval": [1.9, 2.1]}
    model = {
        "name": "super-int8", "backend": "torch", "dtype": "int8", "agrees": 0.96875,
        "single": {"mean": {"median": 12.34}, **ratio}, "batched": {"rows_per_second": {"median": 432.1}, **ratio},
    }  # fmt: skip
    for task, threads in (("base_mrpc", 2), ("sst2", 2), ("sst2", 1)):
        study = {"task": task.rpartition("_")[2], "machine": MACHINE | {"threads": threads}, "contenders": [model]}
        (tmp_path / task).mkdir(exist_ok=True)
        (tmp_path / task / f"rivals-{threads}.json").write_text(json.dumps(study | {"skipped": {"x": "no compiler"}}))
    return tmp_path


def test_targets_are_compared_with_what_was_measured(results: Path) -> None:
    text = page.tables(results, "data")["targets"]
    assert "| all | cascade | 1.15 | 26.0× [25.5, 26.5] | 3.33 | 9.0× [8.5, 9.5] | – |" in text
    assert "| CAP | onnxruntime int8 by hand | 1.30 | 23.0× [22.5, 23.5] | 1.88 | 16.0× [15.5, 16.5] | 1.30 |" in text
    assert "- all instructions, in batches: 26.0×, target 25×: met." in text
    assert "- all instructions, one row at a time: 9.0×, target 10×: missed." in text
    assert "- capped to CAP, in batches: 14.0×, target 15×: missed." in text
    assert "takes 1.010 [1.000, 1.100] of the time of openvino bfloat16 by hand, target 1.05: met." in text
    assert "takes 1.200 [1.000, 1.100] of the time of openvino bfloat16 by hand, target 1.05: missed." in text
    assert "93.0 % of the throughput of its model calls (700 rows/s from file to file), target 90 %: met." in text
    assert "99.5 % of the Super's quality is kept (swift 20 %, super 80 %)." in text
    assert (
        "- capped to CAP, in batches: the cascade's tiers are computed: swift by torch bfloat16, super by torch int8."
        in text
    )
    assert "P, 1 thread, torch T; avx512_bf16" in text


def test_rivals_come_task_by_task(results: Path) -> None:
    text = page.tables(results, "data")["rivals"]
    cells = "super-int8 | torch | int8 | 12.3 | 2.00× [1.90, 2.10] | 432 | 2.00× [1.90, 2.10] | 3.12 |"
    rows = [line for line in text.splitlines() if line.startswith("| sst2") or line.startswith("| mrpc")]
    assert rows == [f"| sst2 | 1 | {cells}", f"| sst2 | 2 | {cells}", f"| mrpc at base size | 2 | {cells}"]
    assert text.count("no compiler") == 1


def test_rivals_of_another_task_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "cola").mkdir()
    (tmp_path / "cola/rivals-1.json").write_text("{}")
    assert page.tables(tmp_path, "data").keys() == {"speed-commands"}


def test_nothing_is_written_of_what_was_not_measured(tmp_path: Path) -> None:
    assert page.tables(tmp_path, "data").keys() == {"speed-commands"}


def test_commands_are_read_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [shlex.split(line) for line in page.commands("../shared/data")]
    tests = [[word for word in line if not word.startswith("OMP_")] for line in lines if "dial" in line]
    assert len(tests) == 8
    with pytest.raises(SystemExit) as ended:  # it ends once the configuration is printed
        dial([*tests[2][1:], "--print_config"])
    printed = capsys.readouterr()
    assert not ended.value.code, printed.err
    assert "batch_size: 32" in printed.out and "compiled: true" in printed.out
