"""Keeping the tables of tested runs."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dial.costs.functions import ModelCosts
from dial.stages.parquet import load_costs, load_table, save_table
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from scripts import store_results as store
from scripts.results_cell import table_of
from scripts.results_steps import ROOT
from tests.stages.test_parquet import assert_equal
from tests.stages.test_slim import COSTS, make


def write_run(folder: Path, table: StageTable) -> None:
    save_table(table, folder / "sweep/stages.parquet")
    COSTS.save(folder / "sweep/costs.json")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two tested runs, and one of a name that no results are made of."""
    for name in ("cola/seed0/cascade-layers2", "mrpc/seed2/exits-ta", "mrpc/seed2/trial"):
        write_run(tmp_path / "runs" / name, make())
    return tmp_path / "runs"


def test_every_tested_run_is_kept_where_the_steps_look_for_it(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.main([str(runs), "--out", str(tmp_path / "results")])
    found = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "results").rglob("*.*"))
    assert found == [table_of("cola/seed0", "cascade-layers2"), table_of("mrpc/seed2", "exits-ta")]
    for path in found:
        assert_equal(load_table(tmp_path / path), make())
    assert "0.02 MB of tables" in capsys.readouterr().out


def test_one_run_is_kept_alone_and_a_later_one_replaces_it(runs: Path, tmp_path: Path) -> None:
    run, out = runs / "mrpc/seed2/trial", tmp_path / "results"
    for rows in (240, 100):
        write_run(run, make(rows=rows))
        store.main([str(run), "--out", str(out)])
        assert len(load_table(out / "mrpc/seed2-trial.parquet")) == rows


def test_some_tiers_of_a_run_are_kept_under_another_name(tmp_path: Path) -> None:
    table = make()
    stages = (Stage("first", "first"), *table.stages)
    costs = ModelCosts({"first": {0: COSTS.answer["swift"][0]}, **COSTS.answer}, COSTS.decide, COSTS.reference)
    tokens = {"first": table.lengths["swift"], **table.lengths}
    first = {name: getattr(table, name)[:, [0, 0, 1, 2]] for name in ("outputs", "predictions")}
    columns = costs.columns(stages, tokens, {}, reference="super")
    scores = {name: values[:, [0, 0, 1, 2]] for name, values in table.scores.items()}
    whole = dataclasses.replace(table, stages=stages, lengths=tokens, padded={}, scores=scores, **first, **columns)
    run, out = tmp_path / "sst2/seed0/all", tmp_path / "results"
    save_table(whole, run / "sweep/stages.parquet")
    costs.save(run / "sweep/costs.json")
    given = ["--tiers", "swift", "super", "--name", "cascade-swift"]
    store.main([str(run), "--out", str(out), *given])
    assert_equal(load_table(out / "sst2/seed0-cascade-swift.parquet"), dataclasses.replace(table, padded={}))
    assert load_costs(out / "sst2/seed0-cascade-swift.parquet") == COSTS
    with pytest.raises(ValueError, match="`--tiers` must be two or more of first, swift, super"):
        store.main([str(run), "--out", str(out), "--tiers", "super", "swift", "--name", "cascade-swift"])
    for half in (given[:3], given[3:]):
        with pytest.raises(ValueError, match="`--tiers` and `--name` must be given together, for one run"):
            store.main([str(run), "--out", str(out), *half])


def test_a_table_without_cost_functions_keeps_the_costs_of_its_rows(runs: Path, tmp_path: Path) -> None:
    run = runs / "cola/seed0/cascade-layers2"
    (run / "sweep/costs.json").write_text(json.dumps({"schema": 1, "note": "cost functions unknown"}))
    store.main([str(run), "--out", str(tmp_path / "results")])
    assert "macs_swift" in pq.read_schema(tmp_path / "results/cola/seed0-cascade-layers2.parquet").names


def test_what_must_not_be_kept_is_refused(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, table = ["--out", str(tmp_path / "results")], make()
    with pytest.raises(ValueError, match=r"`runs` must hold tested runs, but .*none has none"):
        store.main([str(tmp_path / "none"), *out])
    with monkeypatch.context() as limited:
        limited.setattr(store, "LIMIT", 15_000)
        with pytest.raises(ValueError, match=r"at most 0\.015 MB of tables, but has 0\.0"):
            store.main([str(runs), *out])
    path = "/home/somebody/runs/super/tier"
    for settings, message in (
        ({"partial": True}, "must be whole, but .* holds a trial run"),
        ({"tiers": {"super": {"view": {"path": path}}}}, f"relative to the repository, but .* names {path}"),
    ):
        write_run(runs / "cola/seed0/exits-ta", dataclasses.replace(table, settings={**table.settings, **settings}))
        with pytest.raises(ValueError, match=message):
            store.main([str(runs / "cola/seed0/exits-ta"), *out])
    assert not (tmp_path / "results/cola/seed0-exits-ta.parquet").exists()


def test_a_study_is_kept_as_numbers_with_the_quality_on_all_rows(runs: Path, tmp_path: Path) -> None:
    run = runs / "cola/seed0/study"
    write_run(run, make())
    (run / "study").mkdir()
    (run / "study/study.png").write_bytes(b"figure")
    (run / "study/study.json").write_text(json.dumps({"split": "test", "metric": "mcc", "score": "energy"}))
    stages = [{"name": name, "quality": {"mcc": quality}} for name, quality in (("swift", 0.2), ("super", 0.3))]
    (run / "sweep/summary.json").write_text(json.dumps({"metrics": ["mcc"], "splits": {"test": {"stages": stages}}}))
    store.main([str(run), "--out", str(tmp_path / "results")])
    kept = json.loads((tmp_path / "results/cola/study.json").read_text())
    assert kept["qualities"] == {"swift": 0.2, "super": 0.3} and kept["score"] == "energy"
    assert (tmp_path / "results/cola/study.png").read_bytes() == b"figure"
    assert not list((tmp_path / "results").rglob("*.parquet"))
    with pytest.raises(ValueError, match="`--tiers` must be left out where a study is kept, but"):
        store.main([str(run), "--out", str(tmp_path / "results"), "--tiers", "swift", "super", "--name", "cascade-a"])


def test_the_tables_of_the_repository_are_within_the_limit_and_hold_no_text() -> None:
    """Those that are there: ids, labels and numbers, and tiers named relative to the repository."""
    tables = sorted((ROOT / "results").glob("*/*.parquet"))
    assert sum(path.stat().st_size for path in tables) <= store.LIMIT
    for path in tables:
        schema = pq.read_schema(path)
        numbers = [
            field.name for field in schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        ]
        logits = [name for name in schema.names if name.startswith("output_")]
        assert set(schema.names) - {*numbers, *logits} <= {"split", "group"}
        kinds = ("split", "sample_id", "label", "length_", "padded_", "output_", "learned_")
        assert not logits or all(name.startswith(kinds) for name in schema.names)
        store.check(load_table(path), path)
