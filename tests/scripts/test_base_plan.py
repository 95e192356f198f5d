"""The steps for a base-size Super: every row that is asked for has one, and each command runs on tiny models."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel, MPNetConfig, MPNetModel

from dial.cli.steps import Step
from scripts import qnli_from_squad, training_texts
from scripts.results_base_plan import BaseCell, plan
from scripts.results_base_tasks import SWIFTS, TASKS
from scripts.results_general_plan import SUPER, UNPACKED
from tests.cli.conftest import ROOT
from tests.cli.conftest import dial as dial
from tests.cli.glue_files import write_task
from tests.conftest import WORDS
from tests.tiers.mpnet import mpnet_tokenizer

ABOUT = {task.name: task for task in TASKS}


def steps() -> dict[str, Step]:
    return {step.name: step for step in plan("data", "models")}


def after(step: Step, option: str) -> str:
    """The value of an option."""
    return step.command[step.command.index(option) + 1]


def test_every_task_has_a_super_and_small_tasks_three_seeds_of_first_tiers() -> None:
    names = steps().keys()
    assert {f"base_{task}/seed0/super" for task in ("sst2", "mrpc", "cola", "rte", "stsb", "qnli")} <= names
    assert not any(re.fullmatch(r"base_\w+/seed[12]/super", name) for name in names)
    for task in ("mrpc", "cola", "rte"):
        for seed in (0, 1, 2):
            assert {f"base_{task}/seed{seed}/cascade-{swift}" for swift in ("l3", "l6", "glove", "tiny")} <= names
    for name, step in steps().items():
        if re.fullmatch(r"base_\w+/seed[12]/cascade-[\w-]+", name):  # the Super of the first seed, a tier of its own
            task, seed, _ = name.split("/")
            first, second = after(step, "--model.tiers").strip("[]").split(", ")
            assert first.startswith(f"runs/results/{task}/{seed}/")
            assert second == f"runs/results/{task}/seed0/super/tier"


def test_every_first_tier_comes_as_it_is_called() -> None:
    made = steps()
    for task, copies in (("mrpc", "20"), ("sst2", "3")):
        at = f"base_{task}/seed0"
        tang, tinybert = made[f"{at}/augment-tang"], made[f"{at}/augment-tinybert"]
        assert (after(tang, "--method"), after(tang, "--copies")) == ("tang", "12")
        assert "--masked-lm" in tinybert.command and after(tinybert, "--copies") == copies
        assert after(made[f"{at}/glove-tang"], "--data.augmentation") == tang.result
        for phase in ("4l-augmented-layers", "4l-augmented"):
            assert after(made[f"{at}/{phase}"], "--data.augmentation") == tinybert.result
        assert after(made[f"{at}/4l-layers"], "--model.path") == "runs/results/general/4l/tier"
        assert "--model.path" not in made[f"{at}/4l-random-layers"].command
        own = made[f"{at}/l6-own"]
        assert "--model.teacher" not in own.command
        assert {f"{at}/cascade-{name}" for name in ("l6-own", "distilbert", "w25", "w50", "three")} <= made.keys()
    other = made["base_mrpc/seed0/glove-other"]
    assert after(other, "--model.teacher") == "runs/results/base_mrpc/seed0/l6-own/tier"


def test_cost_eff_stands_beside_small_models_with_exits_on_the_same_rows() -> None:
    made = steps()
    for task, rows in (("mrpc", None), ("sst2", "20000")):
        at = f"base_{task}/seed0"
        first = made[f"{at}/slender-8x"]
        sizes = {what: after(first, f"--slenderise.{what}") for what in ("heads", "intermediate", "embedding_rank")}
        assert sizes == {"heads": "2", "intermediate": "256", "embedding_rank": "128"}
        for name in (
            "ta",
            "slender-8x",
            "costeff-8x",
            "slender-2x",
            "costeff-2x",
            "small",
            "small-deebert",
            "small-pabee",
        ):
            command = made[f"{at}/{name}"].command
            assert ("--data.max_rows.train" in command) == (rows is not None)
            assert rows is None or after(made[f"{at}/{name}"], "--data.max_rows.train") == rows
    left_out = ("no-hidden", "no-logits", "two-stage")
    assert {f"base_mrpc/seed0/exits-costeff-8x-{what}" for what in left_out} <= made.keys()


def test_every_training_has_a_whole_number_of_epochs() -> None:
    fits = [step for step in steps().values() if "--trainer.max_epochs" in step.command]
    assert fits and all(int(after(step, "--trainer.max_epochs")) >= 1 for step in fits)


def test_what_is_cheap_comes_first() -> None:
    names = list(steps())
    place = {name: names.index(name) for name in names}
    assert place["base_rte/seed0/super"] < place["base_mrpc/seed0/super"] < place["base_sst2/seed0/super"]
    last_cascade = max(place[name] for name in names if re.search(r"seed0/cascade-(l3|three)$", name))
    assert last_cascade < place["base_rte/seed1/l3"] < place["general/4l"] < place["base_mrpc/seed0/4l"]
    assert place["base_sst2/seed0/cascade-4l"] < place["base_mrpc/seed0/ta"]


def test_rows_of_qnli_are_the_answer_s_sentence_and_the_hardest_other_one(tmp_path: Path) -> None:
    context = (
        "Snow fell in Oslo. The king of Norway was born in Oslo in 1937. Trees grow. The king of Spain likes trees."
    )
    rows = [("Where was the king of Norway born?", "in Oslo in 1937"), ("What grows?", "Trees")]
    write_squad(tmp_path, [(context, question, answer) for question, answer in rows])
    (tmp_path / "glue/qnli").mkdir(parents=True)
    (tmp_path / "glue/qnli/validation.parquet").write_bytes(b"official")
    qnli_from_squad.main(["--data", str(tmp_path), "--out", str(tmp_path / "made")])
    made = pd.read_parquet(tmp_path / "made/train.parquet")
    assert made[["sentence", "label"]].values.tolist() == [
        ["The king of Norway was born in Oslo in 1937.", 0],
        ["The king of Spain likes trees.", 1],
        ["Trees grow.", 0],
        ["Snow fell in Oslo.", 1],  # not the sentence on trees, which has the answer's word; of the others the first
    ]
    assert (tmp_path / "made/validation.parquet").read_bytes() == b"official"
    with pytest.raises(SystemExit):
        qnli_from_squad.main(["--data", str(tmp_path / "made")])


def test_texts_are_those_of_training_rows_each_once(tmp_path: Path) -> None:
    write_task(tmp_path / "glue", "mrpc", train=20, test=10)
    write_task(tmp_path / "glue", "qnli", train=5, test=5)
    (tmp_path / "wmt16/ro-en").mkdir(parents=True)
    pairs = pd.DataFrame({"translation": [{"en": "a  line\nbreak", "ro": "o linie"}] * 2})
    pairs.to_parquet(tmp_path / "wmt16/ro-en/train_proxy.parquet")
    training_texts.main(["--data", str(tmp_path), "--out", str(tmp_path / "texts.txt")])
    rows = pd.read_parquet(tmp_path / "glue/mrpc/train.parquet")
    wanted = {*rows.sentence1, *rows.sentence2, "a line break"}
    lines = (tmp_path / "texts.txt").read_text().splitlines()
    assert sorted(lines) == sorted(wanted)


def write_squad(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    """Training questions in SQuAD's form: context, question, answer."""
    (folder / "squad/plain_text").mkdir(parents=True)
    columns = [
        {"context": c, "question": q, "answers": {"text": [a], "answer_start": [c.index(a)]}} for c, q, a in rows
    ]
    pd.DataFrame(columns).to_parquet(folder / "squad/plain_text/train.parquet")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """A folder with `data`, `models` and the unpacked models, all tiny."""
    place = tmp_path_factory.mktemp("base")
    for task in ABOUT:
        write_task(place / "data/glue", task, train=400, test=40)
    one, two = "good film but dull plot", "the bad cast is not great"
    context = f"{one.capitalize()}. {two.capitalize()}. It was fine."
    write_squad(place / "data", [(context, f"what is {word} ?", "cast") for word in WORDS])
    vectors = place / "data/glove/6b_50d_50k/all.parquet"
    vectors.parent.mkdir(parents=True)
    drawn = np.random.default_rng(0).normal(size=(len(WORDS), 8)).astype(np.float32)
    pd.DataFrame({"word": WORDS, "vector": list(drawn)}).to_parquet(vectors)
    more = {"vocab_size": len(tiny_tokenizer), "max_position_embeddings": 40, "pad_token_id": 0}
    for name, kind, sizes in (
        ("models/minilm-l6-h384", BertModel, {"hidden_size": 24, "num_hidden_layers": 6, "num_attention_heads": 12}),
        (
            "runs/models/minilm-l3-h384",
            BertModel,
            {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 12},
        ),
        (
            "models/bert-tiny-mlm",
            BertForMaskedLM,
            {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        ),
    ):
        torch.manual_seed(0)
        kind(BertConfig(**sizes, **more, intermediate_size=32)).save_pretrained(place / name)
        tiny_tokenizer.save_pretrained(place / name)
    # Wide enough for COST-EFF's sizes: 2 heads, 256 neurons, rank 128; and as long as what is read.
    tokenizer = mpnet_tokenizer()
    sizes = {"hidden_size": 144, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 320}
    torch.manual_seed(0)
    config = MPNetConfig(vocab_size=160, max_position_embeddings=140, pad_token_id=1, **sizes)
    MPNetModel(config).save_pretrained(place / UNPACKED / SUPER)
    tokenizer.model_max_length = 130
    tokenizer.save_pretrained(place / UNPACKED / SUPER)
    return place


SHORT = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
         "--trainer.limit_train_batches=2", "--trainer.precision=32-true")  # fmt: skip


