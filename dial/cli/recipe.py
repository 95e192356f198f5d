"""`dial recipe`: procedures of several steps, each a plain `dial` command, that go on where they stopped."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from dial.cli.arguments import Command
from dial.cli.interrupts import INTERRUPTED, exit_code
from dial.cli.steps import Step, pending, read_done, run_steps

PLACEHOLDER = re.compile(r"\{([\w.-]*)\}")  # {class_path: X} is none
KEYS = ("name", "result", "command")
TAKEN = ("run", "row", "list", "help")
Values = Mapping[str, str | list[str]]


@dataclass(frozen=True)
class Recipe:
    """A procedure as its file describes it.

    Attributes:
        path: of the file.
        values: placeholders that stand for one value, with their defaults; None must be given.
        groups: placeholders that stand for several arguments (`data` for `--data`, `--data.task`, ...), with those
            that are always among them.
        steps: `name`, `result` and `command` of each step, with placeholders.
        rows: what placeholders stand for in each row of a printed table, by the name that ``--row`` takes.
        subnetworks: the argument that names a network, for :func:`dial.cli.subnetworks.check_stages`; empty without.
        prints: the printed rows that each of these makes, as :attr:`dial.costs.printed.Printed.name` calls them.
    """

    path: str
    values: dict[str, str | None] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    steps: tuple[dict[str, str], ...] = ()
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    prints: dict[str, tuple[str, ...]] = field(default_factory=dict)
    subnetworks: str = ""

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
        if not isinstance(content, dict) or set(content) - {"arguments", "steps", "rows", "subnetworks"}:
            raise ValueError(
                f"`RECIPE` {path} must hold `steps`, and `arguments` where they have placeholders, and `rows` where "
                "some of these come together."
            )
        arguments, steps = content.get("arguments") or {}, content.get("steps")
        if not isinstance(arguments, dict) or not set(TAKEN).isdisjoint(arguments):
            raise ValueError(f"`arguments` of {path} must map names to defaults; {', '.join(TAKEN)} are taken.")
        if not isinstance(steps, list) or not steps:
            raise ValueError(f"`steps` of {path} must be a list of steps with `name`, `result` and `command`.")
        groups = {name: [str(word) for word in value] for name, value in arguments.items() if isinstance(value, list)}
        values = {name: None if v is None else str(v) for name, v in arguments.items() if name not in groups}
        rows, prints = read_rows(content.get("rows") or {}, values, path)
        recipe = cls(path, values, groups, tuple(steps), rows, prints, str(content.get("subnetworks") or ""))
        if recipe.subnetworks and not {recipe.subnetworks, "widths", "depths", "swift"} <= {*values}:
            raise ValueError(
                f"`subnetworks` of {path} must name one of the `arguments`, beside widths, depths and swift."
            )
        for number, step in enumerate(steps, 1):
            recipe._check_step(step, number)
        return recipe

    def _check_step(self, step: Any, number: int) -> None:
        """Refuses a step that lacks a key, repeats a name, is no `dial` command, or has a placeholder nobody fills."""
        if not isinstance(step, dict) or set(step) != set(KEYS) or not all(isinstance(step[k], str) for k in KEYS):
            raise ValueError(f"Step {number} of {self.path} must have {', '.join(KEYS)}, each a string.")
        name = step["name"]
        if [other["name"] for other in self.steps[:number]].count(name) > 1:
            raise ValueError(f"`name` of each step of {self.path} must be its own, but {name} comes twice.")
        try:
            words = shlex.split(step["command"])
        except ValueError as error:
            raise ValueError(f"`command` of step {name} in {self.path} cannot be split into words: {error}.") from error
        if words[:1] != ["dial"]:
            raise ValueError(f"`command` of step {name} in {self.path} must begin with dial, but got {words[:1]}.")
        for key, texts in (("name", [name]), ("result", [step["result"]]), ("command", words)):
            for text in texts:
                self._check_placeholders(text, f"`{key}` of step {name} in {self.path}", whole=key == "command")

    def _check_placeholders(self, text: str, where: str, whole: bool) -> None:
        """Raise a ValueError if a word has an unknown placeholder, or a group beside something else."""
        known = ["run", *self.values, *(self.groups if whole else ())]
        for name in PLACEHOLDER.findall(text):
            if name not in known:
                names = ", ".join(f"{{{n}}}" for n in known)
                raise ValueError(f"{where} may have {names}, but has {{{name}}}; declare it under `arguments`.")
            if name in self.groups and text != f"{{{name}}}":
                raise ValueError(f"{where} must have {{{name}}}, several arguments, as a word of its own, not {text}.")

    def parse(self, words: Sequence[str]) -> dict[str, str | list[str]]:
        """What the placeholders stand for.

        Args:
            words: the command line behind the file.

        Raises:
            ValueError: an unknown argument, or one that must be given and is not.
        """
        left = list(words)
        values: dict[str, str | None] = {**self.values, **self._row(left), "run": None}
        groups = {name: list(always) for name, always in self.groups.items()}
        while left:
            word = left.pop(0)
            key, equals, value = word.partition("=")
            name = key.removeprefix("--")
            group = name.split(".")[0]
            if not key.startswith("--") or (name not in values and group not in groups):
                raise ValueError(f"`{word}` is no argument of {self.path}, which takes {self.usage()}.")
            if not equals and (not left or left[0].startswith("--")):
                raise ValueError(f"`{key}` must be followed by its value, but got {left[0] if left else 'nothing'}.")
            value = value if equals else left.pop(0)
            if name in values:
                values[name] = value
            else:
                groups[group] += [word] if equals else [word, value]
        missing = " and ".join(f"--{name}" for name, value in values.items() if value is None)
        if missing:
            raise ValueError(f"`{missing}` must be given; {self.path} takes {self.usage()}.")
        return {**{name: value for name, value in values.items() if value is not None}, **groups}

    def _row(self, words: list[str]) -> dict[str, str]:
        """What the row that ``--row`` names sets; takes the option out of the command line.

        Raises:
            ValueError: the file has rows, and none of them is named.
        """
        if not self.rows:
            return {}
        at = next((i for i, word in enumerate(words) if word.partition("=")[0] == "--row"), None)
        name = None
        if at is not None:
            _, equals, name = words.pop(at).partition("=")
            name = name if equals else words.pop(at) if at < len(words) else None
        if name not in self.rows:
            raise ValueError(f"`--row` must be one of {', '.join(self.rows)} in {self.path}, but got {name}.")
        return self.rows[name]

    def usage(self) -> str:
        """The arguments that the file takes, in one line."""
        rows = [f"--row ({', '.join(self.rows)})"] if self.rows else []
        values = [f"--{name}" + ("" if value is None else f" ({value})") for name, value in self.values.items()]
        return ", ".join(["--run", *rows, *values, *(f"--{name}..." for name in self.groups)])

    def plan(self, values: Values) -> list[Step]:
        """The steps with their placeholders replaced.

        Each placeholder stays within its word, whatever spaces its value has; a group is as many words as it holds.
        """
        steps = []
        for step in self.steps:
            words: list[str] = []
            for word in shlex.split(step["command"]):
                group = self.groups and PLACEHOLDER.fullmatch(word)
                content = values[group[1]] if group else None
                words += content if isinstance(content, list) else [fill(word, values)]
            steps.append(Step(fill(step["name"], values), fill(step["result"], values), tuple(words)))
        return steps


def read_rows(
    content: Any, values: Mapping[str, str | None], path: str
) -> tuple[dict[str, dict[str, str]], dict[str, tuple[str, ...]]]:
    """Rows of a recipe: what each sets, and the printed rows that it makes.

    Args:
        content: `rows` of the file: a name, and arguments with their values; `prints` lists printed rows.
        values: the arguments that stand for one value.
        path: of the file.

    Raises:
        ValueError: they are no such rows.
    """
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise ValueError(f"`rows` of {path} must map names to arguments and their values.")
    for name, row in content.items():
        if unknown := set(row) - {"prints", *values}:
            raise ValueError(
                f"`rows` of {path} may set {', '.join(values)}, but {name} sets {', '.join(sorted(unknown))}."
            )
    rows = {str(n): {k: str(value) for k, value in row.items() if k != "prints"} for n, row in content.items()}
    return rows, {str(name): tuple(map(str, row.get("prints", ()))) for name, row in content.items()}


def fill(text: str, values: Values) -> str:
    """Replace the placeholders of a text.

    >>> fill("{run}/ta/tier", {"run": "runs/sst2"})
    'runs/sst2/ta/tier'
    """
    return PLACEHOLDER.sub(lambda match: str(values[match[1]]), text)


@dataclass(kw_only=True)
class RecipeCommand(Command):
    """Runs the steps of a procedure that are not done yet.

    Each is a plain `dial` command, printed as it can be typed; a killed step goes on from its last checkpoint when the
    recipe is started again. RECIPE says which other arguments it takes: `dial recipe RECIPE --help`.

    Attributes:
        recipe: file, such as configs/recipe/cost_eff.yaml
        run: folder of the run folders of all steps
        list: print the commands, and which are done, and leave
    """

    PROGRAM = "dial recipe"

    recipe: Annotated[str, "RECIPE"] = field(kw_only=False)
    run: Annotated[str, "FOLDER"]
    list: bool = False

    @classmethod
    def main(cls, words: Sequence[str], **given: Any) -> int:
        """Run the command; returns the exit code.

        Args:
            words: the command line behind the command.
            given: nothing.

        Raises:
            ValueError: bad input, or a step that failed.
        """
        helping = not {"-h", "--help"}.isdisjoint(words)
        if not words or words[0].startswith("-"):
            if helping:
                print(cls.parser().format_help(), end="")
                return 0
            raise ValueError("`RECIPE` must come first: a file, such as configs/recipe/cost_eff.yaml.")
        recipe = Recipe.read(words[0])
        if helping:
            print(f"{cls.parser().format_help()}\n{recipe.path} takes {recipe.usage()}")
            return 0
        values = recipe.parse([word for word in words[1:] if word != "--list"])
        run, steps = Path(str(values["run"])), recipe.plan(values)
        if recipe.subnetworks:
            from dial.cli.subnetworks import check_stages

            check_stages(recipe.subnetworks, values, steps)
        if "--list" in words:
            todo = pending(steps, read_done(run))
            for step in steps:
                print(f"# {step.name}: {'to do' if step in todo else 'done'}\n$ {step}")
            return 0
        try:
            run_steps(steps, run)
        except KeyboardInterrupt as interrupt:
            print(INTERRUPTED, file=sys.stderr)
            return exit_code(interrupt)
        return 0
