"""Configurations of printed rows: each row has one, each parses as what `dial` takes, and each model trains a step."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForQuestionAnswering

from datamodules.glue import TASKS
from dial.cli.augment import AugmentCommand, without_data
from dial.cli.recipe import Recipe
from dial.costs.printed import printed_rows
from tests.cli.conftest import ROOT
from tests.cli.glue_files import WORDS, write_task

RECIPES = sorted((ROOT / "configs/paper").glob("*.yaml"))
TABLES = {"E-LANG 4", "E-LANG 5", "TangoBERT 1", "TangoBERT 2", "TangoBERT 3", "COST-EFF 3", "COST-EFF 5"}
NOWHERE = {"E-LANG 4: ELM", "E-LANG 4: GhostBERT"}
"""Models whose weights are on no hub in a form that transformers loads."""
TRIAL = ("--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--model.max_length=32")
TYPES = {
    "google-bert/bert-base-uncased": "bert",
    "FacebookAI/roberta-base": "roberta",
    "google/bert_uncased_L-6_H-768_A-12": "bert",
    "google/bert_uncased_L-8_H-256_A-4": "bert",
    "google/bert_uncased_L-12_H-256_A-4": "bert",
    "google/bert_uncased_L-12_H-512_A-8": "bert",
    "distilbert/distilbert-base-uncased": "distilbert",
    "google/electra-small-discriminator": "electra",
    "google/mobilebert-uncased": "mobilebert",
    "squeezebert/squeezebert-uncased": "squeezebert",
    "fnlp/elasticbert-base": "elasticbert",
    "huawei-noah/TinyBERT_General_4L_312D": "bert",
    "huawei-noah/TinyBERT_General_6L_768D": "bert",
    "Intel/dynamic_tinybert": "bert",
}
"""Architecture of each model on the hub that a configuration names."""


def commands(path: Path, words: tuple[str, ...]) -> list[list[str]]:
    """The `dial` commands of a recipe, those of recipes in it in their places, without ``dial``."""
    recipe = Recipe.read(str(path))
    found = []
    for step in recipe.plan(recipe.parse(words)):
        own = list(step.command[1:])
        found += commands(ROOT / own[1], tuple(own[2:])) if own[0] == "recipe" else [own]
    return found


def rows() -> list[tuple[Path, str]]:
    return [(path, row) for path in RECIPES for row in Recipe.read(str(path)).rows]


def arguments(path: Path, row: str) -> tuple[str, ...]:
    vectors = ["--vectors", "glove.txt"] if "vectors" in Recipe.read(str(path)).values else []
    return ("--row", row, "--run", "runs/x", "--data", "DATA", *vectors)


def trained() -> list[tuple[str, str]]:
    """Each pair of a configuration and a model on the hub that it trains."""
    pairs = {}
    for path, row in rows():
        for command in commands(path, arguments(path, row)):
            values = dict(itertools.pairwise(command))
            if command[0] == "fit" and (model := values.get("--model.path", "runs/x/")) in TYPES:
                pairs[Path(values["--config"]).stem, model] = None
            elif command[0] == "fit":
                assert model.startswith("runs/x/"), model
    return list(pairs)


def test_every_printed_row_has_a_configuration() -> None:
    printed = {row.name for row in printed_rows() if f"{row.paper} {row.table}" in TABLES}
    made = {name for path in RECIPES for prints in Recipe.read(str(path)).prints.values() for name in prints}
    assert printed - NOWHERE == made and printed >= NOWHERE


@pytest.mark.parametrize(("path", "row"), rows(), ids=lambda value: getattr(value, "stem", value))
def test_a_row_is_a_list_of_commands(path: Path, row: str) -> None:
    """Each trains, augments or tests what an earlier one left, or what is on the hub."""
    text = path.read_text()
    assert f"dial recipe configs/paper/{path.name} --row" in text and len(text.splitlines()) < 100
    left: set[str] = set()
    for command in commands(path, arguments(path, row)):
        words = " ".join(command)
        used = {word.strip("[],{}\"'") for word in words.replace(",", " ").split() if "/tier" in word}
        assert used <= left, used - left
        values = dict(itertools.pairwise(command))
        if command[0] == "augment":
            AugmentCommand.parser().parse_args(without_data(command[1:])[0])
            left.add(values["--out"])
            continue
        assert command[0] in ("fit", "test") and ("--config" not in values or (ROOT / values["--config"]).is_file())
        assert values.get("--data.augmentation") in {None, *left}
        left |= {f"{values['--run']}/tier"} if command[0] == "fit" else set()


def test_rows_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    step = "{name: a, result: '{run}/a', command: 'dial fit --model.path {encoder} --run {run}'}"
    path.write_text(
        f"arguments: {{encoder: , seed: 0}}\nrows: {{one: {{encoder: x, prints: [A 1]}}}}\nsteps: [{step}]\n"
    )
    recipe = Recipe.read(str(path))
    assert recipe.parse(["--run", "r", "--row", "one"]) == {"encoder": "x", "seed": "0", "run": "r"}
    assert recipe.parse(["--row=one", "--encoder", "y", "--run", "r"])["encoder"] == "y"
    assert "--row (one)" in recipe.usage() and recipe.prints == {"one": ("A 1",)}
    for words in (["--run", "r"], ["--row", "two", "--run", "r"], ["--run", "r", "--row"]):
        with pytest.raises(ValueError, match=r"`--row` must be one of one in .*recipe.yaml, but got (two|None)"):
            recipe.parse(words)
    path.write_text(f"arguments: {{encoder: }}\nrows: {{one: {{decoder: x}}}}\nsteps: [{step}]\n")
    with pytest.raises(ValueError, match=r"`rows` of .* may set encoder, but one sets decoder"):
        Recipe.read(str(path))


@pytest.fixture(scope="module")
def make_encoder(tmp_path_factory, tiny_tokenizer):
    """Function: a tiny pretrained encoder of an architecture, with a tokenizer and without a head."""

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        own = {"mobilebert": {"intra_bottleneck_size": 16, "true_hidden_size": 16, "embedding_size": 16}}
        own |= {
            "electra": {"embedding_size": 8},
            "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
        }
        own |= {"squeezebert": {"embedding_size": 16, "q_groups": 1, "k_groups": 1, "v_groups": 1}}
        sizes = {"hidden_size": 16, "num_hidden_layers": 8 if kind == "elasticbert" else 2, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0}
        sizes |= {"vocab_size": len(tiny_tokenizer), **own.get(kind, {})}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModel.from_config(CONFIG_MAPPING["bert" if kind == "elasticbert" else kind](**sizes))
        if kind == "elasticbert":  # as it is published: a pooler after each layer
            weights = {f"elasticbert.{key}": value for key, value in model.state_dict().items() if "pooler" not in key}
            for layer in range(8):
                weights[f"elasticbert.encoder.pooler.{layer}.dense.weight"] = torch.randn(16, 16)
                weights[f"elasticbert.encoder.pooler.{layer}.dense.bias"] = torch.randn(16)
            save_file(weights, folder / "model.safetensors")
            about = sizes | {"model_type": "elasticbert", "max_output_layers": 8, "num_output_layers": 1}
            (folder / "config.json").write_text(json.dumps(about | {"architectures": ["ElasticBertModel"]}))
        else:
            model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


def write_squad(folder: Path) -> Path:
    """Questions whose answer is a word of their context."""
    rng, questions = np.random.default_rng(0), []
    for i in range(80):
        words = rng.choice(WORDS, 8).tolist()
        answer = {"text": [words[3]], "answer_start": [len(" ".join(words[:3])) + 1]}
        about = {"id": str(i), "title": f"t{i // 4}", "context": " ".join(words), "question": f"what was {words[2]}"}
        questions.append(about | {"answers": answer})
    for split in ("train", "validation"):
        pd.DataFrame(questions).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def data_for(tmp_path_factory):
    """Function: options that name a task's data."""

    def of(task: str) -> list[str]:
        folder = tmp_path_factory.mktemp(task)
        source = write_squad(folder) if task == "squad" else write_task(folder, task)
        return [f"--data=configs/data/{task}.yaml", f"--data.source={source}"]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sst2", "mrpc"])
@pytest.mark.parametrize(("config", "model"), trained())
def test_each_model_trains(
    config: str, model: str, task: str, dial, make_encoder, data_for, make_tiny_bert, tmp_path
) -> None:
    """Tiny models of the same architecture stand in for those of the hub."""
    spans = config.startswith("span")
    data = data_for("squad" if spans else task)
    options = [f"--config=configs/model/{config}.yaml", *data, f"--model.path={make_encoder(TYPES[model])}"]
    if config in ("tinybert", "tinybert_prediction"):
        labels = tuple(TASKS[task].label_names)
        options.append(f"--model.teacher={make_tiny_bert(layers=4, labels=labels)}")
    if spans:
        options += ["--model.stride=8"]
    if model == "fnlp/elasticbert-base" and config == "joint":
        options += ["--model.layers=6"]
    if config == "span_distil":
        teacher = make_encoder("bert")
        AutoModelForQuestionAnswering.from_pretrained(teacher).save_pretrained(teacher)
        options.append(f"--model.teacher={{path: {teacher}, stride: 8, max_length: 32}}")
    dial("fit", *options, *TRIAL, f"--run={tmp_path}/run").ok()


def test_all_models_are_tried() -> None:
    assert {model for _, model in trained()} == {*TYPES}
