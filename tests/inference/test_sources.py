"""Folders that are incomplete or damaged, and a hub out of reach."""

import json
import os
from pathlib import Path

import pytest

from lightning_modules.inference import load_tier
from lightning_modules.inference.sources import check_place, read_card
from tests.inference.tiny_tiers import DATA, MakeBert


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["model.safetensors"], r"`teacher` must be a folder with weights \(model.safetensors"),
        (["tokenizer.json"], r"`teacher` must be a folder with a tokenizer \(tokenizer.json"),
        (["config.json"], r"`teacher` must be a folder with a configuration \(config.json\)"),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_an_incomplete_folder(make_tiny_bert: MakeBert, remove: list[str], message: str, train: bool) -> None:
    folder = make_tiny_bert()
    for name in remove:
        (folder / name).unlink()
    with pytest.raises(ValueError, match=message):
        load_tier(str(folder), "t", DATA, "teacher", train=train)


def test_damaged_files(make_tiny_bert: MakeBert) -> None:
    folder = make_tiny_bert()
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match=r"`teacher`: the weights in .* cannot be read"):
        load_tier(str(folder), "t", DATA, "teacher")
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"`teacher`: the configuration in .* cannot be read"):
        load_tier(str(folder), "t", DATA, "teacher")


def test_weights_that_lack_a_layer(make_tiny_bert: MakeBert) -> None:
    folder = make_tiny_bert()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lack 16 parameters of the encoder, first bert.encoder.layer.2"):
        load_tier(str(folder), "t", DATA, train=True)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/model", "runs/demo/super", "~/nowhere"])
def test_a_missing_folder_is_no_hub_id(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # `make demo` leaves runs/demo/super in the repository
    with pytest.raises(ValueError, match=r"`tiers.0.` must be an existing folder or a hub id, but there is no folder"):
        load_tier(path, "t", DATA, "tiers[0]")


@pytest.mark.parametrize("path", ["nobody/no-such-model", "no-such-model"])
def test_the_hub_out_of_reach_names_the_argument(path: str) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(ValueError, match=f"`source` must be .* no folder '{path}', and the hub did not give") as caught:
        load_tier(path, "t", DATA, "source")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layers", [3, 100])
def test_too_many_layers(tiny_bert: Path, layers: int) -> None:
    with pytest.raises(ValueError, match=f"`tiers.0.`: `layers` must be from 1 to 2, but got {layers}"):
        load_tier({"path": str(tiny_bert), "layers": layers}, "t", DATA, "tiers[0]")


@pytest.mark.parametrize("name", ["vocab.txt", "spm.model", "spiece.model", "sentencepiece.bpe.model"])
def test_a_tokenizer_of_any_kind_will_do(tmp_path: Path, name: str) -> None:
    for file in ("config.json", "model.safetensors", name):
        (tmp_path / file).touch()
    assert check_place(str(tmp_path), "path") == str(tmp_path)


def test_a_damaged_card_is_named(tmp_path: Path) -> None:
    assert read_card(str(tmp_path)) == {}
    (tmp_path / "card.json").write_text('{"task": ')
    with pytest.raises(ValueError, match=r"`path` must lead to readable files, but .*card.json is damaged"):
        read_card(str(tmp_path))
