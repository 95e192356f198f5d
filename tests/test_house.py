"""What holds for the whole code: modules on the trainer, one direction of imports, and sizes."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI

import dial.losses
import lightning_modules
from callbacks import ThresholdSweep
from dial.cli import main, trainer

ROOT = Path(__file__).parents[1]
PACKAGES = ("dial", "lightning_modules", "callbacks", "datamodules")
# An upper room may import a lower one, never the reverse; within a line rooms do not import each other.
ORDER = (
    "dial.cli",
    "callbacks",
    "lightning_modules",
    "dial.study",
    "dial.inference",
    "dial.report",
    "dial.costs",
    "dial.tiers",
    "dial.models",
    "dial.losses",
    "dial.tradeoff",
    "dial.stages",
    "dial.files",
    "datamodules",
)
VALUES = ("dial.costs.functions", "dial.stages.stage")  # value types that every room may import
LIGHTNING = ("dial.cli", "callbacks", "lightning_modules", "datamodules.base")
MODULES = {"Classifier": "classifier", "Distillation": "distillation", "MultiExit": "multi_exit"}
BESIDE = ("tests", "benchmarks", "scripts")  # limits hold here, too
LINES, FUNCTION_LINES = 450, 60  # of a file; of a function without its docstring
PLAIN_LINES = 8  # of a function that needs no docstring


@cache
def sources() -> dict[str, Path]:
    """Files of product code by the name of their module."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)
    return dict(zip(names, paths, strict=True))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(module: str) -> frozenset[str]:
    """Modules that a module imports anywhere: at the top, inside functions, and for types only."""
    found: set[str] = set()
    for node in ast.walk(tree_of(sources()[module])):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in sources() else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found - {module})


def inside(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def floor(module: str) -> int | None:
    """Place of a module's room in the order, 0 the highest; None for what all rooms share."""
    return next((place for place, room in enumerate(ORDER) if inside(module, room)), None)


def circles() -> Iterator[list[str]]:
    """A shortest way from each module back to itself, where there is one."""
    for start in sources():
        ways = [[start]]
        seen = {start}
        while ways:
            way = ways.pop(0)
            for other in sorted(imports(way[-1]) & sources().keys()):
                if other == start:
                    yield [*way, start]
                    ways = []
                    break
                if other not in seen:
                    seen.add(other)
                    ways.append([*way, other])


def upward() -> Iterator[tuple[str, str]]:
    for module in sources():
        for other in imports(module) - set(VALUES):
            own, theirs = floor(module), floor(other)
            if own is not None and theirs is not None and theirs < own:
                yield module, other


def test_imports_run_one_way() -> None:
    assert sorted(upward()) == []


def test_data_modules_import_none_of_the_library() -> None:
    names = [name for name in sources() if inside(name, "datamodules")]
    assert {other for name in names for other in imports(name) if other.partition(".")[0] in PACKAGES} <= set(names)


def test_no_circles() -> None:
    assert list(circles()) == []


def test_only_the_trainer_s_side_imports_lightning() -> None:
    users = [name for name in sources() if any(inside(other, "lightning") for other in imports(name))]
    assert [name for name in users if not any(inside(name, room) for room in LIGHTNING)] == []
    assert "datamodules.base" in users


@pytest.mark.parametrize("name", MODULES)
def test_yaml_names_modules_whose_training_step_computes_a_loss(name: str) -> None:
    """Of the loss functions in `dial.losses`: called in the step, or in a method of the class that the step calls."""
    kind = getattr(lightning_modules, name)
    assert issubclass(kind, LightningModule) and name in lightning_modules.__all__
    assert kind.__module__ == f"lightning_modules.{MODULES[name]}" and "training_step" in vars(kind)
    tree = tree_of(sources()[kind.__module__])
    (body,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    methods = {node.name: node for node in body.body if isinstance(node, ast.FunctionDef)}
    step = [methods["training_step"]]
    own = {node.attr for node in ast.walk(step[0]) if isinstance(node, ast.Attribute)} & methods.keys()
    used = {node.id for part in [*step, *(methods[n] for n in own)] for node in ast.walk(part) if hasattr(node, "id")}
    assert "task_loss" in used & set(dial.losses.__all__)
    assert sys.modules[kind.__module__].task_loss is dial.losses.task_loss


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_the_trainer_s_commands_are_lightning_s(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    assert issubclass(trainer.DialCLI, LightningCLI)
    monkeypatch.setattr(trainer, "DialCLI", lambda *args, **settings: made.append(sys.argv[1]))
    monkeypatch.setattr(sys, "argv", ["dial"])
    assert main.main([command, "--config=x.yaml"]) == 0
    assert made == [command]


def test_the_sweep_has_fvcore_count(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ThresholdSweep.table` gives costs that fvcore's counter was asked for while it ran."""
    import fvcore.nn

    asked: list[bool] = []

    class Counter(fvcore.nn.FlopCountAnalysis):
        def by_module_and_operator(self) -> object:
            frame, callers = sys._getframe(), []
            while (frame := frame.f_back) is not None:
                callers.append(frame.f_code.co_qualname)
            asked.append("ThresholdSweep.table" in callers)
            return super().by_module_and_operator()

    monkeypatch.setattr(fvcore.nn, "FlopCountAnalysis", Counter)
    module = lightning_modules.Classifier(path=str(tiny_bert), max_length=32, label_names=["negative", "positive"])
    lengths = {"model": np.array([4, 9])}
    rows = {"sample_id": np.arange(2), "label": np.array([0, 1]), "logits": torch.randn(2, 1, 2).numpy()}
    data = SimpleNamespace(calibration="crossfit", labelled=True, rows=lambda split: SimpleNamespace(group=None))
    limits = {f"limit_{loop}_batches": 1.0 for loop in ("train", "val", "test", "predict")}
    run = SimpleNamespace(datamodule=data, fast_dev_run=False, overfit_batches=0, **limits)
    table = ThresholdSweep().table(
        run, module, {"test": {**rows, "model_scores": {}, "lengths": lengths, "padded": lengths}}
    )
    assert asked and all(asked) and (table.macs > 0).all() and table.macs[0, 0] < table.macs[1, 0]


def files_of(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Names of functions with their lines, docstrings not counted, and whether they have one."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            text = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0
            yield node.name, node.end_lineno - node.lineno + 1 - text, documented


def test_sizes() -> None:
    paths = files_of(*PACKAGES, *BESIDE)
    assert [path for path in paths if len(path.read_text().splitlines()) > LINES] == []
    long = [(path.name, name) for path in paths for name, lines, _ in functions(path) if lines > FUNCTION_LINES]
    assert long == []


def test_what_is_not_plain_at_a_glance_says_what_it_does() -> None:
    """Inner and private functions, too; arguments of `__init__` stand in the docstring of its class."""
    paths = files_of(*PACKAGES, "benchmarks", "scripts")
    silent = [
        (str(path.relative_to(ROOT)), name)
        for path in paths
        for name, lines, documented in functions(path)
        if lines > PLAIN_LINES and not documented and not name.startswith("__")
    ]
    assert silent == []


def test_first_lines_are_a_map() -> None:
    """Each module says what it is for, and no two say the same."""
    first = [(ast.get_docstring(tree_of(path)) or "").split("\n")[0] for path in files_of(*PACKAGES)]
    assert all(len(line) >= 12 and line[-1] in ".?:" for line in first)
    assert len(set(first)) == len(first)
