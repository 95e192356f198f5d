"""Models whose weights ranks share: the shipped configurations with tiny models on two CPU processes.

All is as on a cluster but `accelerator`, `devices` and `precision`, for which a CPU's rounding is compared.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from dial.tiers.loading import load_tier
from tests.cli.real_commands import facts, start, succeed, witness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SHARDED = ("--trainer=configs/trainer/sharded.yaml", "--trainer.accelerator=cpu", "--trainer.devices=2")
PLAIN = ("--trainer=configs/trainer/ddp_cpu.yaml",)
EXACT = "--trainer.precision=32-true"
ROWS = [f"--data.{role}_rows={n}" for role, n in (("train", 96), ("validation", 21), ("calibration", 60), ("test", 41))]
DATA = ["--data=configs/data/demo_text.yaml", *ROWS]


@pytest.fixture(scope="module")
def t5(make_tiny_t5) -> Path:
    return make_tiny_t5(texts=["0 1 2 3 4 5 6 7 8 9"])


def fit(folder: Path, t5: Path, *options: str, name: str = "t5_11b", **kill: int) -> list[str]:
    return [
        *("fit", f"--config=configs/model/{name}.yaml", f"--model.path={t5}", *DATA, "--data.batch_size=8"),
        *("--model.max_length=24", "--model.max_new_tokens=6", "--trainer.max_epochs=2", "--resume.every_n_steps=2"),
        *(*options, witness(folder, **kill), f"--run={folder}"),
    ]


@pytest.fixture(scope="module")
def fitted(t5, tmp_path_factory) -> dict[str, Path]:
    """The Super by both strategies."""
    folders = {}
    for name, options in (("sharded", (*SHARDED, EXACT)), ("plain", (*PLAIN, EXACT))):
        folders[name] = tmp_path_factory.mktemp(name)
        succeed(*fit(folders[name], t5, *options))
    return folders


def test_a_whole_tier_is_left_with_the_weights_that_plain_processes_train(fitted) -> None:
    one, two = (load_file(fitted[name] / "tier/model.safetensors") for name in ("sharded", "plain"))
    assert one.keys() == two.keys()
    for name, value in two.items():
        torch.testing.assert_close(one[name], value, rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    cards = [json.loads((fitted[name] / "tier/card.json").read_text()) for name in ("sharded", "plain")]
    different = {key for key in cards[0] if cards[0][key] != cards[1][key]}
    assert different <= {"validation_quality"}
    assert cards[0]["validation_quality"] == pytest.approx(cards[1]["validation_quality"], abs=1e-4)
    texts = [load_tier(str(fitted[name] / "tier"), "x", ["*"]).fingerprint for name in ("sharded", "plain")]
    assert all(len(text) == 12 for text in texts)


def test_each_rank_holds_its_part_alone(fitted) -> None:
    ranks = facts(fitted["sharded"])
    whole = sum(value.numel() for value in load_file(fitted["sharded"] / "tier/model.safetensors").values())
    assert sum(rank["held"] for rank in ranks) == whole and max(rank["held"] for rank in ranks) < 0.6 * whole
    checkpoint = fitted["sharded"] / "checkpoints/last.ckpt"
    assert {path.name for path in checkpoint.iterdir()} == {".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"}
    assert not list((fitted["sharded"] / "checkpoints").glob(".*"))


def test_a_killed_fit_goes_on_bit_by_bit(fitted, t5, tmp_path) -> None:
    arguments = fit(tmp_path, t5, *SHARDED, EXACT, kill_at=9)
    assert start(*arguments).returncode == -9
    assert (tmp_path / "checkpoints/last.ckpt").is_dir() and (tmp_path / "checkpoints/previous.ckpt").is_dir()
    (tmp_path / "checkpoints/last.ckpt/meta.pt").write_bytes(b"half")  # and its newest checkpoint is damaged
    said = succeed(*arguments, DIAL_KILL="no")
    assert "last.ckpt is damaged" in said and "previous.ckpt" in said
    assert [rank["weights"] for rank in facts(tmp_path)] == [rank["weights"] for rank in facts(fitted["sharded"])]
    one, two = (load_file(folder / "tier/model.safetensors") for folder in (tmp_path, fitted["sharded"]))
    assert all(torch.equal(one[name], value) for name, value in two.items())
    assert not (tmp_path / "checkpoints/previous.ckpt").exists()


def test_a_cascade_tests_alike_and_bf16_runs(fitted, t5, tmp_path) -> None:
    swift = tmp_path / "swift"
    succeed(*fit(swift, t5, *SHARDED, "--trainer.max_steps=4", name="t5_large"))  # bf16 as shipped
    assert {value.dtype for value in load_file(swift / "tier/model.safetensors").values()} == {torch.float32}
    head = [
        "fit",
        "--config=configs/model/energy_head.yaml",
        f"--model.path={swift}/tier",
        *DATA,
        f"--run={tmp_path}/head",
    ]
    refused = start(*head, *SHARDED, EXACT)
    assert refused.returncode and "`trainer.strategy` must not share weights" in refused.stderr
    succeed(*head, "--trainer=configs/trainer/cpu.yaml", "--trainer.max_epochs=1")
    tiers = f"--model.tiers=[{tmp_path}/head/tier, {{path: {fitted['plain']}/tier, beams: 2}}]"
    tables, described = [], []
    for name, options in (("alone", ("--trainer=configs/trainer/cpu.yaml",)), ("sharded", (*SHARDED, EXACT))):
        common = ["test", "--config=configs/model/cascade.yaml", tiers, *DATA, "--sweep.bootstrap=100"]
        succeed(*common, *options, f"--run={tmp_path}/{name}")
        path = tmp_path / name / "sweep/stages.parquet"
        tables.append(pd.read_parquet(path).sort_values(["split", "sample_id"], ignore_index=True))
        described.append(json.loads(pq.read_schema(path).metadata[b"dial"])["settings"]["tiers"])
    assert len(tables[0]) == 101 and described[0] == described[1]
    for column in ("text_swift", "text_super", "written_swift", "macs_swift", "macs_super", "cut_off_super"):
        assert tables[0][column].tolist() == tables[1][column].tolist(), column
    assert (tables[0].energy_swift - tables[1].energy_swift).abs().max() < 1e-5
