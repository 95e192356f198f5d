"""Reading comprehension and dropped tokens: numbers are those of the stored tables, and nothing is said without any."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dial.cli.tables import SweepCommand
from dial.costs.printed import select
from dial.stages.parquet import save_table
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from scripts import reading_collect, reading_page, results_table
from scripts.results_cell import crossfit_of, sweep_of
from scripts.results_steps import ROOT
from scripts.store_results import without_texts
from tests.scripts.test_base_page import cascade
from tests.scripts.written import STUDY, cascade_table
from tests.stages.exits import exits_table

QUESTIONS, PARAGRAPHS = 320, 80
SHOWN = ["--scores", "softmax", "energy", "random", "--bootstrap", "100"]


def questions(seed: int) -> StageTable:
    """A cascade whose answers are spans, several of one paragraph; the Super is the same for every seed."""
    table = cascade_table(QUESTIONS, free=True, seed=seed)
    surety, texts = table.scores["energy"], table.texts.copy()
    surety[:, 0] = np.random.default_rng(seed).normal(size=QUESTIONS)
    texts[:, 0] = np.where(surety[:, 0] > 0, texts[:, 1], texts[:, 0])  # the surer half answers as the Super does
    scores = {name: surety * scale for name, scale in (("softmax", 1.0), ("margin", 0.9), ("energy", 3.0))}
    group = np.array([f"p{row * PARAGRAPHS // QUESTIONS}" for row in range(QUESTIONS)])
    made = dataclasses.replace(
        table, texts=texts, scores=scores, group=group, written={}, cut_off={}, metrics=("token_f1", "squad_em")
    )
    made = dataclasses.replace(made, settings={key: made.settings[key] for key in ("tiers", "seed", "task")})
    return without_texts(made.with_scores(["random"]))


def shorter(seed: int, share: float) -> StageTable:
    """A cascade of a tier that drops tokens down to a share of its Super's MACs."""
    table = cascade(seed, 1.0 + share, 2.5)
    own = share * table.macs_reference
    macs = np.stack([own, own + table.macs_reference], axis=1)
    return dataclasses.replace(
        table, macs=macs, decide_macs=macs, stages=(Stage("swift", "swift"), Stage("super", "super"))
    )


