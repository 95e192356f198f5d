"""Cascades with a base-size Super: numbers are those of the stored tables, and the page says what the numbers say."""

import dataclasses
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dial.cli.tables import SweepCommand
from dial.costs.printed import select
from dial.stages.parquet import save_table
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from scripts import base_collect, base_page, base_pairs, base_students_page, results_table
from scripts.results_cell import crossfit_of, sweep_of
from scripts.results_steps import ROOT
from tests.stages.exits import exits_table
from tests.stages.population import logits_table

ROWS = 250
SHOWN = ["--scores", "energy", "softmax", "entropy", "random", "--bootstrap", "100"]


def cascade(seed: int, *strengths: float) -> StageTable:
    """Tiers as strong as said, with calibration and test rows; the last is the same for every seed's first tiers."""
    table = logits_table(ROWS, 1, strengths=strengths, splits=("calibration", "test"))
    rng = np.random.default_rng(seed)
    outputs = table.outputs.copy()
    outputs[:, :-1] += rng.normal(size=outputs[:, :-1].shape)
    names = ["swift", "super"] if len(strengths) == 2 else ["tier1", "tier2", "tier3"]
    lengths = dict.fromkeys(names, next(iter(table.lengths.values())))
    return dataclasses.replace(
        table,
        stages=tuple(Stage(name, name) for name in names),
        predictions=outputs.argmax(axis=-1),
        outputs=outputs,
        scores={},
        lengths=lengths,
        padded=lengths,
        metrics=("accuracy",),
        settings={"seed": 0, "tiers": {name: {"parameters": 10**6 * (i + 1)} for i, name in enumerate(names)}},
    ).with_scores(["energy", "softmax", "entropy", "random"])


