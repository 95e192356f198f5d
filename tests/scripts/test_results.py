"""The plan of `make results`: what it runs, in which order, and that it goes on where it stopped."""

import dataclasses
import os
import re
from pathlib import Path

import pytest
import torch

from scripts import results
from scripts.results_plan import plan
from scripts.results_steps import ARITHMETIC, ROOT, Derived, due, goals

TABLES = 64  # 3 + 12 + 1 + 4 of SST-2, 6 + 6 + 1 each of CoLA, MRPC and RTE, 4 more of MRPC, 1 of STS-B
# 4 + 2 of SST-2 and MRPC, 4 of CoLA and RTE, 6 of Multi30k, 2 of WMT16 and phonemes
WRITTEN, WITHOUT_CALIBRATION = 6 + 4 + 6 + 4 + 6 + 2 + 2, 5
# With a base-size Super: first tiers of three seeds of RTE, CoLA and MRPC, of one of QNLI and SST-2; three tiers and
# DeeBERT; students; an exit in a number; COST-EFF, small rivals, and what is left out of it on MRPC.
BASE = 3 * (4 + 4 + 7) + 4 + 7 + 2 * 2 + 2 * 6 + 1 + 2 * 5 + 3
SPANS, LENGTHS = 3, 3 + 3  # of SQuAD; of SST-2 and MRPC
TABLES += WRITTEN + WITHOUT_CALIBRATION + BASE + SPANS + LENGTHS
SWEEPS = 2 * TABLES - WITHOUT_CALIBRATION


def test_every_input_of_a_step_is_made_by_an_earlier_one() -> None:
    made: set[str] = set()
    for step in plan("data", "models"):
        used = set(re.findall(r"runs/results/[\w/-]*?/tier\b", " ".join(step.command)))
        assert used <= made, f"{step.name} needs {used - made}"
        if step.result.endswith("tier/card.json"):
            made.add(step.result.removesuffix("/card.json"))


def test_every_sweep_reads_a_table_that_an_earlier_step_keeps() -> None:
    steps = list(plan("data", "models"))
    kept: set[str] = set()
    for step in steps:
        if isinstance(step, Derived) and step.command[1] == "sweep":
            assert step.command[2] in kept and step.sources == (step.command[2],)
        kept |= {step.result} if re.fullmatch(r"results/.*\.parquet", step.result) else set()
    assert len(kept) == TABLES
    assert {f"{run}/summary.json" for s in steps if s.name.endswith("/compare") for run in s.command[2:9]} <= {
        step.result for step in steps if isinstance(step, Derived)
    }


def test_results_and_run_folders_are_not_shared() -> None:
    steps = list(plan("data", "models"))
    assert len({step.result for step in steps}) == len(steps) == len({step.name for step in steps})
    written = [step for step in steps if step.command[0] == "dial" and step.command[1] not in ("lengths", "augment")]
    runs = [step.command[-1] for step in written]
    assert len(set(runs)) == len(runs)
    assert all(step.result.startswith(f"{step.command[-1]}/") for step in written)


