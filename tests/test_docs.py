"""The pages that people start from: what they link to and name exists, and the front page stays short."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {"fit", "validate", "test", "predict", "calibrate", "sweep", "compare", "recipe"}


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
    named = re.findall(
        r"(?<![\w/.])(?:configs|scripts|tests|dial|callbacks|datamodules|lightning_modules)/[\w/.-]+\.(?:yaml|py|sh)",
        page.read_text(),
    )
    worked_through = {"dial/losses/smoothed.py", "lightning_modules/smoothed.py", "configs/model/smoothed.yaml"}
    assert not [name for name in named if name not in worked_through and not (ROOT / name).exists()]


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
