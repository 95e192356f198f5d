"""DynaBERT through the command line: both stages, a cascade of one folder, and what is predicted with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from dial.cli.main import main
from dial.tiers.loading import load_tier
from dial.tiers.tokens import Tokeniser
from tests.cli.conftest import ROOT

NAMES = ["negative", "positive"]
TEXTS = ["the film was good", "dull", "a very very fine cast", "so poor and bad", "the plot is not great", "fine"]


@torch.inference_mode()
def scores(folder: Path, **view) -> np.ndarray:
    """The largest probability and the answer of each text."""
    tier = load_tier({"path": str(folder), **view}, "part", NAMES)
    tokeniser = Tokeniser(tier)
    logits = torch.cat([tier(tokeniser.collate(tokeniser([text])))[:, 0] for text in TEXTS]).double().softmax(-1)
    return np.stack([logits.amax(-1).numpy(), logits.argmax(-1).numpy()])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_folder_from_end_to_end(dial, data_arguments, make_tiny_bert, tmp_path) -> None:
    start = make_tiny_bert(layers=4, num_attention_heads=4, seed=4)
    common = [*data_arguments, "--data.batch_size=16", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    width, depth = tmp_path / "width", tmp_path / "depth"
    for run, path, stage in ((width, start, "dynabert_width"), (depth, width / "tier", "dynabert")):
        fit = (
            "fit",
            f"--config=configs/model/{stage}.yaml",
            *common,
            f"--model.path={path}",
            f"--model.teacher={path}",
        )
        said = dial(*fit, "--model.max_length=32", f"--run={run}").ok()
        assert "width0.25-depth1" in said
    tier = depth / "tier"
    assert json.loads((tier / "config.json").read_text())["subnetworks"] == {
        "widths": [0.25, 0.5, 0.75, 1.0],
        "depths": [0.5, 0.75, 1.0],
    }
    tiers = f"--model.tiers=[{{path: {tier}, width: 0.25, depth: 0.5}}, {tier}]"
    test = ("test", "--config=configs/model/cascade.yaml", tiers, *common[:-2], "--sweep.bootstrap=100")
    dial(*test, "--trainer.accelerator=cpu", f"--run={tmp_path / 'cascade'}").ok()

    swift, whole = scores(tier, width=0.25, depth=0.5), scores(tier)
    threshold = float(np.sort(swift[0])[2:4].mean())
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    out = tmp_path / "out.jsonl"
    rule = ("--score=softmax", f"--threshold={threshold}", "--device=cpu")
    dial("predict", tmp_path / "cascade", tmp_path / "texts.txt", f"--out={out}", *rule).ok()
    found = [json.loads(line) for line in out.read_text().splitlines()]
    stays = swift[0] >= threshold
    assert stays.sum() == 3 and [row["stage"] for row in found] == ["swift" if stay else "super" for stay in stays]
    assert [row["prediction"] for row in found] == np.where(stays, swift[1], whole[1]).astype(int).tolist()
    macs = {row["stage"]: [r["macs"] for r in found if r["stage"] == row["stage"]] for row in found}
    assert max(macs["swift"]) < min(macs["super"])
    message = dial(*test[:2], tiers.replace("0.25", "0.3"), *test[3:], f"--run={tmp_path / 'bad'}").error
    assert "`tiers[0]`: `width` must divide the 4 attention heads of a layer, but 0.3 of them are 1.2" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--widths", "[0.3, 1]"), "`--widths` must divide the 4 attention heads of a layer, but 0.3 of them are 1.2"),
        (("--model.widths", "[0.5, 1]"), "`--model.widths` must be left out, as every stage would get it"),
        (("--swift", "0.3"), "`--swift` must divide the 4 attention heads"),
    ],
)
def test_the_printed_dynabert_is_looked_at_before_its_teacher_is_trained(
    make_tiny_bert, tmp_path, capsys, monkeypatch, arguments, message
) -> None:
    """Also where the network is found by its id: here a folder that the hub's reader is led to."""
    folder, read = str(make_tiny_bert(layers=4, num_attention_heads=4)), AutoConfig.from_pretrained
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda path, **kwargs: read(folder, **kwargs))
    monkeypatch.setattr("dial.tiers.places.check_place", lambda path, argument: path)
    words = ["recipe", str(ROOT / "configs/paper/dynabert.yaml"), "--row", "bert-base", "--run", str(tmp_path / "x")]
    assert main([*words, "--list"]) == 0
    assert "width: 0.5, depth: 0.25}" in capsys.readouterr().out
    assert main([*words, *arguments]) == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"layers": 4, "num_attention_heads": 2}, "step cascade tests: `width` must divide the 2 attention heads"),
        ({"layers": 1, "num_attention_heads": 4}, "step cascade tests: `depth` must drop a layer"),
    ],
)
def test_the_printed_cascade_is_looked_at_before_its_teacher_is_trained(
    make_tiny_bert, tmp_path, capsys, shape, message
) -> None:
    folder = str(make_tiny_bert(**shape))
    words = ["recipe", str(ROOT / "configs/paper/dynabert.yaml"), "--row", "bert-base", "--run", str(tmp_path / "x")]
    stages = ["--widths", "[0.5, 1]", "--depths", "[1]", "--swift", "0.5"]
    assert main([*words, "--encoder", folder, *stages]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "x").exists()