def run_step(step: Step, place: Path, dial: Callable) -> None:
    """Do a step in a folder, the fits for one epoch of two batches."""
    words = [word.replace("runs/", f"{place}/runs/") for word in step.command]
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True, cwd=ROOT, capture_output=True)
    else:
        if words[1] == "fit":
            words[words.index("--trainer.max_epochs") + 1] = "1"
            words += [*SHORT, f"--data.cache_dir={place}/cache"]
        elif words[1] == "test":
            words += [*SHORT[:3], f"--data.cache_dir={place}/cache", "--sweep.bootstrap=100"]
        elif words[1] == "augment":
            words += ["--copies", "2", "--processes", "1"]
            if "tang" in words and importlib.util.find_spec("HanTa") is None:
                words += ["--replacement", "0"]
        elif words[1] == "sweep":
            words += ["--bootstrap", "100"]
        dial(*words[1:]).ok()
    assert (place / step.result).is_file(), step.name


DONE = (
    *("qnli", "texts", "4l", "12l", "super", "l6", "l6-own", "glove-other", "distilbert", "augment-tang"),
    *("augment-tinybert", "glove-tang", "4l-layers", "4l-random-layers", "4l-augmented-layers", "dynabert-width"),
    *("dynabert", "cascade-w25", "ta", "slender-8x", "costeff-8x", "costeff-8x-two-stage", "exits-costeff-8x"),
    *("small", "small-deebert", "small-pabee", "berxit", "exits-berxit"),
)
"""One of each kind. Tables and sweeps are as those of other tasks; what is measured on the clock takes minutes."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", ["mrpc", "qnli", "stsb"])
def test_every_command_does_its_work(places: Path, dial: Callable, task: str) -> None:
    """All of a task's, in order; tables are stored and swept as well, for one cascade and one model with exits."""
    wanted = [f"base_{task}/seed0/", "general/", "data/"]
    done = [step for step in plan(f"{places}/data", f"{places}/models") if step.name.startswith(tuple(wanted))]
    for step in done:
        name = step.name.rsplit("/", 1)[-1]
        if name in DONE and not (places / step.result).is_file():
            run_step(step, places, dial)
    fits = [step for step in done if step.result.endswith("card.json") and step.name.rsplit("/", 1)[-1] in DONE]
    cards = {step.name: json.loads((places / step.result).read_text()) for step in fits}
    assert all(card["finished"] for card in cards.values())
    if task == "mrpc":
        compression = cards["base_mrpc/seed0/slender-8x"]["compression"]
        assert compression["parameters"]["all"]["after"] < compression["parameters"]["all"]["before"]


def test_every_first_tier_of_a_task_is_known() -> None:
    for task in TASKS:
        assert {*task.swifts, *task.students} <= SWIFTS.keys()
    assert BaseCell("base_mrpc", about=ABOUT["mrpc"]).whole == "runs/results/base_mrpc/seed0/super/tier"
