"""Command lines from dataclasses: what is typed, what the help says, how errors spell arguments."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar, Literal

import pytest

from dial.cli.arguments import Command
from dial.cli.calibrate import CalibrateCommand
from dial.cli.predict import PredictCommand
from dial.cli.recipe import RecipeCommand
from dial.cli.tables import CompareCommand, SweepCommand
from dial.report.settings import SweepSettings
from dial.spelling import spelt


@dataclass(kw_only=True)
class Oven(Command):
    """How hot.

    Attributes:
        heat: in degrees, 100 % of it
    """

    heat: float = 180.0


@dataclass(kw_only=True)
class Bake(Oven):
    """Bake bread.

    Slowly.

    Attributes:
        flour: what kind
        loaf_names: one or more
        sizes: in grams
        steps: what to do when
        crust: how it gets
        quiet: say nothing
        limit: lowest; default: none
        count: how many
    """

    PROGRAM = "dial bake"
    PARAMETERS: ClassVar = {"grams": "sizes"}
    seen: ClassVar[list["Bake"]] = []

    flour: Annotated[str, "FLOUR"] = field(kw_only=False)
    loaf_names: Annotated[Sequence[str], "NAME"]
    sizes: Sequence[int] = (500, 750)
    steps: Annotated[Sequence[tuple[str, str]], "WHEN WHAT"] = ()
    crust: Literal["soft", "hard"] | None = None
    quiet: bool = False
    limit: float | None = None
    count: Annotated[int, "N"] = 1

    def __call__(self) -> int:
        self.seen.append(self)
        if self.count == 0:
            raise ValueError("`count` must be 1 or more, as `flour` and `grams` say, but `label` is not ours: got 0.")
        if self.count < 0:
            raise ValueError("`steps.noon` must be in the day.")
        return 0


def bake(*words: str) -> Bake:
    assert Bake.main(["rye", *words, "--loaf-names", "a", "b"]) == 0
    return Bake.seen[-1]


def test_words_become_values_of_the_fields_types() -> None:
    plain = bake()
    assert (plain.flour, plain.loaf_names, plain.sizes, plain.steps) == ("rye", ["a", "b"], (500, 750), [])
    assert (plain.crust, plain.quiet, plain.limit, plain.count, plain.heat) == (None, False, None, 1, 180.0)
    made = bake(
        "--sizes", "1", "-2", "--steps", "noon", "knead", "--steps", "one", "bake", "--crust", "hard", "--quiet"
    )
    assert (made.sizes, made.steps) == ([1, -2], [["noon", "knead"], ["one", "bake"]])
    assert (made.crust, made.quiet) == ("hard", True)


@pytest.mark.parametrize("text", ["-inf", "-1e3", "-.5", "-INFINITY", "-3", "nan", "1e-3"])
def test_negative_numbers_are_values(text: str) -> None:
    limit = bake("--limit", text).limit
    assert limit == float(text) or (math.isnan(limit) and text == "nan")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rye"], "the following arguments are required: --loaf-names; see `dial bake --help`."),
        (["rye", "--loaf-names", "a", "--count", "few"], "`--count` must be a whole number, but got 'few'; see"),
        (["rye", "--loaf-names", "a", "--heat", "hot"], "`--heat` must be a number, but got 'hot'; see"),
        (["rye", "--loaf-names", "a", "--crust", "burnt"], "argument --crust: invalid choice: 'burnt'"),
        (["rye", "--loaf-names", "a", "--colour", "red"], "unrecognized arguments: --colour red"),
        (
            ["rye", "--loaf-names", "a", "--count", "0"],
            "`--count` must be 1 or more, as `FLOUR` and `--sizes` say, but `label` is not ours: got 0.",
        ),
        (["rye", "--loaf-names", "a", "--count", "-1"], "`--steps noon=...` must be in the day."),
    ],
)
def test_errors_are_one_line_that_spells_arguments_as_typed(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Bake.main(words)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_help_has_every_field_with_its_text_and_default() -> None:
    text = Bake.parser().format_help()
    words = " ".join(text.split())
    assert words.startswith("usage: dial bake FLOUR --loaf-names NAME [options] Bake bread. Slowly.")
    assert "--sizes SIZES [SIZES ...] in grams (default: 500 750)" in words
    assert "--steps WHEN WHAT what to do when" in words and "--crust {soft,hard} how it gets" in words
    assert "lowest; default: none --count N how many (default: 1)" in words
    assert "How hot: --heat HEAT in degrees, 100 % of it (default: 180.0)" in words
    assert Bake.options() == ["--help", *"--loaf-names --sizes --steps --crust --quiet --limit --count --heat".split()]


@pytest.mark.parametrize("command", [SweepCommand, CompareCommand, PredictCommand, CalibrateCommand, RecipeCommand])
def test_every_argument_of_every_command_has_a_text(command: type[Command]) -> None:
    actions = command.parser()._actions
    assert len(actions) == len(fields(command)) + 1
    assert all(action.help and len(action.help) > 4 for action in actions)


def test_the_sweeps_help_shows_the_defaults_of_its_settings() -> None:
    words = " ".join(SweepCommand.parser().format_help().split())
    for name in ("confidence", "folds", "bootstrap", "seed"):
        assert f"--{name} {name.upper()}" in words and f"(default: {getattr(SweepSettings, name)})" in words
    assert "(default: 1.0 0.995 0.99 0.98)" in words


def test_only_value_errors_are_spelt() -> None:
    with pytest.raises(OSError, match="`run` is gone"), spelt({"run": "RUN"}):
        raise OSError("`run` is gone")
    with pytest.raises(ValueError, match=r"`RUN` is gone, `other.run` is not") as error, spelt({"run": "RUN"}):
        raise ValueError("`run` is gone, `other.run` is not")
    assert isinstance(error.value.__cause__, ValueError)
