"""The tables of the results: medians over seeds, times put together as TangoBERT does, plain statements."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scripts import results_table as tables
from scripts.markdown import fill
from scripts.results_steps import ROOT

TIMES = {"super": 10.0, "layers2": 4.0, "layers2-distilled": 4.0}


def summary(
    speedup: float, shares: tuple[float, float] = (0.5, 0.5), gap: float = 0.1, only_super: bool = False
) -> dict[str, Any]:
    """A `summary.json` as the sweep writes it, with only what the tables read; energy leads softmax by `gap`."""
    stages = [
        {"name": "swift", "quality": {"mcc": 0.30}, "macs": 25e6},
        {"name": "super", "quality": {"mcc": 0.50}, "macs": 125e6},
    ]
    points = [
        {
            "score": score, "rule": "threshold", "kind": kind, "target": target, "kept": 0.99, "held": True,
            "speedup": speedup, "speedup_interval": [speedup - 0.1, speedup + 0.1], "only_super": only_super,
            "swift_ratio": shares[0], "shares": {"swift": shares[0], "super": shares[1]},
        }
        for score in ("energy", "softmax", "random", "margin")
        for kind in ("expected", "confident", "in_sample", "budget")
        for target in (1.0, 0.99, 0.98)
    ]  # fmt: skip
    # The sweep may hold the pair in either order.
    pair = {
        "first": "softmax",
        "second": "energy",
        "normalised_area": -gap,
        "normalised_area_interval": [-gap - 0.05, -gap + 0.05],
    }
    split = {"stages": stages, "reference_macs": 100e6, "points": points, "pairs": [pair]}
    return {"metrics": ["mcc", "accuracy"], "splits": {"test": split}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """CoLA done for three seeds with one Swift, the time of its tiers measured, and nothing else."""
    for seed, speedup in enumerate((1.2, 2.0, 1.6)):
        folder = tmp_path / "cola" / f"seed{seed}" / "sweeps" / "cascade-layers2"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary(speedup)))
    measured = {name: {"median_ms": ms, "low_ms": ms, "high_ms": ms} for name, ms in TIMES.items()}
    how = {"threads": 2, "dtype": "float32", "rows": 200, "repeats": 7}
    (tmp_path / "out/cola").mkdir(parents=True)
    (tmp_path / "out/cola/times.json").write_text(json.dumps({**how, "tiers": measured}))
    return tmp_path


PLACES = ("tiers", "speedup-99", "speedup-98", "statements", "cascade-commands")


@pytest.fixture
def out(runs: Path) -> Path:
    """The folder of the results, with pages that have all places."""
    places = {
        "cascades": PLACES,
        "exits": ("layers", "exits-99", "exits-98", "exit-commands"),
        "time": ["time-commands", "speed-commands"],
    }
    for page, names in places.items():
        text = "".join(f"words on {name}\n<!-- {name} -->\nold\n<!-- end {name} -->\n" for name in names)
        (runs / f"out/{page}.md").write_text(f"# {page}\n{text}")
    return runs / "out"


def written(runs: Path, out: Path) -> str:
    tables.collect(runs, out)
    tables.write(out, "data", "models")
    return (out / "cascades.md").read_text()


def test_tables_hold_medians_and_time(runs: Path, out: Path) -> None:
    text = written(runs, out)
    # half of the rows pay 4 ms, the others 4 + 10: 9 ms against 10
    point = "1.60× (99.0 %, 3/3)"
    cells = f"{point} | {point} | – | {point} | 1.11× | 1.11× | – | 0, 1, 2"
    assert text.count(f"| 1 | cola | layers2 | energy | {cells} |") == 2
    assert "| cola | super | mcc | 50.0 (50.0 to 50.0) | 200.0 | 10.00 (10.00 to 10.00) |" in text
    assert "| cola | layers2 | mcc | 30.0 (30.0 to 30.0) | 50.0 | 4.00 (4.00 to 4.00) |" in text
    assert "energy routes better than softmax in 3 and worse in 0 of 3 seeds (normalised area +0.100, median)." in text
    assert "dial fit --config configs/model/finetune.yaml" in text
    assert "--run runs/results/cola/seed0/cascade-layers2" in text
    assert "sst2" not in text and "old" not in text and "words on tiers" in text


def test_csv_holds_every_seed(runs: Path, out: Path) -> None:
    tables.collect(runs, out)
    frame = pd.read_csv(out / "results.csv")
    assert len(frame) == 3 * 3 * 3 * 2  # seeds, scores, kinds, targets
    chosen = frame[(frame.score == "random") & (frame.kind == "expected") & (frame.target == 0.98)]
    assert statistics.median(chosen.speedup) == 1.6
    assert set(frame.score) == {"energy", "softmax", "random"}


def test_super_alone_is_no_loss_and_said_so(runs: Path, out: Path) -> None:
    for path in runs.rglob("sweeps/*/summary.json"):
        path.write_text(json.dumps(summary(0.8, shares=(0.0, 1.0), gap=0.0, only_super=True)))
    text = written(runs, out)
    assert "| 1 | cola | layers2 | energy | Super alone | Super alone | – | Super alone |" in text
    assert "energy does not differ from softmax beyond noise in any of 3 seeds" in text
    assert "nothing to be saved with confidence at 99 % and 98 % of the Super" in text


def test_nothing_done_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `make results` first"):
        tables.collect(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_not_kept_stays_as_it_was(runs: Path, out: Path) -> None:
    """Published numbers outlive what they came from: here the pairs, and all models with exits."""
    tables.collect(runs, out)
    (out / "pairs.csv").unlink()
    exits = (out / "exits.md").read_text()
    tables.write(out, "data", "models")
    text = (out / "cascades.md").read_text()
    assert "words on statements\n<!-- statements -->\nold\n" in text
    assert text.count("\nold\n") == 1 and (out / "exits.md").read_text() == exits
    tables.write(out, "data", "models")
    assert (out / "cascades.md").read_text() == text


def test_the_stored_pages_are_what_the_stored_numbers_give(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    tables.write(tmp_path / "results", "../shared/data", "../shared/models")
    for page in ("cascades.md", "exits.md", "time.md", "text_to_text.md"):
        assert (tmp_path / "results" / page).read_text() == (ROOT / "results" / page).read_text()


def test_the_readme_has_one_line_for_each_method(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- methods -->\nold\n<!-- end methods -->\nafter\n")
    tables.write(tmp_path / "results", "data", "models", readme)
    text = readme.read_text()
    assert text.startswith("before\n<!-- methods -->\n| method |") and text.endswith("|\n<!-- end methods -->\nafter\n")
    lines = text.splitlines()[4:-2]
    texts = json.loads((ROOT / "results" / tables.TEXTS).read_text())
    written = tables.text_page.methods(texts, 0.99)
    read = pd.read_csv(ROOT / "results" / tables.reading_collect.FILES[0])
    written += tables.reading_page.methods(read, "crossfit_confident", 0.99)
    assert (
        len(written) >= 2
        and len(lines) == len(tables.METHODS) + len(written)
        and not any("–" in line for line in lines)
    )
    frame = pd.read_csv(ROOT / "results/results.csv")
    (row,) = [
        row for row in frame.to_dict("records")
        if (row["task"], row["swift"], row["score"]) == ("sst2", "bilstm-distilled", "softmax")
        and (row["kind"], row["target"]) == ("crossfit", 0.99)
    ]  # fmt: skip
    (line,) = [line for line in lines if "TangoBERT: largest" in line]
    assert f"| {row['speedup']:.2f}× ({100 * row['kept']:.1f} %) |" in line
    for _, _, _, _, config, page in tables.METHODS:
        assert (ROOT / config).is_file() and (ROOT / f"results/{page}.md").is_file()


def test_a_page_without_markers_is_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n<!-- tiers -->\n")
    with pytest.raises(ValueError, match=r"`page` must hold <!-- tiers -->"):
        fill(page, {"tiers": "a table"})
    assert page.read_text() == "nothing here\n<!-- tiers -->\n"
