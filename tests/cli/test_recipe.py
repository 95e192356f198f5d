"""Recipes: what is run, what is skipped, what is refused; and COST-EFF's on the built-in data."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dial.cli import steps
from dial.cli.main import main
from dial.cli.recipe import Recipe
from dial.cli.steps import Step, pending
from tests.cli.conftest import ROOT

RECIPE = """
arguments:
  encoder:
  factor: 2
  data: [--data, demo]
  trainer: []
steps:
  - name: first
    result: "{run}/first/tier/card.json"
    command: dial fit --path {encoder} {data} --run {run}/first {trainer}
  - name: second
    result: "{run}/second/tier/card.json"
    command: >-
      dial fit --path={run}/first/tier --factor {factor} --policy '{class_path: X}' {data} --run {run}/second
  - name: third
    result: "{run}/third/table.json"
    command: dial test --tiers '[{run}/second/tier, other]' --run {run}/third
"""
STUB = """
import json, os, sys, time
words = sys.argv[1:]
run = words[words.index("--run") + 1]
with open(os.environ["STUB_LOG"], "a") as log:
    log.write(json.dumps(words) + "\\n")
place = os.environ.get("STUB_STOP", "") or "/"
if run.endswith(place):
    time.sleep(float(os.environ.get("STUB_SLEEP", "0")))
    sys.exit(int(os.environ.get("STUB_CODE", "3")))
folder = os.path.join(run, "tier") if words[0] == "fit" else run
os.makedirs(folder, exist_ok=True)
open(os.path.join(folder, "card.json" if words[0] == "fit" else "table.json"), "w").close()
"""

STUB_THAT_SAVES = """
import os, signal, sys, time
def save(*_):
    time.sleep(0.3)
    note("saved")
    sys.exit(143)
def note(word):
    with open(os.environ["STUB_LOG"], "a") as log:
        log.write(word + "\\n")
