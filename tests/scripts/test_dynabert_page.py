"""The page of cascades within one folder: what it reads of sweeps, and that it is shipped with its places."""

import json
from pathlib import Path

import pytest

from scripts import dynabert_page, results_table
from scripts.results_dynabert_plan import PAIRS
from scripts.results_steps import ROOT
from tests.scripts.test_cascades_page import summary


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The first pair on MRPC is swept, and across folds with another speed-up; nothing else is."""
    for kind, speedup in (("sweeps", 3.0), ("crossfit", 2.0)):
        folder = tmp_path / "mrpc/seed0" / kind / "cascade-dynabert-w25-d50-w75"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary(speedup)))
    return tmp_path


def test_rows_are_in_sample_and_crossfit_by_energy(runs: Path) -> None:
    frame = dynabert_page.collect(runs)
    assert list(frame.kind) == ["in_sample"] * 2 + ["crossfit"] * 2
    assert set(frame.score) == {"energy"} and list(frame.target) == [1.0, 0.99] * 2
    assert list(frame.speedup) == [3.0, 3.0, 2.0, 2.0]
    row = dynabert_page.measured_table(frame).splitlines()[-1]
    assert row == (
        "| mrpc | mcc | w25-d50: 30.0 %, 50 MFLOPs | w75: 50.0 %, 200 MFLOPs | 3.00× (99.0 %, 1/1) | 2.00× "
        "(99.0 %, 1/1) | 3.00× (99.0 %, 1/1) | 2.00× (99.0 %, 1/1) |"
    )


def test_the_shipped_page_takes_the_tables(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for page in ("dynabert", "time"):
        (out / f"{page}.md").write_text((ROOT / f"results/{page}.md").read_text())
    dynabert_page.collect(runs).to_csv(out / "dynabert.csv", index=False)
    results_table.write(out, "data", "models")
    text = (out / "dynabert.md").read_text()
    assert text.count("| mrpc | mcc |") == 1 and "SST-2 | 91.9 %, 2.7 GFLOPs" in text and "3.1×" in text
    for swift, whole in PAIRS:
        assert f"--run runs/results/mrpc/seed0/cascade-dynabert-{swift}-{whole}\n" in text
