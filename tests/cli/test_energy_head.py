"""An energy head through the command line: trained, left beside the tier or apart, and deciding in a cascade."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from dial.models.encoder_decoder import encoder_of
from dial.tiers.loading import load_tier
from tests.cli.conftest import QUIET
from tests.conftest import WORDS

pytestmark = pytest.mark.slow
MODEL = ("--config=configs/model/energy_head.yaml", "--model.max_length=32", "--trainer.max_epochs=2")


@pytest.fixture(scope="module")
def head(dial, data_arguments, make_tiny_t5, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a head apart, and of the Swift that it was trained on."""
    swift, run = make_tiny_t5(layers=1), tmp_path_factory.mktemp("head") / "run"
    arguments = (*MODEL, *data_arguments, *QUIET, f"--model.path={swift}", "--model.apart=true", f"--run={run}")
    dial("fit", *arguments).ok()
    return run / "tier", swift


def test_a_cascade_is_decided_by_a_head_apart(dial, data_arguments, glue_folder, make_tiny_t5, head, tmp_path) -> None:
    folder, swift = head
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.json",
        "energy_head.json",
        "energy_head.safetensors",
    ]
    tiers = (
        f"[{{path: {swift}, head: {folder}, max_new_tokens: 3}}, {{path: {make_tiny_t5(seed=5)}, max_new_tokens: 3}}]"
    )
    arguments = ("--config=configs/model/cascade.yaml", *data_arguments, *QUIET, f"--model.tiers={tiers}")
    dial("test", *arguments, "--sweep.bootstrap=100", f"--run={tmp_path}/run").ok()
    table = pd.read_parquet(tmp_path / "run/sweep/stages.parquet")
    swift_name = next(name for name in table if name.startswith("energy_")).removeprefix("energy_")
    assert (table[f"decide_macs_{swift_name}"] < table[f"macs_{swift_name}"]).all()  # Eq. 16: nothing is written yet
    tier = load_tier({"path": str(swift), "head": str(folder)}, "swift", ["negative", "positive"])
    texts = pd.read_parquet(Path(glue_folder) / "sst2/validation.parquet")["sentence"].tolist()
    with torch.no_grad():
        encoding = dict(tier.tokenizer(texts, padding=True, return_tensors="pt"))
        states = encoder_of(tier.model.eval())(**encoding).last_hidden_state
    for name, expected in tier.head.scores(states, encoding["attention_mask"]).items():  # type: ignore[union-attr]
        given = table[table["split"] == "test"].sort_values("sample_id")[f"{name}_{swift_name}"]
        assert given.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_head_of_another_encoder_is_refused_in_one_line(dial, data_arguments, make_tiny_t5, head, tmp_path) -> None:
    other = make_tiny_t5(layers=1, seed=9)
    tiers = f"[{{path: {other}, head: {head[0]}}}, {other}]"
    arguments = ("--config=configs/model/cascade.yaml", *data_arguments, *QUIET, f"--model.tiers={tiers}")
    error = dial("test", *arguments, f"--run={tmp_path}/run").error
    assert "head` must be trained on this tier's encoder" in error and not (tmp_path / "run/sweep").exists()


def test_the_whole_tier_is_left_with_its_head(dial, data_arguments, make_tiny_t5, tmp_path) -> None:
    arguments = (*MODEL, *data_arguments, *QUIET, f"--model.path={make_tiny_t5()}", f"--run={tmp_path}/run")
    dial("fit", *arguments).ok()
    assert {"model.safetensors", "energy_head.json", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "run/tier").iterdir()
    }
    card = json.loads((tmp_path / "run/tier/card.json").read_text())
    assert card["macs"]["per_row"] > 0 and 0 <= card["head_quality"] <= 1 and card["validation_quality"] is None
    again = ("--data.batch_size=8", f"--model.path={tmp_path}/run/tier", f"--run={tmp_path}/again")
    own = {**card, "validation_quality": 0.5}
    (tmp_path / "run/tier/card.json").write_text(json.dumps(own))
    dial("fit", *MODEL, *data_arguments, *QUIET, *again).ok()
    assert json.loads((tmp_path / "again/tier/card.json").read_text())["validation_quality"] == 0.5


def test_a_head_over_the_vocabulary_decides_about_free_text(dial, make_tiny_t5, tmp_path) -> None:
    texts = [f"{a} {b} film" for a in ("good", "bad", "dull", "great", "poor") for b in WORDS] * 2
    for role in ("train", "validation", "test"):
        rows = "".join(f"{text},{text.split()[0]}\n" for text in texts)
        (tmp_path / f"{role}.csv").write_text(f"source,target\n{rows}")
    data = ["--data=TextToTextDataModule", "--data.calibration=crossfit", "--data.batch_size=16"]
    data += [f"--data.{role}_file={tmp_path}/{role}.csv" for role in ("train", "validation", "test")]
    swift = make_tiny_t5(layers=1)
    head = ("--model.reading=bag", "--model.bottleneck=8", f"--model.path={swift}", "--model.apart=true")
    dial("fit", *MODEL, *data, *QUIET, *head, f"--run={tmp_path}/head").ok()
    assert json.loads((tmp_path / "head/tier/energy_head.json").read_text())["kind"] == "vocabulary"
    views = [f"path: {swift}, head: {tmp_path}/head/tier", f"path: {make_tiny_t5(seed=5)}"]
    tiers = f"[{', '.join(f'{{{view}, max_new_tokens: 3}}' for view in views)}]"
    arguments = ("--config=configs/model/cascade.yaml", *data, *QUIET, f"--model.tiers={tiers}")
    dial("test", *arguments, "--sweep.bootstrap=100", f"--run={tmp_path}/run").ok()
    table = pd.read_parquet(tmp_path / "run/sweep/stages.parquet")
    assert {name.partition("_")[0] for name in table if name.startswith(("energy_", "softmax_", "entropy_"))} == {
        "energy",
        "softmax",
        "entropy",
    }
