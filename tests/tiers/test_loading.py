"""Folders that are incomplete or damaged, and a hub out of reach."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from dial.tiers.layers import tier_with_exits
from dial.tiers.loading import build_tier, load_tier, read_card
from dial.tiers.places import check_place
from tests.conftest import ROOT
from tests.tiers import families
from tests.tiers.tiny_tiers import DATA, TEXTS, MakeBert

MULTI = "multi_label_classification"


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


RAN = "ran"
CODE = f"""
from pathlib import Path
Path(__file__).with_name({RAN!r}).touch()
Path("{{place}}/{RAN}").touch()
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
class Own(BertConfig):
    model_type = "own"
class OwnModel(BertForSequenceClassification):
    config_class = Own
class OwnTokenizer(BertTokenizerFast):
    pass
"""
MAPS = {
    "config.json": {"AutoConfig": "code.Own", "AutoModelForSequenceClassification": "code.OwnModel"},
    "tokenizer_config.json": {"AutoTokenizer": ["code.OwnTokenizer", None]},
}


@pytest.mark.parametrize("file", MAPS)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("load", ["tier", "train", "exits", "tokenizer"])
def test_the_code_of_a_folder_is_neither_run_nor_asked_about(
    make_tiny_bert: MakeBert, monkeypatch: pytest.MonkeyPatch, file: str, own: bool, load: str
) -> None:
    folder = make_tiny_bert()
    content = json.loads((folder / file).read_text())
    content |= {"auto_map": MAPS[file]} | ({"model_type": "own"} if own and file == "config.json" else {})
    (folder / file).write_text(json.dumps(content))
    (folder / "code.py").write_text(CODE.replace("{place}", str(folder)))
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail(f"asked: {prompt}"))
    loads = {
        "exits": lambda: tier_with_exits(str(folder), None, False, None, 32, DATA),
        "tokenizer": lambda: build_tier({"model_type": "bert"}, str(folder), DATA),
        "tier": lambda: load_tier(str(folder), "t", DATA),
        "train": lambda: load_tier(str(folder), "t", DATA, train=True),
    }
    with pytest.raises(
        ValueError, match=r"must be a model that transformers knows by itself, but .*auto_map"
    ) as caught:
        loads[load]()
    assert "\n" not in str(caught.value) and not (folder / RAN).exists()


def test_every_reader_of_transformers_is_told_to_run_no_code() -> None:
    """Also where nobody looked at the folder before: a hub id, or a later reader."""
    calls = [
        (path, call)
        for package in ("dial", "datamodules", "lightning_modules", "callbacks")
        for path in ROOT.glob(f"{package}/**/*.py")
        for call in re.findall(r"\.from_pretrained\(([^)]*)\)", path.read_text())
    ]
    assert calls
    assert [path for path, call in calls if "trust_remote_code=False" not in call] == []


@pytest.mark.parametrize("content", ["pickle", b"", b"abc", b"PK\x03\x04abc"], ids=str)
def test_weights_that_are_no_weights_are_one_line(make_tiny_bert: MakeBert, content: str | bytes) -> None:
    folder = make_tiny_bert()
    (folder / "model.safetensors").unlink()
    if isinstance(content, str):
        torch.save({"bert.pooler.dense.bias": os.system}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(content)
    for load in (
        lambda: load_tier(str(folder), "t", DATA, "path"),
        lambda: tier_with_exits(str(folder), None, False, None, 32, DATA),
    ):
        with pytest.raises(ValueError, match=r"`path`: the weights in .* cannot be read: \w+") as caught:
            load()
        assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
        assert ("could run code" in str(caught.value)) == (content == "pickle")


def test_a_run_folder_and_a_near_name_have_a_hint(make_tiny_bert: MakeBert, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    make_tiny_bert().rename(tmp_path / "run" / "tier")
    with pytest.raises(ValueError, match=f"`path` must be a folder with .* did you mean {tmp_path}/run/tier, the tier"):
        load_tier(str(tmp_path / "run"), "t", DATA)
    with pytest.raises(ValueError, match=f"there is no folder {tmp_path}/rum; did you mean {tmp_path}/run"):
        load_tier(str(tmp_path / "rum"), "t", DATA)
    (tmp_path / "a.ckpt").touch()
    with pytest.raises(ValueError, match=r"no folder .*a.ckpt, only a file; give the folder of a tier"):
        load_tier(str(tmp_path / "a.ckpt"), "t", DATA)


def test_a_name_beside_a_local_folder_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "super").mkdir(parents=True)
    asked: list[str] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, timeout: asked.append(name) or 1 / 0)
    with pytest.raises(ValueError, match=r"there is no folder runs/supr; did you mean runs/super\?"):
        load_tier("runs/supr", "t", DATA)
    assert asked == []
    with pytest.raises(
        ValueError, match=r"the hub did not give its configuration \(ZeroDivisionError: division by zero"
    ):
        load_tier("nobody/nothing", "t", DATA)
    assert asked == ["nobody/nothing"]  # once, and no reader tries again


def test_a_damaged_card_is_named(tmp_path: Path) -> None:
    assert read_card(str(tmp_path)) == {}
    (tmp_path / "card.json").write_text('{"task": ')
    with pytest.raises(ValueError, match=r"`path` must lead to readable files, but .*card.json is damaged"):
        read_card(str(tmp_path))


# ---- heads and layers that mean something else ----


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("kind", "labels"), [(MULTI, 2), (MULTI, 1), ("regression", 2)])
def test_a_head_of_another_kind(make_tiny_bert: MakeBert, kind: str, labels: int, train: bool) -> None:
    folder = make_tiny_bert(labels=tuple(DATA[:labels]), problem_type=kind)
    data = DATA if labels == 2 else []
    wanted = "one of the data's labels" if labels == 2 else "a number"
    message = rf"`tiers\[0\]` must answer with {wanted}, but the head .* `problem_type` {kind}"
    with pytest.raises(ValueError, match=message):
        load_tier(str(folder), "t", data, "tiers[0]", train=train)
    with pytest.raises(ValueError, match=f"`path` must answer with {wanted}"):
        tier_with_exits(str(folder), None, False, None, 16, data)


@pytest.mark.parametrize("model_type", ["bart", "t5"])
def test_both_halves_of_an_encoder_decoder_are_cut(tiny_tokenizer, model_type: str, tmp_path: Path) -> None:
    folder = families.save(tmp_path, model_type, tiny_tokenizer)
    tier = load_tier({"path": str(folder), "layers": 1}, "t", families.CLASSES)
    whole = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for half in (whole.base_model.encoder, whole.base_model.decoder):
        name = "block" if model_type == "t5" else "layers"
        setattr(half, name, getattr(half, name)[:1])
    for text in TEXTS:
        encoding = dict(tier.tokenizer(text, return_tensors="pt"))
        with torch.no_grad():
            expected = whole(**{k: v for k, v in encoding.items() if k != "token_type_ids"}).logits
            torch.testing.assert_close(tier(encoding)[:, 0], expected)
    assert sum(p.numel() for p in tier.parameters()) == sum(p.numel() for p in whole.parameters())


def test_halves_of_different_depth(tiny_tokenizer, tmp_path: Path) -> None:
    folder = families.save(tmp_path, "bart", tiny_tokenizer, decoder_layers=1)
    with pytest.raises(ValueError, match="`path`: `layers` must be from 1 to 1, but got 2"):
        load_tier({"path": str(folder), "layers": 2}, "t", families.CLASSES)


def test_settings_for_each_layer_are_cut(tiny_tokenizer, tmp_path: Path) -> None:
    folder = families.save(tmp_path, "longformer", tiny_tokenizer)
    tier = load_tier({"path": str(folder), "layers": 1}, "t", families.CLASSES)
    assert tier.model.config.attention_window == [4] and len(tier.model.longformer.encoder.layer) == 1


def test_layers_in_blocks(tiny_tokenizer, tmp_path: Path) -> None:
    folder = families.save(tmp_path, "funnel", tiny_tokenizer)
    with pytest.raises(ValueError, match=r"`tiers\[0\]`: `layers` must be left out for funnel"):
        load_tier({"path": str(folder), "layers": 1}, "t", families.CLASSES, "tiers[0]")