signal.signal(signal.SIGTERM, save)
note("begun")
time.sleep(60)
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Function that runs a recipe with a stand-in for `dial`; gives the exit code and the commands that it saw."""
    (tmp_path / "stub.py").write_text(STUB)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.setitem(steps.PROGRAMS, "dial", [sys.executable, "-S", str(tmp_path / "stub.py")])
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "log"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, list[list[str]]]:
        (tmp_path / "log").write_text("")
        code = main(["recipe", "recipe.yaml", *arguments])
        return code, [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]

    return run


COMMON = ("--encoder", "my model", "--run", "runs/x")


def test_steps_run_in_order_with_their_placeholders(recipe, capfd) -> None:
    code, seen = recipe(*COMMON, "--data.task=sst2", "--data.rows", "5", "--trainer.precision", "bf16-mixed")
    data = ["--data", "demo", "--data.task=sst2", "--data.rows", "5"]
    assert code == 0 and seen == [
        ["fit", "--path", "my model", *data, "--run", "runs/x/first", "--trainer.precision", "bf16-mixed"],
        [
            *("fit", "--path=runs/x/first/tier", "--factor", "2", "--policy", "{class_path: X}", *data),
            *("--run", "runs/x/second"),
        ],
        ["test", "--tiers", "[runs/x/second/tier, other]", "--run", "runs/x/third"],
    ]
    printed = [shlex.split(line[2:]) for line in capfd.readouterr().out.splitlines() if line.startswith("$ ")]
    assert [line[1:] for line in printed] == seen and {line[0] for line in printed} == {"dial"}


def test_finished_steps_are_skipped(recipe, capfd) -> None:
    recipe(*COMMON)
    assert recipe(*COMMON) == (0, [])
    assert "# first: done, see runs/x/first/tier/card.json" in capfd.readouterr().out
    assert recipe(*COMMON, "--list") == (0, [])
    assert "# third: done\n$ dial test" in capfd.readouterr().out


def test_a_failed_step_is_where_it_goes_on(recipe, monkeypatch, capfd) -> None:
    monkeypatch.setenv("STUB_STOP", "second")
    code, seen = recipe(*COMMON)
    assert code == 2 and len(seen) == 2
    assert "step second ended with code 3; started again, it goes on from here" in capfd.readouterr().err
    monkeypatch.setenv("STUB_CODE", "0")
    code, seen = recipe(*COMMON)
    assert code == 2 and len(seen) == 1
    assert "step second ended with code 0 and left no finished runs/x/second/tier/card.json" in capfd.readouterr().err
    monkeypatch.delenv("STUB_STOP")
    code, seen = recipe(*COMMON)
    assert code == 0 and [words[-1] for words in seen] == ["runs/x/second", "runs/x/third"]


def test_a_fit_that_ran_out_of_time_is_not_done(recipe, capfd) -> None:
    recipe(*COMMON)
    for step in ("second", "third"):
        Path(f"runs/x/{step}").rename(f"runs/x/{step}-elsewhere")
    Path("runs/x/first/tier/card.json").write_text('{"finished": false}')
    code, seen = recipe(*COMMON)  # the stand-in writes an empty card
    assert code == 0 and len(seen) == 3
    Path("runs/x/first/tier/card.json").write_text('{"finished": true}')
    assert recipe(*COMMON) == (0, [])


def test_what_was_made_by_hand_is_checked_by_its_command(recipe) -> None:
    """A result whose command is not known: the command says whether it is its own (here it just runs)."""
    recipe(*COMMON)
    Path("runs/x/recipe.json").unlink()
    assert len(recipe(*COMMON)[1]) == 3 and recipe(*COMMON) == (0, [])


def test_another_command_is_refused_before_anything_runs(recipe, capfd) -> None:
    recipe(*COMMON)
    Path("runs/x/third/table.json").unlink()
    for arguments in (("--list",), ()):
        assert recipe(*COMMON, "--factor", "3", *arguments) == (2, [])
        error = capfd.readouterr().err
        assert "holds step second of another command: it had --factor 2, now --factor 3" in error
        assert "remove runs/x/second" in error and len(error.splitlines()) == 1


def test_what_was_made_from_a_missing_step_is_refused(recipe, capfd) -> None:
    recipe(*COMMON)
    Path("runs/x/first/tier/card.json").unlink()
    assert recipe(*COMMON) == (2, [])
    error = capfd.readouterr().err
    assert "holds step second, which was made from step first" in error and "remove runs/x/second to" in error
    (Path("runs/x/second/tier/card.json")).unlink()  # begun, from what is no longer there
    assert recipe(*COMMON)[1] == []


def test_a_second_start_waits_for_the_first(recipe, monkeypatch, tmp_path, capfd) -> None:
    """Also where only the command lives on: the recipe that started it was killed."""
    monkeypatch.setenv("STUB_STOP", "second")
    monkeypatch.setenv("STUB_SLEEP", "20")
    code = (
        "import sys; from dial.cli import steps; from dial.cli.main import main\n"
        f"steps.PROGRAMS['dial'] = {steps.PROGRAMS['dial']!r}\n"
        f"main({['recipe', 'recipe.yaml', *COMMON]!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / "log").write_text("")
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=environment) as first:
        deadline = time.monotonic() + 60
        while (tmp_path / "log").read_text().count("\n") < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        first.kill()
        first.wait()
        try:
            assert recipe(*COMMON) == (2, [])
            assert "but one, or a command of it, is at work there" in capfd.readouterr().err
        finally:
            os.killpg(first.pid, signal.SIGKILL)
    monkeypatch.delenv("STUB_STOP")
    deadline = time.monotonic() + 10  # the lock goes with its last process
    while (done := recipe(*COMMON))[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [words[-1] for words in done[1]] == ["runs/x/second", "runs/x/third"]


def test_a_signal_ends_the_command_and_the_recipe(recipe, monkeypatch, tmp_path) -> None:
    """The command is told and waited for, so that a fit can save; left alone it would go on without the recipe."""
    (tmp_path / "stub.py").write_text(STUB_THAT_SAVES)
    code = (
        "import sys; from dial.cli import steps; from dial.cli.main import main\n"
        f"steps.PROGRAMS['dial'] = {steps.PROGRAMS['dial']!r}\n"
        f"sys.exit(main({['recipe', 'recipe.yaml', *COMMON]!r}))"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    errors = first.communicate(timeout=60)[1]
    assert first.returncode == 143
    assert errors.splitlines()[-1] == "interrupted; the same command goes on from there"
    assert (tmp_path / "log").read_text().split() == ["begun", "saved"]
    assert not (tmp_path / "runs/x/.recipe.lock").exists()


def test_paths_in_another_spelling_are_the_same_command(recipe, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    assert recipe("--encoder", "model", "--run", "runs/x")[0] == 0
    assert recipe("--encoder", f"{tmp_path}/model/", "--run", "./runs/x") == (0, [])
    (tmp_path / "other").mkdir()
    assert recipe("--encoder", "other", "--run", "runs/x") == (2, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--run", "a"), "`--encoder` must be given; recipe.yaml takes --run, --encoder, --factor (2), --data..., "),
        (("--encoder", "b"), "`--run` must be given"),
        (("--encoder",), "`--encoder` must be followed by its value, but got nothing"),
        (("--encoder", "--run", "a"), "`--encoder` must be followed by its value, but got --run"),
        ((*COMMON, "--model.path", "a"), "`--model.path` is no argument of recipe.yaml"),
        ((*COMMON, "word"), "`word` is no argument"),
    ],
)
def test_bad_arguments(recipe, capfd, arguments, message) -> None:
    assert recipe(*arguments) == (2, []) and message in capfd.readouterr().err
    assert not Path("runs").exists() and not Path("a").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: []", "`steps` of r.yaml must be a list of steps"),
        ("", "must hold `steps`"),
        ("a: [", "must be YAML"),
        ("steps: [{name: a, result: b}]", "Step 1 of r.yaml must have name, result, command"),
        ("steps: [{name: a, result: b, command: 3}]", "each a string"),
        ("steps: [{name: a, result: b, command: rm -r x}]", "must begin with dial, but got ['rm']"),
        ("steps: [{name: a, result: b, command: dial 'x}]", "cannot be split"),
        (
            "steps: [{name: a, result: b, command: dial x}, {name: a, result: c, command: dial y}]",
            "`name` of each step of r.yaml must be its own, but a comes twice",
        ),
        (
            'steps: [{name: a, result: b, command: "dial {enc} {run}"}]',
            "`command` of step a in r.yaml may have {run}, but has {enc}",
        ),
        ('steps: [{name: a, result: "{x}", command: dial x}]', "`result` of step a in r.yaml may have {run}"),
        (
            'arguments: {data: []}\nsteps: [{name: a, result: b, command: "dial --x={data}"}]',
            "must have {data}, several arguments, as a word of its own, not --x={data}",
        ),
        ('arguments: {data: []}\nsteps: [{name: a, result: "{data}", command: dial}]', "but has {data}"),
        ("arguments: {run: 1}\nsteps: [{name: a, result: b, command: dial x}]", "run, row, list, help are taken"),
    ],
)
def test_bad_files(tmp_path, monkeypatch, capsys, text, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(text)
    assert main(["recipe", "r.yaml", "--run", "a"]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not Path("a").exists()
    assert main(["recipe", "none.yaml"]) == 2 and "must be a file" in capsys.readouterr().err
    assert main(["recipe", "--run", "a"]) == 2 and "`RECIPE` must come first" in capsys.readouterr().err


def test_help_names_the_arguments_of_a_file(capsys) -> None:
    assert main(["recipe", "--help"]) == 0 and "usage: dial recipe RECIPE" in capsys.readouterr().out
    assert main(["recipe", "configs/recipe/cost_eff.yaml", "--help"]) == 0
    assert "--compression (8)" in capsys.readouterr().out


def test_similar_folders_are_told_apart() -> None:
    first = Step("a", "r/slender/tier/card.json", ("dial",))
    for word, used in (
        ("r/slender/tier", True),
        ("--x=r/slender/tier/", True),
        ("[a, r/slender/tier]", True),
        ("r/slender/tier-2", False),
        ("other-r/slender/tier", False),
        ("r/slender", False),
    ):
        assert Step("b", "c", ("dial", word)).uses(first) is used
    assert pending([first], {"a": "dial"}) == [first]


def test_the_shipped_recipe_names_files_that_exist() -> None:
    for path in sorted((ROOT / "configs/recipe").glob("*.yaml")):
        read = Recipe.read(str(path))
        values = {name: value or "x" for name, value in read.values.items()}
        for step in read.plan({**values, **read.groups, "run": "r"}):
            words = dict(zip(step.command, step.command[1:], strict=False))
            assert "--config" not in words or (ROOT / words["--config"]).is_file()
            assert step.result.startswith(words["--run"] + "/")


def test_cost_eff_passes_arguments_of_the_model_to_the_steps_that_distil() -> None:
    recipe = Recipe.read(str(ROOT / "configs/recipe/cost_eff.yaml"))
    given = ["--encoder", "e", "--run", "runs/x"]
    plain = recipe.plan(recipe.parse(given))
    changed = recipe.plan(recipe.parse([*given, "--model.distillation", "logits_mse"]))
    different = [new.name for old, new in zip(plain, changed, strict=True) if old.command != new.command]
    assert different == ["ta", "slenderise", "recover"]
    for old, new in zip(plain, changed, strict=True):
        words = [word for word in new.command if word not in ("--model.distillation", "logits_mse")]
        assert tuple(words) == old.command


@pytest.mark.slow
@pytest.mark.timeout(3000)  # a dozen commands, each of which imports everything
def test_cost_eff_from_end_to_end(tiny_bert, tmp_path) -> None:
    """Six steps on the built-in data; killed in the middle of the schedule it goes on, and it ends bit-equal."""
    rows = ("--data.train_rows=320", "--data.calibration_rows=60", "--data.test_rows=60", "--data.batch_size=8")
    epochs = [f"--{name}_epochs=1" for name in ("finetune", "ta", "slenderise", "recover")]
    quiet = ("--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false")
    arguments = [
        *("recipe", "configs/recipe/cost_eff.yaml", f"--encoder={tiny_bert}", "--compression=1.3", *epochs),
        *("--data", "GradedSentimentDataModule", *rows, "--trainer.accelerator=cpu", *quiet, "--sweep.bootstrap=100"),
    ]

    def dial(run: Path, kill: Path | None = None) -> str:
        command = [sys.executable, "-m", "dial", *arguments, f"--run={run}"]
        output = tmp_path / "output"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (
            output.open("w") as file,
            subprocess.Popen(
                command, cwd=ROOT, start_new_session=True, env=environment, stdout=file, stderr=subprocess.STDOUT
            ) as process,
        ):
            try:
                while process.poll() is None and not (kill and kill.exists()):
                    time.sleep(0.02)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == (0 if kill is None else -9), output.read_text()[-3000:]
        return output.read_text()

    whole = dial(tmp_path / "whole")
    assert whole.count("\n$ dial ") == 6
    card = json.loads((tmp_path / "whole/recover/tier/card.json").read_text())
    assert card["compression"]["factor"]["all"] >= 1.3
    assert (tmp_path / "whole/test/sweep/curve.csv").is_file()
    assert (tmp_path / "whole/cascade/sweep/curve.csv").is_file()
    for step in ("ta", "recover"):  # killed once in one step, and once in a later one
        dial(tmp_path / "parts", kill=tmp_path / f"parts/{step}/logs")
    again = dial(tmp_path / "parts")
    assert again.count("\n$ dial ") == 3 and again.count(": done, see ") == 3
    weights = [load_file(tmp_path / run / "recover/tier/model.safetensors") for run in ("whole", "parts")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert dial(tmp_path / "parts").count(": done, see ") == 6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tinybert_from_end_to_end(make_tiny_bert, tmp_path, monkeypatch, capfd) -> None:
    """Two phases and the cascade; the first leaves an encoder, which the second gives a head."""
    monkeypatch.chdir(ROOT)
    rows = ("--data.train_rows=320", "--data.calibration_rows=60", "--data.test_rows=60", "--data.batch_size=8")
    quiet = ("--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu")
    arguments = [
        *("recipe", "configs/recipe/tinybert.yaml", f"--teacher={make_tiny_bert(layers=4)}", "--transformer_epochs=1"),
        *(f"--student={make_tiny_bert(layers=2, seed=1)}", "--prediction_epochs=1", "--model.max_length=32"),
        *("--data", "GradedSentimentDataModule", *rows, *quiet, "--sweep.bootstrap=100", f"--run={tmp_path}/run"),
    ]
    assert main(arguments) == 0, capfd.readouterr().err
    kinds = [
        json.loads((tmp_path / f"run/{phase}/tier/config.json").read_text())["architectures"]
        for phase in ("transformer", "prediction")
    ]
    assert kinds == [["BertModel"], ["BertForSequenceClassification"]]
    assert (tmp_path / "run/cascade/sweep/summary.json").is_file()


def test_an_option_that_came_is_told_by_its_name() -> None:
    before = "dial fit --run x --data.seed 0 --run y"
    assert steps.difference(before, before.replace("--data", "--model.depths '[1]' --data")) == (
        "it had no --model.depths, now --model.depths '[1]'"
    )
    assert steps.difference(before, "dial fit --run x --run y") == "it had --data.seed 0, now no --data.seed"
    assert (
        steps.difference(before, "dial fit --data.seed=1 --run x --run y") == "it had --data.seed 0, now --data.seed 1"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "`--widths` must divide the 2 attention heads of a layer, but 0.25 of them are 0.5"),
        (("--widths", "[0.5, 1]"), "`--depths` must drop a layer where it is below 1, but 0.75 keeps all 2"),
        (("--widths", "[0.5, 1]", "--depths", "[0.5, 1]"), "`--swift` must divide the 2 attention heads"),
        (
            ("--widths", "[0.5]"),
            "`--widths` must be a list of shares that holds 1, such as '[0.5, 1.0]', but got [0.5]",
        ),
        (
            ("--model.depths", "[0.5, 1]"),
            "`--model.depths` must be left out, as every stage would get it; give `--depths`",
        ),
        (
            ("--widths", "[0.5, 1]", "--depths", "[1]", "--swift", "0.5", "--model.layers", "3"),
            "`layers` must be from 1 to 2",
        ),
    ],
)
def test_stages_of_dynabert_are_looked_at_before_the_first(
    make_tiny_bert, tmp_path, capsys, arguments, message
) -> None:
    teacher = str(make_tiny_bert(layers=2, num_attention_heads=2))
    words = ["recipe", str(ROOT / "configs/recipe/dynabert.yaml"), "--teacher", teacher, "--run", str(tmp_path / "x")]
    assert main([*words, *arguments, "--list"]) == 2 and message in capsys.readouterr().err


def test_each_stage_of_dynabert_has_its_own_depths(make_tiny_bert, tmp_path, capsys) -> None:
    teacher = str(make_tiny_bert(layers=2, num_attention_heads=2))
    words = ["recipe", str(ROOT / "configs/recipe/dynabert.yaml"), "--teacher", teacher, "--run", str(tmp_path / "x")]
    assert main([*words, "--widths", "[0.5, 1]", "--depths", "[0.5, 1]", "--swift", "0.5", "--list"]) == 0
    width, depth, _ = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert "--model.widths '[0.5, 1]'" in width and "--model.depths" not in width
    assert "--model.widths '[0.5, 1]' --model.depths '[0.5, 1]'" in depth