TABLES = {
    "cascade-glove": cascade(1, 1.2, 2.5),
    "cascade-subword": cascade(2, 1.4, 2.5),
    "cascade-three": cascade(3, 1.2, 1.8, 2.5),
    "exits-deebert": exits_table(ROWS, 1, layers=(1, 2, 3)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored tables of SST-2, and both sweeps of each but one."""
    root = tmp_path_factory.mktemp("made")
    (cell,) = (cell for cell in base_collect.cells(str(root / "runs")) if cell.task == "base_sst2")
    for name, table in TABLES.items():
        path = root / f"results/base_sst2/seed0-{name}.parquet"
        save_table(table, path)
        if name == "cascade-subword":
            continue
        for kind, folder in (("split", sweep_of), ("crossfit", crossfit_of)):
            SweepCommand.main([str(path), "--calibration", kind, *SHOWN, "--out", folder(cell.folder, name)])
    shutil.copy(ROOT / "results/base_size.md", root / "results")
    return root


@pytest.fixture(scope="module")
def frames(made: Path) -> dict[str, pd.DataFrame]:
    return base_collect.collect(made / "runs", made / "results")


def cells_of(table: str, *first: str) -> list[str]:
    """The one line of a table that begins with these cells."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    (found,) = [line for line in lines if tuple(line[: len(first)]) == first]
    return found


def test_tiers_are_those_of_the_tables(frames: Mapping[str, pd.DataFrame]) -> None:
    tiers = frames["base_tiers.csv"]
    assert tiers.run.tolist() == ["glove"] * 2 + ["three"] * 3
    rows = TABLES["cascade-three"].of_split("test")
    right = (rows.predictions == rows.label[:, None]).mean(axis=0)
    mine = tiers[tiers.run == "three"]
    np.testing.assert_allclose(mine.quality, right)
    own = np.diff(rows.macs.mean(axis=0), prepend=0.0)
    np.testing.assert_allclose(mine.macs, own)
    table = base_page.tier_table(tiers)
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == ["BiLSTM, GloVe", "MPNet-base (Super)"]
    assert cells_of(table, "sst2", "MPNet-base (Super)")[5] == "2.0"


def test_in_sample_points_are_the_cheapest_that_keep_the_target(frames: Mapping[str, pd.DataFrame]) -> None:
    """Against every threshold, tried one after the other."""
    rows = TABLES["cascade-glove"].of_split("test")
    right = rows.predictions == rows.label[:, None]
    least = 0.98 * right[:, 1].mean()
    best = 1.0
    for threshold in [-np.inf, *np.unique(rows.scores["softmax"][:, 0])]:
        stays = rows.scores["softmax"][:, 0] > threshold
        quality = np.where(stays, right[:, 0], right[:, 1]).mean()
        if quality >= least - 1e-12:
            macs = np.where(stays, rows.macs[:, 0], rows.macs[:, 1]).mean()
            best = max(best, rows.macs_reference.mean() / macs)
    point = base_page.point_of(frames["base_size.csv"], ("base_sst2", "glove"), "in_sample", 0.98, "softmax")
    assert point is not None and point.speedup == pytest.approx(best)
    cell = cells_of(base_page.table_2(frames["base_size.csv"], "in_sample"), "sst2", "BiLSTM, GloVe")[8]
    assert cell.startswith(f"{best:.2f}×")


def test_the_point_of_exits_stands_beside_each_cascade(frames: Mapping[str, pd.DataFrame]) -> None:
    points = frames["base_size.csv"]
    table = base_page.table_2(points, "in_sample", printed=True)
    exits = base_page.point_of(points, ("base_sst2", "exits-deebert"), "in_sample", 0.99, "softmax")
    assert exits is not None and not exits.only_super
    for name in ("BiLSTM, GloVe", "BiLSTM, MiniLM-L6"):
        assert cells_of(table, "sst2", name)[2] == base_page.saved(exits, interval=False)
    printed = cells_of(table, "sst2", "TangoBERT, printed, in time")
    assert printed[2:] == ["1.4×", "1.2×", "4.3×", "11.5×", "1.8×", "1.5×", "6.1×", "13.9×"]
    assert "oracle" not in base_page.table_2(points, "crossfit_expected") and "mrpc" not in table


def test_a_model_of_exits_that_stop_late_is_not_the_super_alone() -> None:
    """Its first exit answers no row there, as that of a two-tier cascade only where the Super answers all."""
    point = {"score": "softmax", "rule": "threshold", "kind": "expected", "target": 0.99, "kept": 0.99, "held": True}
    point |= {"speedup": 1.5, "speedup_interval": None, "swift_ratio": 0.0, "shares": {"a": 0.0, "b": 0.5, "c": 0.5}}
    stage = {"quality": {"accuracy": 0.9}, "macs": 1.0}
    split = {"stages": [stage, stage], "reference_macs": 2.0, "points": [point]}
    (row,) = base_collect.cascades_page.points({"metrics": ["accuracy"], "splits": {"test": split}}, {}, "")
    assert row["speedup"] == 1.5 and not row["only_super"]
    point["shares"] = {"a": 0.0, "b": 0.0, "c": 1.0}
    (row,) = base_collect.cascades_page.points({"metrics": ["accuracy"], "splits": {"test": split}}, {}, "")
    assert row["speedup"] == 1.0 and row["only_super"]


def test_readings_do_not_mix(frames: Mapping[str, pd.DataFrame]) -> None:
    points = frames["base_size.csv"]
    assert set(points.kind) == set(base_page.KINDS) | set(base_page.PER_STAGE)
    assert set(points[points.kind == "per_stage"].run) == {"three", "exits-deebert"}
    assert not points.duplicated(["task", "run", "score", "target", "kind"]).any()
    table = base_page.per_stage_table(points, exits=False)
    assert [line.split(" | ")[2] for line in table.splitlines()[2:]] == ["100 %", "99 %", "98 %"]
    each = base_page.point_of(points, ("base_sst2", "three"), "crossfit_per_stage", 0.98, "softmax")
    assert cells_of(table, "sst2", "BiLSTM, MiniLM-L6", "98 %")[6] == base_page.saved(each)
    assert "three" not in base_page.per_stage_table(points, exits=True)


def test_pairs_are_differences_on_the_same_rows(frames: Mapping[str, pd.DataFrame]) -> None:
    pairs = frames["base_pairs.csv"]
    words = pairs[pairs.question == "words"].set_index("quantity")
    first, second = (TABLES[f"cascade-{name}"].of_split("test") for name in ("glove", "subword"))
    gain = [(rows.predictions[:, 0] == rows.label).mean() for rows in (first, second)]
    assert words.difference["swift"] == pytest.approx(gain[1] - gain[0])
    assert words.difference["super"] == words.low["super"] == words.high["super"] == 0  # one Super
    shown = cells_of(base_pairs.pair_table(pairs, "words", ("swift",)), "sst2", "BiLSTM, GloVe")
    assert shown[3].strip("*").startswith(f"{100 * (gain[1] - gain[0]):+.1f}")
    scores = base_pairs.pair_table(pairs, "scores", ("area",))
    assert scores.count("| softmax | energy |") == 2


def test_the_super_s_table_has_the_papers_own_numbers(frames: Mapping[str, pd.DataFrame]) -> None:
    table = base_page.published_table(frames["base_tiers.csv"])
    for paper, row in (("E-LANG, Table 4", "BERT-base (Super)"), ("COST-EFF, Table 3", "BERT-base")):
        name, number = paper.lower().split(", table ")
        values = [each.value for each in select([f"{name}:{number}"], "sst2") if each.row == row]
        assert cells_of(table, "sst2", f"{paper}: {row}")[3] == str(values[0])
    assert cells_of(table, "sst2", "TangoBERT, Table 3: second tier")[3] == "95.8"
    assert "3.5× (accuracy 93.7, its Super 93.5)" in base_page.table_4(frames["base_size.csv"])


def test_what_is_not_there_is_named(frames: Mapping[str, pd.DataFrame]) -> None:
    names = base_collect.missing(frames["base_size.csv"], frames["base_exits.csv"])
    assert "base_sst2: BiLSTM, Super's tokens" in names and "base_mrpc: COST-EFF 8×" in names
    assert "base_sst2: BiLSTM, GloVe" not in names and "base_sst2: DeeBERT" not in names


def test_what_was_not_trained_is_said_and_what_was_stands_beside_what_is_printed(
    frames: Mapping[str, pd.DataFrame],
) -> None:
    empty = base_students_page.tables(frames, {})
    assert set(empty.values()) == {base_students_page.NOT_YET, "Not measured yet."}
    model = {"task": "base_mrpc", "metric": "f1", "compression": 8.2, "full_depth": 9.5, "exit1": 0.7, "exit2": 0.85}
    point = {"kind": "in_sample", "kept": 0.991}
    rows = [
        {**model, **point, "method": method, "parameters": size, "target": target, "speedup": speedup}
        for method, size in (("costeff-8x", 13.4e6), ("small-pabee", 17.4e6))
        for target, speedup in ((0.99, 12.0), (0.98, 15.0))
    ]
    exits = pd.DataFrame(rows).assign(at1=0.8)
    table = base_students_page.tables({**frames, "base_exits.csv": exits}, {})["base-costeff"]
    ours = ["mrpc", "COST-EFF 8×", "13.4", "f1", "85.0", "9.50×", "12.00× (99.1)", "15.00× (99.1)"]
    assert cells_of(table, "mrpc", "COST-EFF 8×") == ours
    printed = cells_of(table, "mrpc", "COST-EFF 8x, printed")
    (value,) = {row.value for row in select(["cost-eff:3"], "mrpc") if row.row == "COST-EFF 8x"}
    assert printed[3:6] == ["f1", str(value), "19.0× at its point"]


def test_seeds_stand_side_by_side(made: Path) -> None:
    """Quality of the first tier and the crossfit point, of a seed in its own folder before the first seed's Super."""
    cell = next(cell for cell in base_collect.cells(str(made / "runs")) if cell.task == "base_mrpc")
    for seed, name in ((0, "cascade-glove"), (2, "cascade-subword")):
        seeded = dataclasses.replace(cell, seed=seed)
        path = made / f"results/base_mrpc/seed{seed}-cascade-glove.parquet"
        save_table(TABLES[name], path)
        for kind, folder in (("split", sweep_of), ("crossfit", crossfit_of)):
            out = folder(seeded.folder, "cascade-glove")
            SweepCommand.main([str(path), "--calibration", kind, *SHOWN, "--out", out])
    seeds = base_collect.collect_seeds(made / "runs", made / "results")
    shutil.rmtree(made / "results/base_mrpc")
    assert seeds[["task", "run", "seed"]].values.tolist() == [["base_mrpc", "glove", 0], ["base_mrpc", "glove", 2]]
    right = []
    for name in ("cascade-glove", "cascade-subword"):
        rows = TABLES[name].of_split("test")
        right.append((rows.predictions[:, 0] == rows.label).mean())
    np.testing.assert_allclose(seeds.swift_quality, right)
    cells = cells_of(base_students_page.seed_table(seeds), "mrpc", "BiLSTM, GloVe")
    assert cells[3] == ", ".join(f"{100 * value:.1f}" for value in right)
    assert base_students_page.seed_table(seeds[seeds.seed == 0]) == base_students_page.NOT_YET


def test_every_run_of_the_plan_has_a_name() -> None:
    for cell in base_collect.cells():
        for run in base_collect.cascades_of(cell):
            assert run.removeprefix("cascade-") in base_collect.NAMES


def test_the_page_is_written_from_what_was_kept(made: Path, frames: Mapping[str, pd.DataFrame]) -> None:
    base_collect.keep(made / "runs", made / "results")
    for name in ("base_curves.png", "base_words.png", "base_sst2_errors.png"):
        assert (made / "results" / name).stat().st_size > 10_000
    assert not (made / "results/base_mrpc_errors.png").exists()
    places = (f"<!-- {name} -->\nold\n<!-- end {name} -->\n" for name in ("time-commands", "speed-commands"))
    (made / "results/time.md").write_text("".join(places))
    results_table.write(made / "results", "data", "models")
    text = (made / "results/base_size.md").read_text()
    for name, table in base_page.tables(frames, "data", "models").items():
        assert f"<!-- {name} -->\n{table}\n<!-- end {name} -->" in text
    commands = text.split("<!-- base-commands -->")[1]
    assert commands.count("dial test") == 3 and commands.count("dial sweep") == 6
    assert "base_mrpc" not in commands and commands.index("unpack.py") < commands.index("dial fit")


def test_commands_are_of_all_that_has_numbers(frames: Mapping[str, pd.DataFrame]) -> None:
    """Of other seeds, of exits in a number, and of what was measured on the clock, too."""
    seeds = pd.DataFrame({"task": ["base_rte"] * 2, "run": ["l3"] * 2, "seed": [0, 2]})
    exits = pd.DataFrame({"task": ["base_stsb"], "method": ["berxit"]})
    more = {**frames, "base_exits.csv": exits, base_collect.SEEDS: seeds}
    text = "\n".join(base_page.commands(more, {"base_mrpc": {}}, "data", "models"))
    for run in ("base_rte/seed0/cascade-l3", "base_rte/seed2/cascade-l3", "base_stsb/seed0/exits-berxit"):
        assert f"store_results.py runs/results/{run}" in text
    assert "base_rte/seed1" not in text and text.count("--study.rows") == 1
    assert "store_results.py runs/results/base_mrpc/seed0/study" in text


def test_the_stored_page_is_what_the_stored_numbers_give(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("*.parquet", "*.png"))
    results_table.write(tmp_path / "results", "../shared/data", "../shared/models")
    text = (ROOT / "results/base_size.md").read_text()
    assert (tmp_path / "results/base_size.md").read_text() == text
    for picture in re.findall(r"\]\((\w+\.png)\)", text):
        assert (ROOT / "results" / picture).is_file()
