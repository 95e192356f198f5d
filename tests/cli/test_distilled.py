"""A Classifier with a teacher, as commands and configurations had it before Distillation was a class of its own."""

from pathlib import Path

import pytest
import yaml

from dial.cli.distilled import ARGUMENTS, renamed, with_distillation

DUMPED = {"teacher": None, "distillation": None, "distillation_weight": 0.5, "distillation_temperature": 2.0}


def config(folder: Path, name: str = "Classifier", **arguments: object) -> str:
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump({"model": {"class_path": name, "init_args": arguments}, "seed_everything": 1}))
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        ["fit", "--model=Classifier", "--model.teacher=a/tier"],
        ["fit", "--model", "Classifier", "--model.init_args.teacher", "a/tier"],
        ["fit", "--model.class_path=Classifier", "--model.distillation=logits_mse"],
    ],
)
def test_typed(command: list[str]) -> None:
    assert with_distillation(command) == [part.replace("Classifier", "Distillation") for part in command]


@pytest.mark.parametrize(
    "command",
    [
        ["fit", "--model=Classifier", "--model.path=a"],
        ["fit", "--model=MultiExit", "--model.teacher=a/tier"],
        ["fit", "--model=Distillation", "--model.teacher=a/tier"],
        ["test", "--model=Classifier", "--model.teacher=null"],
    ],
)
def test_what_needs_no_other_name_stays_as_it_is(command: list[str]) -> None:
    assert with_distillation(command) == command


def test_a_teacher_that_is_typed_behind_a_file(tmp_path: Path) -> None:
    path = config(tmp_path, path="b", warmup=0.2)
    new, teacher = with_distillation(["fit", "--config", path, "--model.teacher=a/tier"])[2:]
    assert teacher == "--model.teacher=a/tier"
    assert yaml.safe_load(new) == {
        "model": {"class_path": "Distillation", "init_args": {"path": "b", "warmup": 0.2}},
        "seed_everything": 1,
    }


def test_a_dumped_configuration_without_a_teacher_is_a_classifier_s(tmp_path: Path) -> None:
    path = config(tmp_path, "lightning_modules.classifier.Classifier", path="b", **DUMPED)
    (new,) = with_distillation(["fit", f"--config={path}"])[1:]
    model = yaml.safe_load(new.removeprefix("--config="))["model"]
    assert model == {"class_path": "lightning_modules.classifier.Classifier", "init_args": {"path": "b"}}


def test_a_dumped_configuration_with_a_teacher(tmp_path: Path) -> None:
    path = config(tmp_path, "lightning_modules.classifier.Classifier", path="b", **{**DUMPED, "teacher": "a/tier"})
    (new,) = with_distillation(["fit", f"--config={path}"])[1:]
    model = yaml.safe_load(new.removeprefix("--config="))["model"]
    assert model["class_path"] == "lightning_modules.distillation.Distillation"
    assert model["init_args"] == {
        "path": "b",
        "teacher": "a/tier",
        "distillation_weight": 0.5,
        "distillation_temperature": 2.0,
    }


def test_hyperparameters_of_an_older_checkpoint() -> None:
    old = {"class_path": "lightning_modules.classifier.Classifier", "init_args": {"path": "b", **DUMPED}}
    assert renamed(old, taught=False)["init_args"] == {"path": "b"}
    taught = {**old, "init_args": {**old["init_args"], "teacher": "a/tier"}}
    assert renamed(taught, taught=True)["class_path"] == "lightning_modules.distillation.Distillation"
    assert not set(renamed(taught, taught=False)["init_args"]) & set(ARGUMENTS)  # tested without its teacher


def test_a_command_of_before_fits_with_its_teacher(dial, fit_arguments, make_tiny_bert, tmp_path: Path) -> None:
    """`configs/model/finetune.yaml` names a Classifier."""
    teacher = make_tiny_bert(layers=2, labels=("negative", "positive"), seed=3)
    run = f"--run={tmp_path}/run"
    dial(*fit_arguments, f"--model.teacher={teacher}", "--trainer.max_steps=2", run).ok()
    known = yaml.safe_load((tmp_path / "run/config-fit.yaml").read_text())["model"]
    assert known["class_path"].endswith("Distillation") and known["init_args"]["teacher"] == str(teacher)
