"""The short help of the trainer's commands, and completion in shells."""

import re
import subprocess

import pytest
import yaml

from dial.cli.commands import COMMANDS, completion
from dial.cli.short_help import PAGES, options, page
from tests.cli.test_startup import modules_after

VALUES = {
    "fit": {
        "--data.train_file": "a.csv", "--data.test_file": "b.csv", "--data.text_column": "one",
        "--data.text_b_column": "two", "--data.label_column": "three", "--data.batch_size": 5, "--model.path": "p",
        "--model.layers": 2, "--model.teacher": "t", "--model.optimizer.init_args.lr": 0.25,
        "--trainer.max_epochs": 7, "--length.min_steps": 50, "--early_stopping.patience": 4, "--seed_everything": 11,
        "--run": "r",
        "--trainer.accelerator": "cpu", "--trainer.devices": "2", "--trainer.precision": "bf16-mixed",
    },
    "test": {
        "--data.task": "rte", "--data.source": ".", "--model.tiers": ["a", "b"], "--sweep.scores": ["energy"],
        "--sweep.targets": [0.5], "--study.rows": 9,
    },
}  # fmt: skip


@pytest.mark.parametrize("command", ["fit", "test"])
def test_the_options_of_a_page_are_options_of_the_command(dial, command: str) -> None:
    given = VALUES[command]
    classes = {"fit": ("Classifier", "TextDataModule"), "test": ("Cascade", "GLUEDataModule")}[command]
    words = [f"{option}={value}" for option, value in given.items()]  # a list of words is YAML, too
    config = yaml.safe_load(dial(command, *(f"--{g}={c}" for g, c in zip(("model", "data"), classes, strict=True)),
                                 *words, "--print_config").ok())  # fmt: skip
    for option, value in given.items():
        node = config
        for key in option.removeprefix("--").split("."):
            node = node["init_args"] if "init_args" in node and key != "init_args" else node
            node = node[key]
        assert node == value, option
    named = set(re.findall(r"--[a-z][\w.]*", page(command))) - {"--config", "--help", "--print_config"}
    named -= {"--model", "--data", "--model.help", "--data.help"}
    both = set(VALUES["fit"]) | set(VALUES["test"])
    assert named <= both and (set(given) & named)


@pytest.mark.parametrize("command", list(PAGES))
def test_a_page_is_short_and_quick(command: str) -> None:
    words = [command, "--model=Classifier", "--help"]  # bare, `predict --help` is that of the routed command
    code, text, imported = modules_after(*words)
    assert code == 0 and not imported
    assert text.strip() == page(command).strip() and len(text.splitlines()) < 40
    assert max(map(len, text.splitlines())) <= 140
    assert f"dial {command} --help=all" in text


def test_all_options_are_there_on_request(dial) -> None:
    text = dial("fit", "--help=all").ok()
    assert len(text.splitlines()) > 400 and "--slenderise.compression" in text and "--trainer.max_epochs" in text


def test_a_shell_completes_commands_and_options() -> None:
    code, script, imported = modules_after("--completion")
    assert code == 0 and "torch" not in imported and script.strip() == completion().strip()

    def complete(*words: str) -> list[str]:
        quoted = " ".join(words)
        line = f'{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _dial; echo "${{COMPREPLY[@]}}"'
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.split()

    assert complete("dial", "c") == ["calibrate", "compare"]
    assert complete("dial", "sweep", "--co") == ["--costs", "--confidence"]
    assert complete("dial", "fit", "--config", "x", "--trainer.m") == ["--trainer.max_epochs"]
    assert complete("dial", "predict", "--max") == ["--max-lost-lines", "--max-pending"]
    assert complete("dial", "bogus", "--") == []
    assert set(complete("dial", '""')) >= set(COMMANDS)
    assert options("test")[0] == "--config"
