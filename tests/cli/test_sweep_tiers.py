"""Some tiers of one test are swept as if they had been tested alone."""

import json
from pathlib import Path

import pandas as pd
import pytest

from dial.cli.tables import SweepCommand
from dial.costs.functions import ModelCosts

QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--sweep.bootstrap=100")


def test_a_pair_of_three_tiers_is_the_cascade_of_the_two(make_tiny_bert, data_arguments, dial, tmp_path: Path) -> None:
    tiers = [str(make_tiny_bert(layers=layers, seed=layers)) for layers in (1, 2, 3)]
    names = ["tiny", "small", "super"]
    for run, chosen in (("all", [0, 1, 2]), ("pair", [0, 2])):
        views = f"--model.tiers=[{', '.join(tiers[place] for place in chosen)}]"
        called = f"--model.names=[{', '.join(names[place] for place in chosen)}]"
        common = ("--config=configs/model/cascade.yaml", *data_arguments, *QUIET)
        dial("test", *common, views, called, f"--run={tmp_path}/{run}").ok()
    table, out = tmp_path / "all/sweep/stages.parquet", tmp_path / "swept"
    targets = json.loads((tmp_path / "pair/sweep/summary.json").read_text())["settings"]["targets"]
    asked = [str(table), "--tiers", "tiny", "super", "--bootstrap", "100", "--out", str(out)]
    assert SweepCommand.main([*asked, "--targets", *map(str, targets)]) == 0
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (out, tmp_path / "pair/sweep")]
    assert summaries[0]["splits"] == summaries[1]["splits"]
    curves = [pd.read_parquet(folder / "curve.parquet") for folder in (out, tmp_path / "pair/sweep")]
    pd.testing.assert_frame_equal(*curves)
    assert ModelCosts.load(out / "costs.json") == ModelCosts.load(tmp_path / "pair/sweep/costs.json")

    rows, answers = tmp_path / "rows.csv", []
    rows.write_text("text\n" + "\n".join(f"a film of {row} parts" for row in range(12)))
    for run in (out, tmp_path / "pair"):
        dial("predict", run, rows, "--out", run / "answers.jsonl", "--target", "0.9").ok()
        answers.append((run / "answers.jsonl").read_text())
    assert answers[0] == answers[1] and answers[0].count('"stage"') == 12

    with pytest.raises(ValueError, match="`--out` must be a new folder or one of the same configuration"):
        SweepCommand.main([*asked[:2], "small", *asked[3:]])
    with pytest.raises(ValueError, match="`--tiers` must be two or more of tiny, small, super, in this order and with"):
        SweepCommand.main([*asked[:2], "huge", *asked[3:]])