def test_plan_has_every_task_seed_and_first_tier() -> None:
    names = {step.name for step in plan("data", "models")}
    assert {"sst2/seed0/cascade-bilstm-distilled", "sst2/seed0/cascade-layers2", "sst2/times"} <= names
    for task in ("cola", "mrpc", "rte"):
        for seed in (0, 1, 2):
            assert {f"{task}/seed{seed}/cascade-{name}" for name in ("layers2", "layers2-distilled")} <= names
    assert not any(name.startswith("sst2/seed1") for name in names)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Every result of the plan, one file as old as the other, and the arithmetic older than all."""
    for step in plan("data", "models"):
        place = tmp_path / step.result
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
        os.utime(place, (1000, 1000))
    code = tmp_path / ARITHMETIC[0] / "metrics.py"
    code.parent.mkdir(parents=True)
    code.touch()
    os.utime(code, (900, 900))
    return tmp_path


def due_names(root: Path, only: str = "") -> list[str]:
    steps = list(plan("data", "models"))
    return [step.name for step in due(steps, goals(steps, only), root)]


def remove(root: Path, *kinds: str) -> None:
    """Remove the results of the steps whose name or result holds one of these."""
    for step in plan("data", "models"):
        if any(kind in step.name or kind in step.result for kind in kinds):
            (root / step.result).unlink(missing_ok=True)


def test_nothing_is_due_where_everything_is_there(made: Path) -> None:
    assert due_names(made) == due_names(made, "study") == due_names(made, "cola/seed0/super") == []


def test_a_clone_with_its_tables_only_sweeps_and_compares(made: Path) -> None:
    """`runs/` is not part of the repository; the figures are, and are made again from the new sweeps."""
    remove(made, "runs/", "times.json", "executor.json", "/kept")
    steps = {step.name: step for step in plan("data", "models")}
    names = due_names(made)
    assert {type(steps[name]) for name in names} == {Derived}
    assert sum(name.endswith("/crossfit") for name in names) == TABLES
    assert sum(name.endswith("/sweep") for name in names) == TABLES - WITHOUT_CALIBRATION
    assert sum(name.endswith("/compare") for name in names) == len(names) - SWEEPS == 4


def test_a_missing_table_trains_only_what_it_needs(made: Path) -> None:
    remove(made, "runs/results/cola", "results/cola/seed0-exits-costeff-4x.parquet")
    needed = ["super", "ta", "slender-4x", "costeff-4x", "exits-costeff-4x", "exits-costeff-4x/table"]
    names = [name for name in due_names(made) if not name.endswith(("/sweep", "/crossfit", "/compare"))]
    assert names == [f"cola/seed0/{name}" for name in needed]
    remove(made, "results/cola/seed2-cascade-layers2-distilled.parquet")
    needed = ["super", "layers2-distilled", "cascade-layers2-distilled", "cascade-layers2-distilled/table"]
    names = [name for name in due_names(made) if not name.endswith(("/sweep", "/crossfit", "/compare"))]
    assert [name for name in names if "seed2" in name] == [f"cola/seed2/{name}" for name in needed]


def test_a_change_of_tables_or_arithmetic_makes_sweeps_anew(made: Path) -> None:
    os.utime(made / "results/rte/seed0-exits-ta.parquet", (2000, 2000))
    again = ["exits-ta/sweep", "exits-ta/crossfit", "compare"]
    assert due_names(made) == [f"rte/seed0/{name}" for name in again]
    os.utime(made / ARITHMETIC[0] / "metrics.py", (3000, 3000))
    assert len(due_names(made)) == SWEEPS + 4


def test_what_is_measured_runs_only_when_it_is_asked_for(made: Path) -> None:
    remove(made, "/kept", "times.json", "executor.json")
    assert due_names(made) == due_names(made, "sst2") == []
    assert due_names(made, "sst2/seed0/study") == ["sst2/seed0/study/kept", "sst2/seed0/study-int8/kept"]
    assert due_names(made, "text_sst2/seed0/clock") == ["text_sst2/seed0/clock/kept"]
    assert due_names(made, "executor") == [f"{task}/seed0/executor" for task in ("sst2", "cola", "mrpc")]
    assert due_names(made, "rte/times") == ["rte/times"]
    remove(made, "runs/results/mrpc")
    tiers = ["super", "layers2-distilled", "deebert", "exits-deebert"]
    wanted = [*tiers, "study", "study/kept", "study-int8", "study-int8/kept"]
    assert due_names(made, "mrpc/seed0/study") == [f"mrpc/seed0/{name}" for name in wanted]


def test_a_fit_that_ran_out_of_time_is_not_done(made: Path) -> None:
    (made / "runs/results/rte/seed1/super/tier/card.json").write_text('{"finished": false}')
    assert due_names(made) == []
    remove(made, "results/rte/seed1-cascade-layers2.parquet", "rte/seed1/cascade-layers2/sweep")
    assert due_names(made)[0] == "rte/seed1/super"


def test_done_steps_are_skipped_and_a_failure_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.write_text('1'); sys.exit(int(sys.argv[2]))"
    steps = [
        results.Step(f"cola/{name}", name, ("python", "-c", write, name, code))
        for name, code in (("done", "0"), ("new", "0"), ("fails", "3"), ("never", "0"))
    ]
    monkeypatch.setattr(results, "ROOT", tmp_path)
    for name in ("plan", "encoder_plan"):
        monkeypatch.setattr(results, name, lambda data, models: steps)
    (tmp_path / "done").write_text("before")
    with pytest.raises(ValueError, match="cola/fails ended with code 3"):
        results.main([])
    assert (tmp_path / "done").read_text() == "before"
    assert (tmp_path / "new").read_text() == "1"
    assert not (tmp_path / "never").exists()


def test_tables_are_written_when_everything_is_done_and_left_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a part of the steps they would lose the rows of all others."""
    write = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.parent.mkdir(exist_ok=True); p.write_text('{}')"
    steps: list[results.Step] = [results.Step("cola/model", "model.json", ("python", "-c", write, "model.json"))]
    for name in ("cola/sweep", "rte/sweep"):
        result = f"{name.replace('/', '-')}/summary.json"
        steps.append(Derived(name, result, ("python", "-c", write, result, "model.json")))
    ran: list[str] = []
    run = results.run_step

    def record(step: results.Step, root: Path) -> None:
        ran.append(step.name)
        if step.name != "tables":
            run(step, root)

    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "run_step", record)
    for name in ("plan", "encoder_plan"):
        monkeypatch.setattr(results, name, lambda data, models: steps)
    results.main(["--only", "rte"])
    assert ran == ["cola/model", "rte/sweep"]
    assert "left as they were: the tables, as 1 other steps are not done, first cola/sweep" in capsys.readouterr().out
    (tmp_path / "rte-sweep/earlier.json").touch()
    results.main([])
    assert ran[2:] == ["cola/sweep", "tables"]
    os.utime(tmp_path / "rte-sweep/summary.json", (1000, 1000))
    steps[2] = dataclasses.replace(steps[2], sources=("model.json",))
    results.main([])
    assert ran[4:] == ["rte/sweep", "tables"]
    assert not (tmp_path / "rte-sweep/earlier.json").exists()  # nothing of an earlier sweep is left beside the new one
    results.main(["--list"])
    assert capsys.readouterr().out.count("done  ") == 3 and len(ran) == 6