TABLES = {
    "squad/seed0-cascade-student": questions(1),
    "squad/seed0-cascade-lengths-04": questions(2),
    "sst2/seed0-cascade-lengths-03": shorter(1, 0.3),
    "sst2/seed0-cascade-lengths-075": shorter(2, 0.75),
    "sst2/seed0-exits-equilibrium": exits_table(250, 1, layers=(1, 2, 3)),
    "sst2/seed0-cascade-bilstm-distilled": shorter(3, 0.05),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored tables, and both sweeps of the cascades of the plan."""
    root = tmp_path_factory.mktemp("made")
    for name, table in TABLES.items():
        path = root / f"results/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_table(table, path)
        task, run = name.split("/seed0-")
        if "lengths" in run or "student" in run:
            for kind, folder in (("split", sweep_of), ("crossfit", crossfit_of)):
                out = folder(f"{root}/runs/{task}/seed0", run)
                SweepCommand.main([str(path), "--calibration", kind, *SHOWN, "--out", out])
    (root / "results/squad/study.json").write_text(json.dumps(STUDY))
    for page in ("reading.md", "time.md"):
        shutil.copy(ROOT / "results" / page, root / "results")
    reading_collect.keep(root / "runs", root / "results")
    results_table.write(root / "results", "data", "models")
    return root


@pytest.fixture(scope="module")
def frames(made: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(made / "results" / name) for name in reading_collect.FILES}


def line_of(table: str, *first: str) -> list[str]:
    """The one line of a table that begins with these cells."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    (found,) = [line for line in lines if tuple(line[: len(first)]) == first]
    return found


def test_models_alone_have_both_metrics_of_the_table(frames: dict[str, pd.DataFrame]) -> None:
    rows = TABLES["squad/seed0-cascade-student"].of_split("test")
    f1, exact = (100 * rows.statistics[name][:, 0].mean() for name in ("token_f1", "squad_em"))
    table = reading_page.question_tiers(reading_page.of_tasks(frames["reading_tiers.csv"], True))
    cells = line_of(table, "student")
    assert cells[1] == f"{exact:.1f}" and cells[2].startswith(f"{f1:.1f} [")
    assert f"{len(rows)} questions about {len(set(rows.group.tolist()))} paragraphs." in table
    assert (
        table.count("MPNet-base (Super)") == 1
        and line_of(table, "TangoBERT, printed: BERT-base (second tier)")[2] == "88.2"
    )


def test_in_sample_points_are_the_cheapest_that_keep_the_target(frames: dict[str, pd.DataFrame]) -> None:
    """Against every threshold, tried one after the other; F1 is a mean over questions."""
    rows = TABLES["squad/seed0-cascade-student"].of_split("test")
    f1, scores = rows.statistics["token_f1"], rows.scores["softmax"][:, 0]
    best = 1.0
    for threshold in [-np.inf, *np.unique(scores)]:
        stays = scores > threshold
        if np.where(stays, f1[:, 0], f1[:, 1]).mean() >= 0.98 * f1[:, 1].mean() - 1e-12:
            macs = np.where(stays, rows.macs[:, 0], rows.macs[:, 1]).mean()
            best = max(best, rows.macs_reference.mean() / macs)
    table = reading_page.table_2(reading_page.of_tasks(frames["reading.csv"], True))
    assert line_of(table, "student")[5].startswith(f"{best:.2f}×")
    assert line_of(table, "TangoBERT, printed, in time")[1:] == ["1.1×", "1.7×", "3.6×", "1.3×", "2.5×", "4.2×"]


def test_time_stands_beside_what_is_printed() -> None:
    table = reading_page.time_table(STUDY)
    assert line_of(table, "cascade at 99 %") == [
        *("cascade at 99 %", "99.1", "2.00×", "10.0", "1.60× [1.50, 1.70]", "10.0", "2.40× [2.30, 2.50]")
    ]
    assert line_of(table, "TangoBERT, printed", "98")[4:] == ["2.5×", "–", "2.7×"]


def test_dropped_tokens_alone_and_what_e_lang_prints(frames: dict[str, pd.DataFrame]) -> None:
    table = reading_page.dropped_tiers(reading_page.of_tasks(frames["reading_tiers.csv"], False))
    cells = line_of(table, "sst2", "tokens dropped to 0.3 of the MACs")
    rows = TABLES["sst2/seed0-cascade-lengths-03"].of_split("test")
    assert cells[3].startswith(f"{100 * (rows.predictions[:, 0] == rows.label).mean():.1f} [") and cells[5] == "30.0"
    printed = {row.row: row for row in select(["e-lang:4"], "sst2") if row.flops}
    share = printed["Length-Adaptive"].flops / printed["BERT-base (Super)"].flops  # type: ignore[operator]
    assert line_of(table, "sst2", "E-LANG, Table 4: Length-Adaptive")[3:] == ["93.1", "17,600", f"{100 * share:.1f}"]


def test_the_page_and_the_readme_show_what_there_is(made: Path, frames: dict[str, pd.DataFrame]) -> None:
    text = (made / "results/reading.md").read_text()
    assert reading_page.NOT_YET not in text
    assert "Not trained yet" in text and "squad (student at 0.7 of its MACs)" in text and "mrpc" in text
    for picture in re.findall(r"\]\((\w+\.png)\)", text):
        assert (made / "results" / picture).stat().st_size > 10_000
    assert len(re.findall(r"\]\(reading_\w+\.png\)", text)) == 2
    told = text.split("<!-- reading-commands -->")[1]
    assert told.count("dial test") == 1 + 2 + 1 and told.count("dial lengths") == 2 and "mrpc" not in told
    assert told.count("--study.rows") == 1
    for name in ("reading-speedup-98", "reading-dropped-99"):
        assert "confident" in text.split(f"<!-- {name} -->")[1].split("<!--")[0]
    rows = reading_page.methods(frames["reading.csv"], "crossfit_confident", 0.99)
    assert [row[2] for row in rows] == ["squad", "sst2"] and all("×" in row[3] for row in rows)


def test_nothing_is_said_of_what_was_not_trained(tmp_path: Path) -> None:
    for page in ("reading.md", "time.md"):
        shutil.copy(ROOT / "results" / page, tmp_path)
    reading_collect.keep(tmp_path / "runs", tmp_path)
    results_table.write(tmp_path, "data", "models")
    text = (tmp_path / "reading.md").read_text()
    assert {file.name for file in tmp_path.iterdir()} == {"reading.md", "time.md"}
    assert text.count(reading_page.NOT_YET) == 10 and ".png" not in text
    assert "Not trained yet, 9 cascades of the plan: squad (student, " in text
    told = text.split("<!-- reading-commands -->")[1]
    assert told.count("dial test") == 6 + 1 + 1 and told.count("dial fit") == 3 + 2 * 2
    assert reading_page.methods(pd.DataFrame(), "crossfit_confident", 0.99) == []
    (tmp_path / "reading.md").unlink()
    results_table.write(tmp_path, "data", "models")
    assert not (tmp_path / "reading.md").exists()


def test_the_stored_page_is_what_the_stored_numbers_give(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("*.parquet"))
    results_table.write(tmp_path / "results", "../shared/data", "../shared/models")
    assert (tmp_path / "results/reading.md").read_text() == (ROOT / "results/reading.md").read_text()


def test_every_run_of_the_plan_has_a_name() -> None:
    for cell in reading_collect.cells():
        for run in reading_collect.cascades_of(cell):
            assert run.removeprefix("cascade-") in reading_collect.NAMES
