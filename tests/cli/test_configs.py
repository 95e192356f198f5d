"""Every shipped YAML through the real command line, with `fast_dev_run`, tiny models and local files."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

import datamodules
from datamodules.glue import TASKS as GLUE
from datamodules.superglue import TASKS as SUPERGLUE
from tests.cli.conftest import ROOT
from tests.cli.glue_files import sentences, write_task
from tests.squad_files import write as write_questions
from tests.superglue_files import write_hub
from tests.tiers.readers import STRIDE, WINDOW, save_reader

MODELS, DATA, TRAINERS = (sorted((ROOT / "configs" / kind).glob("*.yaml")) for kind in ("model", "data", "trainer"))
TRIAL = ("--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--sweep.bootstrap=100")
NUMBERS = ("--data.train_rows=200", "--data.calibration_rows=60", "--data.test_rows=60")  # of built-in data
TAUGHT = ("distil", "teaching_assistant", "recover", "tinybert", "tinybert_prediction")
WRITERS = ("demo_text_head", "demo_text_super", "demo_text_swift")
WINDOWS = (f"--model.max_length={WINDOW}", f"--model.stride={STRIDE}")
LABELS = {
    "mnli": ("entailment", "neutral", "contradiction"),
    "cb": ("entailment", "contradiction", "neutral"),
    "stsb": ("score",),
    **{task: GLUE[task].label_names for task in ("cola", "mrpc", "qqp", "rte")},
}
PAIRS = {
    "text_to_text": ("source", "target"),
    "phonemes": ("word", "phonemes"),
    "wmt16_en_ro": ("en", "ro"),
    "multi30k_en_de": ("en", "de"),
}
"""Configurations of pairs of columns."""
QUESTIONS = ("squad", "squad_v2", "questions", "demo_questions")
SPANS = ("span", "span_distil", "length_adaptive_span")
ALIKE = {
    *(f"text_{task}" for task in ("cola", "sst2", "mrpc", "qqp", "qnli", "mnli", "wnli", "boolq", "cb", "copa", "wic")),
    *("text_superglue_rte", "superglue_rte", "cb", "boolq", "wic", "wsc", "multi30k_en_de", "text_to_text"),
}
"""Configurations that differ from a tested one in the name of a task or corpus only."""


def stem(path: Path) -> str:
    return path.stem


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    return save_reader(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def overrides(make_tiny_bert, make_tiny_t5, reader):
    """Function: what a model configuration leaves to the user, and tiny local stand-ins for what it names."""

    def of(name: str) -> list[str]:
        tier = make_tiny_bert(layers=2, seed=3)
        return {
            "bilstm": [f"--model.teacher={tier}"],
            "bilstm_subword": [f"--model.teacher={tier}", "--model.config={model_type: bilstm, embedding_size: 8}"],
            "cascade": [f"--model.tiers=[{make_tiny_bert(layers=1)}, {tier}]"],
            **{key: [] for key in ("demo_super", "demo_text_super", "demo_text_swift")},
            "demo_text_head": [f"--model.path={make_tiny_t5()}"],
            **{
                key: [f"--model.path={make_tiny_t5()}", "--model.max_length=32", "--model.max_new_tokens=4"]
                for key in ("seq2seq", "t5_large", "t5_11b")
            },
            "seq2seq_distil": [
                *(f"--model.path={make_tiny_t5(layers=1)}", f"--model.teacher={make_tiny_t5()}"),
                *("--model.max_length=32", "--model.max_new_tokens=4"),
            ],
            "energy_head": [f"--model.path={make_tiny_t5()}", "--model.max_length=32"],
            "demo_swift": [f"--model.teacher={tier}"],
            "span": [f"--model.path={reader}", *WINDOWS],
            "span_distil": [f"--model.path={reader}", f"--model.teacher={reader}", *WINDOWS],
            "length_adaptive_span": [f"--model.path={reader}", *WINDOWS],
            "slenderise": [f"--model.path={tier}", f"--model.teacher={tier}", "--slenderise.compression=1.3"],
            **{key: [f"--model.path={tier}", f"--model.teacher={tier}"] for key in TAUGHT},
            **{
                key: [
                    f"--model.path={tier}",
                    f"--model.teacher={tier}",
                    "--model.widths=[0.5, 1.0]",
                    f"--model.depths={depths}",
                ]
                for key, depths in {"dynabert": "[0.5, 1.0]", "dynabert_width": "[1.0]"}.items()
            },
            "distilbert": [f"--model.path={tier}", f"--model.teacher={tier}", "--model.layers=1"],
            "general_distillation": [
                f"--model.teacher={make_tiny_bert(num_attention_heads=4)}",
                *(f"--model.tokenizer={tier}", "--model.max_length=32"),
                "--model.config={model_type: bert, num_hidden_layers: 1, hidden_size: 8, num_attention_heads: 4}",
            ],
        }.get(name, [f"--model.path={tier}"])

    return of


@pytest.mark.slow
@pytest.mark.parametrize("config", MODELS, ids=stem)
def test_model(dial, overrides, data_arguments, tmp_path, config) -> None:
    data = ["--data=configs/data/demo_text.yaml", *NUMBERS] if config.stem in WRITERS else data_arguments
    if config.stem in SPANS:
        data = ["--data=configs/data/squad.yaml", *options_of("squad", "squad", tmp_path)]
    common = (f"--config={config}", *data, *overrides(config.stem), *TRIAL, f"--run={tmp_path}/run")
    if config.stem == "cascade":
        assert "not trained" in dial("fit", *common).error
    else:
        dial("fit", *common).ok()
    dial("test", *common).ok()
    assert json.loads((tmp_path / "run/sweep/summary.json").read_text())["partial"] is True


def options_of(name: str, task: str, folder: Path) -> list[str]:
    """What a data configuration leaves to the user, and small local files for it."""
    if name in PAIRS:
        source, target = PAIRS[name]
        rows = sentences(200, 0)["sentence"].tolist()
        names = {"train": 120, "validation": 30, "test": 40}
        for role, count in names.items():
            frame = pd.DataFrame({source: rows[:count], target: [text[::-1] for text in rows[:count]]})
            frame.to_parquet(folder / f"{role}.parquet")
        if name.startswith(("wmt", "multi")):
            return [f"--data.source={folder}"]
        return [f"--data.{role}_file={folder}/{role}.parquet" for role in names]
    if name == "text":
        sentences(120, 0).to_csv(folder / "train.csv", index=False)
        sentences(40, 1).to_csv(folder / "test.csv", index=False)
        options = [f"--data.{role}_file={folder}/{role}.csv" for role in ("train", "test")]
        return [*options, "--data.text_column=sentence", "--data.label_names=[negative, positive]"]
    if name in ("demo", "demo_text", "demo_questions"):
        return [*NUMBERS]
    if name in QUESTIONS:
        write_questions(folder, "2.0" if name == "squad_v2" else "parquet")
        if name != "questions":
            return [f"--data.source={folder}"]
        files = [
            f"--data.{role}_file={folder}/{name}.parquet" for role, name in (("train", "train"), ("test", "validation"))
        ]
        # a tenth of so few paragraphs, drawn by their text, may be none
        return [*files, "--data.answer_column=answers", "--data.validation_fraction=0.3"]
    if name == "unlabelled":
        for role, count in (("train", 120), ("test", 40)):
            (folder / f"{role}.txt").write_text("\n".join(sentences(count, 0)["sentence"]) + "\n")
        return [f"--data.{role}_file={folder}/{role}.txt" for role in ("train", "test")]
    if task in SUPERGLUE and (task != "rte" or "superglue" in name):
        return [f"--data.source={write_hub(folder, task, {'train': 480, 'validation': 42})}"]
    return [f"--data.source={write_task(folder, task)}"]


@pytest.fixture(scope="module")
def model_for(make_tiny_bert, make_tiny_t5, reader):
    """Function: a tier that data of this configuration can train, and the options to train it."""

    def of(name: str) -> tuple[Path, list[str]]:
        if name in QUESTIONS:
            return reader, ["--config=configs/model/span.yaml", f"--model.path={reader}", *WINDOWS]
        if name in (*PAIRS, "demo_text") or name.startswith("text_"):
            words = [*map(" ".join, LABELS.values()), "True False choice1 choice2 0 1 2 3 4 5 6 7 8 9 ."]
            tier, short = make_tiny_t5(texts=words), ["--model.max_length=32", "--model.max_new_tokens=4"]
            return tier, ["--config=configs/model/seq2seq.yaml", f"--model.path={tier}", *short]
        tier = make_tiny_bert(labels=LABELS.get(task_of(name), ("LABEL_0", "LABEL_1")))
        if name == "unlabelled":
            return tier, ["--config=configs/model/tinybert.yaml", f"--model.path={tier}", f"--model.teacher={tier}"]
        return tier, ["--config=configs/model/finetune.yaml", f"--model.path={tier}"]

    return of


def task_of(name: str) -> str:
    """The task that a configuration is of."""
    return name.removeprefix("text_").removeprefix("superglue_")


@pytest.mark.slow
@pytest.mark.parametrize("config", [config for config in DATA if config.stem not in ALIKE], ids=stem)
def test_data(dial, model_for, tmp_path, config) -> None:
    task = task_of(config.stem)
    tier, model = model_for(config.stem)
    common = (f"--data={config}", *options_of(config.stem, task, tmp_path), *TRIAL)
    dial("fit", *model, *common, f"--run={tmp_path}/fit").ok()
    tiers = f"--model.tiers=[{tier}, {tier}]"
    dial("test", "--config=configs/model/cascade.yaml", *common, tiers, f"--run={tmp_path}/test").ok()
    summary = json.loads((tmp_path / "test/sweep/summary.json").read_text())
    assert summary["partial"] and set(summary["splits"]) == (
        {"test_matched", "test_mismatched"} if task == "mnli" else {"test"}
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", [config for config in DATA if config.stem in ALIKE], ids=stem)
def test_data_of_a_family(dial, model_for, tmp_path, config) -> None:
    """The command line reads it, and what it reads has rows in every role; the family is tested above."""
    options = options_of(config.stem, task_of(config.stem), tmp_path)
    text = dial("fit", *model_for(config.stem)[1], f"--data={config}", *options, "--print_config").ok()
    about = yaml.safe_load(text)["data"]
    data = getattr(datamodules, about["class_path"].rpartition(".")[2])(**about["init_args"])
    for role in ("train", "validation", "calibration", *data.test_roles()):
        rows = data.rows(role)
        assert len(rows) and (config.stem in SUPERGLUE or rows.targets is not None or "superglue" in config.stem)


def needs(config: Path) -> str | None:
    """Why this machine cannot run a trainer configuration."""
    if config.stem in ("gpu", "multinode", "sharded") and not torch.cuda.is_available():
        return "needs a GPU"
    several = {"multinode": "needs two nodes", "sharded": "needs eight GPUs"}
    return several.get(config.stem)


@pytest.mark.slow
@pytest.mark.parametrize("config", TRAINERS, ids=stem)
def test_trainer(dial, fit_arguments, tmp_path, config) -> None:
    arguments = [a for a in fit_arguments if not a.startswith("--trainer.accelerator")]
    text = dial(*arguments, f"--trainer={config}", "--print_config").ok()
    devices = {"multinode": 4, "ddp_cpu": 2, "sharded": 8}
    assert f"devices: {devices.get(config.stem, 1)}" in text
    if needs(config):
        error = dial(*arguments, f"--trainer={config}", "--trainer.fast_dev_run=true", f"--run={tmp_path}/a").error
        assert "`--trainer" in error or "gpu" in error.lower()
        pytest.skip(f"{needs(config)}; it parses, and is refused in one line")
    if config.stem == "ddp_cpu":
        pytest.skip("DDP starts the command again, which a fork cannot; see test_processes.py")
    dial(*arguments, f"--trainer={config}", "--trainer.fast_dev_run=true", f"--run={tmp_path}/a").ok()


def test_one_configuration_of_each_kind(dial, tiny_bert, glue_folder, tmp_path) -> None:
    """The quick one; the others are slow."""
    model = ("--config=configs/model/finetune.yaml", f"--model.path={tiny_bert}", "--model.max_length=32")
    data = ("--data=configs/data/sst2.yaml", f"--data.source={glue_folder}", "--trainer=configs/trainer/cpu.yaml")
    dial("fit", *model, *data, *TRIAL, f"--run={tmp_path}/a").ok()
    assert not (tmp_path / "a/tier").exists() and not (tmp_path / "a/config-fit.yaml").exists()


def test_the_folders_hold_configurations() -> None:
    assert {path.stem for path in MODELS} >= {"bilstm", "cascade", "demo_super", "demo_swift", "distil", "finetune"}
    glue, superglue = {*GLUE}, {*SUPERGLUE}
    texts = {*QUESTIONS, *(f"text_{task}" for task in glue | superglue), "text_superglue_rte", *PAIRS, "demo_text"}
    assert {path.stem for path in DATA} == {
        *glue,
        *superglue - {"copa"},
        "superglue_rte",
        *texts,
        "text",
        "demo",
        "unlabelled",
    }
    assert {path.stem for path in TRAINERS} >= {"cpu", "ddp_cpu", "gpu", "multinode", "sharded"}
