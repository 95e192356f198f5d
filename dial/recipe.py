"""`dial recipe`: procedures of several steps, each a plain `dial` command, that go on where they stopped."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.adaptive.files import write_json

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
DONE = "recipe.json"  # in the run folder: the command of every step that is done
Values = Mapping[str, str | list[str]]


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: what the step is called.
        result: file that the step leaves when it is done.
        command: program (`dial` or `python`) and arguments.
    """

    name: str
    result: str
    command: tuple[str, ...]

    def __str__(self) -> str:
        """As it can be pasted into a shell."""
        return shlex.join(self.command)

    def uses(self, other: Step) -> bool:
        """Whether the command names the folder that the other step's result lies in, or a part of it."""
        folder = str(Path(other.result).parent)
        return any(re.search(rf"(^|[\s=\[,'\"]){re.escape(folder)}(/|$|[\s\],'\"])", word) for word in self.command)


def run_step(step: Step, root: Path | None = None) -> None:
    """Print a step's command and run it with this interpreter.

    Args:
        step: what to run.
        root: folder to run it in; None: the present one.

    Raises:
        ValueError: the command failed or left no result.
    """
    programs = {"dial": [sys.executable, "-m", "dial"], "python": [sys.executable]}
    print(f"\n# {step.name}\n$ {step}", flush=True)
    start = time.monotonic()
    code = subprocess.run([*programs[step.command[0]], *step.command[1:]], cwd=root, check=False, close_fds=False).returncode
    if code or not ((root or Path()) / step.result).is_file():
        left = "" if code else f" and left no {step.result}"
        raise ValueError(f"step {step.name} ended with code {code}{left}; the same command goes on from here.")
    print(f"# {step.name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


@dataclass(frozen=True)
class Recipe:
    """A procedure as its file describes it.

    Attributes:
        path: of the file.
        values: placeholders that stand for one value, with their defaults; None must be given.
        groups: placeholders that stand for several arguments, with those that are always among them.
        steps: mappings of `name`, `result` and `command`, with placeholders.
    """

    path: str
    values: dict[str, str | None] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    steps: tuple[dict[str, str], ...] = ()

    @classmethod
    def read(cls, path: str) -> Recipe:
        """Read a file.

        Raises:
            ValueError: it is no recipe; says what is wrong.
        """
        if not Path(path).is_file():
            raise ValueError(f"`RECIPE` must be a file, such as configs/recipe/cost_eff.yaml, but got {path}.")
        try:
            content = yaml.safe_load(Path(path).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"`RECIPE` {path} must be YAML: {error}") from error
        if not isinstance(content, dict) or set(content) - {"arguments", "steps"} or not content.get("steps"):
            raise ValueError(f"`RECIPE` {path} must hold `steps`, and `arguments` where they have placeholders.")
        arguments, steps = content.get("arguments") or {}, content["steps"]
        if not isinstance(arguments, dict) or {"run", "list", "help"} & set(arguments):
            raise ValueError(f"`arguments` of {path} must map names to defaults; run, list and help are taken.")
        if not isinstance(steps, list):
            raise ValueError(f"`steps` of {path} must be a list of `name`, `result` and `command`.")
        groups = {name: [str(word) for word in value] for name, value in arguments.items() if isinstance(value, list)}
        values = {name: None if v is None else str(v) for name, v in arguments.items() if name not in groups}
        recipe = cls(path, values, groups, tuple(steps))
        recipe._check_steps()
        return recipe

    def _check_steps(self) -> None:
        names: list[str] = []
        for number, step in enumerate(self.steps, 1):
            keys = ("name", "result", "command")
            if not isinstance(step, dict) or set(step) != set(keys) or not all(isinstance(step[k], str) for k in keys):
                raise ValueError(f"Step {number} of {self.path} must have `name`, `result` and `command`, as strings.")
            names.append(step["name"])
            if names.count(step["name"]) > 1:
                raise ValueError(f"`name` of a step of {self.path} must be unique, but {step['name']} comes twice.")
            for key in ("result", "command"):
                for name in PLACEHOLDER.findall(step[key]):
                    self._check_placeholder(name, key, step)
            words = shlex.split(step["command"])
            if words[:1] != ["dial"]:
                raise ValueError(f"`command` of step {step['name']} must begin with dial, but begins with {words[:1]}.")

    def _check_placeholder(self, name: str, key: str, step: dict[str, str]) -> None:
        known = ["run", *self.values, *(self.groups if key == "command" else ())]
        if name not in known:
            raise ValueError(
                f"`{key}` of step {step['name']} in {self.path} may have the placeholders "
                f"{', '.join(f'{{{n}}}' for n in known)}, but has {{{name}}}; add it to `arguments`."
            )

    def parse(self, words: Sequence[str]) -> tuple[dict[str, str | list[str]], bool]:
        """What the placeholders stand for, and whether `--list` was given.

        Args:
            words: the command line behind the file.

        Raises:
            ValueError: an unknown argument, or one that must be given and is not.
        """
        found: dict[str, Any] = {**self.values, "run": None, **{name: list(v) for name, v in self.groups.items()}}
        only_list = False
        words = list(words)
        while words:
            word = words.pop(0)
            key, equals, value = word.partition("=")
            name = key.removeprefix("--")
            if word == "--list":
                only_list = True
                continue
            if not key.startswith("--") or (name not in found and name.split(".")[0] not in self.groups):
                raise ValueError(f"dial recipe {self.path} takes {self.usage()}, but got {word}.")
            if not equals:
                if not words:
                    raise ValueError(f"`{key}` must be followed by its value, but is the last word.")
                value = words.pop(0)
            if name.split(".")[0] in self.groups:
                found[name.split(".")[0]] += [word] if equals else [word, value]
            else:
                found[name] = value
        missing = [f"--{name}" for name, value in found.items() if value is None]
        if missing:
            raise ValueError(f"dial recipe {self.path} needs {' and '.join(missing)}; it takes {self.usage()}.")
        return found, only_list

    def usage(self) -> str:
        """Names of the arguments."""
        values = [f"--{name}" + ("" if value is None else f" ({value})") for name, value in self.values.items()]
        return ", ".join(["--run", *values, *(f"--{name}…" for name in self.groups), "--list"])

    def plan(self, values: Values) -> list[Step]:
        """The steps with their placeholders replaced.

        Each placeholder stays within its word, whatever spaces its value has; a group is as many words as it holds.
        """
        steps = []
        for step in self.steps:
            words: list[str] = []
            for word in shlex.split(step["command"]):
                group = PLACEHOLDER.fullmatch(word)
                content = values[group[1]] if group else None
                words += content if isinstance(content, list) else [fill(word, values)]
            steps.append(Step(fill(step["name"], values), fill(step["result"], values), tuple(words)))
        return steps


def fill(text: str, values: Values) -> str:
    """Replace the placeholders of a text.

    >>> fill("{run}/ta/tier", {"run": "runs/sst2"})
    'runs/sst2/ta/tier'
    """

    def value(match: re.Match[str]) -> str:
        content = values[match[1]]
        if isinstance(content, list):
            raise ValueError(f"{{{match[1]}}} stands for several arguments, so it must be a word of its own in {text}.")
        return content

    return PLACEHOLDER.sub(value, text)


def pending(steps: Sequence[Step], done: Mapping[str, str]) -> Iterator[Step]:
    """The steps that are to be run.

    Args:
        steps: all of them, in order.
        done: command of every step that is done, by name.

    Raises:
        ValueError: a step is done by another command, or was made from one that is to be run again.
    """
    again: list[Step] = []
    for step in steps:
        folder = Path(step.result).parent
        if step.name not in done or not Path(step.result).is_file():
            again.append(step)
            continue
        if done[step.name] != str(step):
            raise ValueError(
                f"`--run` holds step {step.name} of another command: {difference(done[step.name], str(step))}; name "
                f"another folder, or remove {folder} to do it again."
            )
        for earlier in again:
            if step.uses(earlier):
                raise ValueError(
                    f"Step {step.name} was made from step {earlier.name}, which is to be run again; remove {folder} to "
                    f"do both again, or name another folder as `--run`."
                )
    yield from again


def difference(before: str, now: str) -> str:
    """Where two commands differ first.

    >>> difference("dial fit --a 1 --b 2", "dial fit --a 1 --b 3")
    'it had --b 2, now --b 3'
    """
    old, new = shlex.split(before), shlex.split(now)
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    at -= 1 if at and old[at - 1].startswith("--") and "=" not in old[at - 1] else 0
    return f"it had {shlex.join(old[at : at + 2]) or 'nothing'}, now {shlex.join(new[at : at + 2]) or 'nothing'}"


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Refuse a second start in the same folder; the lock lasts as long as the command that is running.

    Raises:
        ValueError: another one is at work.
    """
    run.mkdir(parents=True, exist_ok=True)
    handle = os.open(run / ".recipe.lock", os.O_WRONLY | os.O_CREAT)
    try:
        os.set_inheritable(handle, True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"`--run` {run} must be of no other `dial recipe`, but one is at work there.") from error
        yield
    finally:
        os.close(handle)


def recipe_command(arguments: Sequence[str]) -> int:
    """`dial recipe FILE --run FOLDER ...`; returns the exit code.

    Raises:
        ValueError: bad input, or a step that failed.
    """
    parser = argparse.ArgumentParser(
        "dial recipe",
        description="Run the steps of a procedure that are not done yet. Each is a plain `dial` command, printed as it "
        "can be typed; a killed step goes on from its last checkpoint when the recipe is started again.",
        epilog="Further arguments are those that the file declares: `dial recipe FILE --list` names what is missing.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="file, such as configs/recipe/cost_eff.yaml")
    parser.add_argument("--run", metavar="FOLDER", help="folder of the run folders of all steps")
    parser.add_argument("--list", action="store_true", help="print the commands, and which are done, and leave")
    if not arguments or arguments[0].startswith("-"):
        if set(arguments) & {"-h", "--help"}:
            parser.print_help()
            return 0
        raise ValueError("`RECIPE` must come first: a file, such as configs/recipe/cost_eff.yaml.")
    if set(arguments) & {"-h", "--help"}:
        parser.print_help()
        print(f"\n{arguments[0]} takes {Recipe.read(arguments[0]).usage()}")
        return 0
    recipe = Recipe.read(arguments[0])
    values, only_list = recipe.parse(arguments[1:])
    run, steps = Path(str(values["run"])), recipe.plan(values)
    if only_list:
        return show(steps, read_done(run))
    with alone(run):
        done = read_done(run)
        todo = list(pending(steps, done))
        for step in steps:
            if step not in todo:
                print(f"# {step.name}: done, {step.result}", flush=True)
                continue
            run_step(step)
            done[step.name] = str(step)
            write_json(run / DONE, done)
    return 0


def show(steps: Sequence[Step], done: Mapping[str, str]) -> int:
    """Print all commands, and whether they are done."""
    todo = list(pending(steps, done))
    for step in steps:
        print(f"# {step.name}: {'to do' if step in todo else 'done'}\n$ {step}")
    return 0


def read_done(run: Path) -> dict[str, str]:
    """The commands of the steps that are done, by name.

    Raises:
        ValueError: the file cannot be read.
    """
    path = run / DONE
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"`--run` {run} holds a {DONE} that cannot be read; remove it, and the steps are checked.") from error
