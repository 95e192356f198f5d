"""The tables of the results: medians over seeds, times put together as TangoBERT does, plain statements."""

import json
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scripts import results_table as tables

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


def test_tables_hold_medians_and_time(runs: Path, tmp_path: Path) -> None:
    tables.write(runs, tmp_path / "out", "data", "models")
    text = (tmp_path / "out" / "README.md").read_text()
    # half of the rows pay 4 ms, the others 4 + 10: 9 ms against 10
    point = "1.60× (99.0 %, 3/3)"
    assert (
        text.count(f"| 1 | cola | layers2 | energy | {point} | {point} | – | {point} | 1.11× | 1.11× | 0, 1, 2 |") == 2
    )
    assert "| cola | super | mcc | 50.0 (50.0 to 50.0) | 200.0 | 10.00 (10.00 to 10.00) |" in text
    assert "| cola | layers2 | mcc | 30.0 (30.0 to 30.0) | 50.0 | 4.00 (4.00 to 4.00) |" in text
    assert "energy routes better than softmax in 3 and worse in 0 of 3 seeds (normalised area +0.100, median)." in text
    assert "dial fit --config configs/model/finetune.yaml" in text
    assert "--run runs/results/cola/seed0/cascade-layers2" in text
    assert "sst2" not in text and "Time:" not in text.replace("Time: batch 1", "")


def test_csv_holds_every_seed(runs: Path, tmp_path: Path) -> None:
    tables.write(runs, tmp_path / "out", "data", "models")
    frame = pd.read_csv(tmp_path / "out" / "results.csv")
    assert len(frame) == 3 * 3 * 3 * 2  # seeds, scores, kinds, targets
    chosen = frame[(frame.score == "random") & (frame.kind == "expected") & (frame.target == 0.98)]
    assert statistics.median(chosen.speedup) == 1.6
    assert set(frame.score) == {"energy", "softmax", "random"}


def test_super_alone_is_no_loss_and_said_so(runs: Path, tmp_path: Path) -> None:
    for path in runs.rglob("sweeps/*/summary.json"):
        path.write_text(json.dumps(summary(0.8, shares=(0.0, 1.0), gap=0.0, only_super=True)))
    tables.write(runs, tmp_path / "out", "data", "models")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| 1 | cola | layers2 | energy | Super alone | Super alone | – | Super alone |" in text
    assert "energy does not differ from softmax beyond noise in any of 3 seeds" in text
    assert "nothing to be saved with confidence at 99 % and 98 % of the Super" in text


def test_nothing_done_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `make results` first"):
        tables.write(tmp_path, tmp_path / "out", "data", "models")
    assert not (tmp_path / "out").exists()


def test_what_was_not_measured_stays_in_the_page_and_in_the_readme(runs: Path, tmp_path: Path) -> None:
    """No study is kept as JSON: its published tables must outlive a change of the others."""
    earlier = "# Results\n\n## Tiers\n\nold tiers\n\n## Time: int8\n\n| task |\n| kept |\n\n## Commands\n\nold\n"
    (tmp_path / "out/README.md").write_text(earlier)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- cascades -->\n<!-- end cascades -->\n<!-- int8 -->\nkept too\n<!-- end int8 -->\n")
    tables.write(runs, tmp_path / "out", "data", "models", readme)
    page = tables.sections_of(tmp_path / "out/README.md")
    assert page["Time: int8"] == "| task |\n| kept |"
    assert "old" not in page["Tiers"] + page["Commands"]
    assert [title for title in page if title.startswith("Time")] == ["Time: int8", "Time: commands"]
    assert "<!-- int8 -->\nkept too\n<!-- end int8 -->" in readme.read_text()


def test_readme_tables_are_written_between_their_markers(runs: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- cascades -->\nold\n<!-- end cascades -->\nafter\n")
    tables.write(runs, tmp_path / "out", "data", "models", readme)
    text = readme.read_text()
    assert text.startswith("before\n<!-- cascades -->\n| task, Swift |")
    assert text.endswith("|\n<!-- end cascades -->\nafter\n")
    # Three seeds of 1.2, 2.0 and 1.6; no crossfit was run. Half of the rows take 4 ms, the others 14, the Super 10.
    cell = "1.60× (99.0, 3/3)"
    quality = "| cola, layers2 (3 seeds) | 30.0 / 50.0 (mcc) | 4.0 / 10.0 |"
    assert f"{quality} energy | {cell} | {cell} | – | {cell} | – |" in text
    assert "old" not in text


def test_a_readme_without_markers_is_left_as_it_is(runs: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n<!-- cascades -->\n")
    with pytest.raises(ValueError, match=r"`readme` must hold <!-- cascades -->"):
        tables.write(runs, tmp_path / "out", "data", "models", readme)
    assert readme.read_text() == "nothing here\n<!-- cascades -->\n"