def test_a_comparison_is_made_anew_beside_other_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    for name in ("compare.json", "compare.png", "compare.csv", "compare_exits.png", "times.json", "seed0-a.parquet"):
        (tmp_path / name).touch()
    results.clear(Derived("cola/compare", "compare.json", ("dial", "compare", "a", "--out", ".")))
    assert {file.name for file in tmp_path.iterdir()} == {"times.json", "seed0-a.parquet"}


def test_no_fit_depends_on_defaults() -> None:
    """The published numbers come of these rates and epochs, whatever a configuration chooses by itself."""
    fits = [step.command for step in plan("d", "m") if step.command[:2] == ("dial", "fit")]
    assert len(fits) > 50
    for command in fits:
        assert "--trainer.max_epochs" in command
        text = (ROOT / command[command.index("--config") + 1]).read_text()
        fixed = "--model.optimizer.init_args.lr" in command
        assert fixed or "lr: auto" not in text, command
        if "--model.optimizer" in command:
            assert command[command.index("--model.optimizer") + 1] == "torch.optim.AdamW"


def test_float32_where_bf16_would_take_many_times_as_long(monkeypatch, capsys) -> None:
    """Only what the commands say of precision changes."""

    def told(*arguments: str) -> list[str]:
        results.main(["--list", *arguments])
        return capsys.readouterr().out.splitlines()

    monkeypatch.setattr(results, "has_bf16", lambda: True)
    there = told()
    assert sum("--trainer.precision bf16-mixed" in line for line in there) > 100
    monkeypatch.setattr(results, "has_bf16", lambda: False)
    assert told("--precision", "bf16-mixed") == there
    here = there if torch.cuda.is_available() else [line.replace("bf16-mixed", "32-true") for line in there]
    assert told() == here
