"""The pages that people start from: what they link to and name exists, and the front page stays short."""

import gc
import math
import re
import shlex
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dial.cli.commands import COMMANDS as PROGRAMS
from dial.tradeoff.rule import Reached
from dial.tradeoff.rules import curve
from tests.stages.population import logits_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "benchmarks|callbacks|configs|datamodules|dial|docs|lightning_modules|notebooks|results|scripts|tests"
COMMANDS = {"fit", "validate", "test", "predict", "calibrate", "sweep", "compare", "recipe", "augment", "lengths"}


def commands(page: Path) -> list[list[str]]:
    """Words of every `dial` command in the page's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split(" | ")]
    return [shlex.split(part, comments=True) for part in parts if part.startswith("dial ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    absent = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not absent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(rf"(?<![\w/.])(?:{FOLDERS})/[\w/.-]+\.(?:yaml|py|sh|md|ipynb|csv|png)", page.read_text())
    worked_through = {"dial/losses/smoothed.py", "lightning_modules/smoothed.py", "configs/model/smoothed.yaml"}
    assert not [name for name in named if name not in worked_through and not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_named_exist(page: Path) -> None:
    """In sentences, too: of `dial`, and targets of `make`."""
    text, makefile = page.read_text(), (ROOT / "Makefile").read_text()
    assert set(re.findall(r"`dial ([a-z]+)", text)) <= COMMANDS == set(PROGRAMS)
    targets = re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)
    assert not [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_are_of_dial_and_their_configs_exist(page: Path) -> None:
    for words in commands(page):
        assert words[1] in COMMANDS or words[1].startswith("-") or words[1] == "COMMAND", words
        for option, value in zip(words, [*words[1:], ""], strict=True):
            if option in ("--config", "--data") and value.endswith(".yaml") and "smoothed" not in value:
                assert yaml.safe_load((ROOT / value).read_text()), (page, value)


def test_the_front_page_is_short() -> None:
    text = (ROOT / "README.md").read_bytes()
    assert len(text) <= 12_000 and text.count(b"\n") <= 180


def test_every_config_of_a_model_is_named_in_the_pages() -> None:
    text = "".join(page.read_text() for page in PAGES)
    inside = {"teaching_assistant", "slenderise", "recover"}  # steps of a recipe
    absent = [file.stem for file in (ROOT / "configs/model").glob("*.yaml") if file.name not in text]
    assert not {name for name in absent if not name.startswith("demo_")} - inside


def test_citation_has_what_readers_of_it_need() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)


def blocks_of(page: Path) -> dict[str, str]:
    """Python blocks of a page by the first words of their docstrings."""
    found = re.findall(r"^( *)```python\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    texts = [textwrap.dedent(text) for _, text in found]
    return {text.split('"""')[1]: text for text in texts if text.startswith('"""')}


def module_of(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A block as a module that others can import."""
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(text, name, "exec"), module.__dict__)
    return module


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The command line looks for subclasses: one of a module that has gone stops it."""
    yield
    gc.collect()


def test_the_method_worked_through_trains_as_it_says(
    forgotten: None, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = blocks_of(ROOT / "docs/adding.md")
    loss, method = (next(text for first, text in blocks.items() if words in first) for words in ("loss", "Fine-tuning"))
    module_of("dial.losses.smoothed", loss, monkeypatch)
    written = module_of("lightning_modules.smoothed", method, monkeypatch).SmoothedClassifier
    with pytest.raises(ValueError, match="`smoothing` must be from 0 to 1, but got 2"):
        written(smoothing=2, path=str(tiny_bert), label_names=["negative", "positive"])
    model = written(smoothing=0.3, path=str(tiny_bert), label_names=["negative", "positive"]).eval()
    ids = torch.randint(5, 20, (4, 7), generator=torch.Generator().manual_seed(0))
    encodings = {model.tier.encoding_key: {"input_ids": ids, "attention_mask": torch.ones_like(ids)}}
    labels = torch.tensor([0, 1, 1, 0])
    logits = model(encodings)[:, -1].tolist()
    by_hand = 0.0
    for row, label in zip(logits, labels.tolist(), strict=True):
        total = math.log(sum(math.exp(value) for value in row))
        for index, value in enumerate(row):
            by_hand -= ((0.7 if index == label else 0.0) + 0.3 / 2) * (value - total) / 4
    assert model.training_step({"encodings": encodings, "label": labels}, 0).item() == pytest.approx(by_hand, rel=1e-5)


def test_the_rule_worked_through_is_the_one_that_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    from dial.tradeoff.rules import RULES

    monkeypatch.setattr("dial.tradeoff.rules.RULES", dict(RULES))
    text = next(text for first, text in blocks_of(ROOT / "docs/adding.md").items() if "mean_rule" in first)
    rule = module_of("mean_rule", text, monkeypatch).Mean()
    table = logits_table(20, seed=0, splits=("test",), strengths=(1.0, 1.5, 2.5))
    values, memory = rule.values(table), np.zeros((20, 1))
    for stage in range(2):
        reached = Reached(stage, table.sample_id, table.outputs[:, stage], None, memory)
        np.testing.assert_allclose(rule.confidence(reached), values[:, stage])
    points = curve(table, "mean", "mean")
    assert points.macs[0] < points.macs[-1]
