"""COST-EFF's slenderisation and recovery through the command line: real cuts, resumption, bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dial.models import MultiExitForSequenceClassification
from dial.models.slender.embeddings import FactorisedEmbedding
from dial.stages.parquet import load_table
from tests.cli.conftest import QUIET
from tests.cli.real_commands import facts, succeed, witness

SIZES = ("compression=null", "heads=2", "intermediate=8", "embedding_rank=5", "prunings=4", "window=5")
LAYERS, WORDS = 3, 25


@pytest.fixture(scope="session")
def make_assistant(make_tiny_bert, tiny_tokenizer, tmp_path_factory):
    """Function that saves a random teaching assistant with an exit after each layer; arguments of `make_tiny_bert`."""

    def make(layers: int = LAYERS, **settings) -> Path:
        stock = make_tiny_bert(layers=layers, num_attention_heads=4, **settings)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = MultiExitForSequenceClassification.from_encoder(str(stock))
        folder = tmp_path_factory.mktemp("assistant")
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def assistant(make_assistant) -> Path:
    return make_assistant()


@pytest.fixture(scope="session")
def common(assistant, data_arguments) -> list[str]:
    """Arguments of two epochs of 31 steps."""
    return [
        *(*data_arguments, f"--model.path={assistant}", f"--model.teacher={assistant}", "--model.max_length=32"),
        *("--data.batch_size=8", "--trainer.max_epochs=2", *QUIET),
    ]


@pytest.fixture(scope="session")
def slender_arguments(common) -> list[str]:
    """`dial fit` with prunings before the steps 9, 18, 28 and 37 of 62."""
    return ["fit", "--config=configs/model/slenderise.yaml", *common, *(f"--slenderise.{size}" for size in SIZES)]


@pytest.fixture(scope="session")
def slender(dial, slender_arguments, tmp_path_factory) -> Path:
    """Run folder of a fit that ended."""
    run = tmp_path_factory.mktemp("slender") / "run"
    dial(*slender_arguments, "--resume.every_n_steps=5", f"--run={run}").ok()
    return run


def numbers(path: Path) -> int:
    """Entries of all weights in a folder."""
    return sum(value.numel() for value in load_file(path / "model.safetensors").values())


def test_the_tier_is_really_cut_and_its_card_says_so(slender, assistant) -> None:
    weights = load_file(slender / "tier/model.safetensors")
    for layer in range(LAYERS):
        shapes = {k: tuple(v.shape) for k, v in weights.items() if f"layer.{layer}." in k and k.endswith("weight")}
        assert sorted(shape for name, shape in shapes.items() if ".self." in name) == [(8, 16)] * 3
        assert {shape for name, shape in shapes.items() if "dense" in name} == {(16, 8), (8, 16)}
    assert not [name for name in weights if "mask" in name]
    assert {v.shape for k, v in weights.items() if "word_embeddings" in k} == {(WORDS, 5), (16, 5)}
    card = json.loads((slender / "tier/card.json").read_text())
    before, after = numbers(assistant), numbers(slender / "tier")
    outside = before - WORDS * 16, after - 5 * (WORDS + 16)
    assert card["parameters"] == after
    assert card["compression"]["parameters"] == {
        "all": {"before": before, "after": after},
        "without_embeddings": {"before": outside[0], "after": outside[1]},
    }
    assert card["compression"]["factor"]["all"] == pytest.approx(before / after, abs=1e-3)
    assert card["compression"]["factor"]["without_embeddings"] == pytest.approx(outside[0] / outside[1], abs=1e-3)
    model = MultiExitForSequenceClassification.from_pretrained(slender / "tier")
    assert isinstance(model.get_input_embeddings(), FactorisedEmbedding) and model.config.embedding_rank == 5
    assert "compression" not in json.loads((assistant / "config.json").read_text())


@pytest.mark.slow
def test_a_masked_checkpoint_is_tested_as_its_tier(dial, slender, assistant, data_arguments, tmp_path) -> None:
    """Outputs and costs of `--ckpt_path` are those of the exported folder, which was cut."""
    best = slender / "checkpoints/best.ckpt"
    assert any("mask" in name for name in torch.load(best, weights_only=True)["state_dict"])
    common = ("--model=MultiExit", *data_arguments, *QUIET, "--sweep.bootstrap=100", "--data.batch_size=8")
    own, loaded = f"--model.path={assistant}", f"--model.path={slender}/tier"
    dial("test", *common, own, f"--ckpt_path={best}", f"--run={tmp_path}/a").ok()
    dial("test", *common, loaded, "--model.max_length=32", f"--run={tmp_path}/b").ok()
    left, right = (load_table(tmp_path / run / "sweep/stages.parquet") for run in "ab")
    np.testing.assert_allclose(left.outputs, right.outputs, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(left.macs, right.macs)
    np.testing.assert_array_equal(left.macs_reference, right.macs_reference)
    assert (left.macs[:, -1] < left.macs_reference).all()
    quality = [
        re.findall(r"accuracy [\d.]+ \(.*\)", dial("validate", *common, *more, f"--run={tmp_path}/{i}").ok())
        for i, more in enumerate(((own, f"--ckpt_path={best}"), (loaded, "--model.max_length=32")))
    ]
    assert quality[0] and quality[0] == quality[1]


@pytest.mark.slow
def test_recovery_keeps_the_shapes_and_either_term_can_go(dial, slender, assistant, common, tmp_path) -> None:
    arguments = [a for a in common if not a.startswith("--model.path")]
    arguments += ["--config=configs/model/recover.yaml", f"--model.path={slender}/tier"]
    arguments = ["fit", arguments[-2], *arguments[:-2], arguments[-1]]
    tiers = {}
    for name, switches in (
        ("both", ()),
        ("predictions", ("--model.hidden_weight=0",)),
        ("hidden", ("--model.distillation_weight=0",)),
    ):
        dial(*arguments, *switches, f"--run={tmp_path}/{name}").ok()
        tiers[name] = load_file(tmp_path / name / "tier/model.safetensors")
        card = json.loads((tmp_path / name / "tier/card.json").read_text())
        assert card["compression"] == json.loads((slender / "tier/card.json").read_text())["compression"]
    before = load_file(slender / "tier/model.safetensors")
    for weights in tiers.values():
        assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in before.items()}
        assert not all(torch.equal(value, before[name]) for name, value in weights.items())
    name = "encoder.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(tiers["both"][name], tiers["predictions"][name])
    assert not torch.equal(tiers["both"][name], tiers["hidden"][name])


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_killed_in_the_middle_of_the_schedule_it_ends_bit_equal(tmp_path, slender_arguments, run_many, scope) -> None:
    places = ["training_step:7", "training_step:17", "training_step:31", "validation_step:2", "training_step:50"]
    places = places if scope == "layer" else places[1:2]
    arguments = [*slender_arguments, "--resume.every_n_steps=5", f"--slenderise.scope={scope}"]
    jobs = [([*arguments, f"--run={tmp_path}/whole"], None)]
    for i, place in enumerate(places):
        jobs += [([*arguments, f"--run={tmp_path}/{i}"], fault) for fault in (place, None)]
    codes = run_many(jobs)
    assert codes == [0] + [-9, 0] * len(places), run_many.output[-3000:]
    assert "resuming from" in run_many.output
    whole = torch.load(tmp_path / "whole/checkpoints/last.ckpt", weights_only=True)
    tier = load_file(tmp_path / "whole/tier/model.safetensors")
    for i in range(len(places)):
        again = torch.load(tmp_path / f"{i}/checkpoints/last.ckpt", weights_only=True)
        assert again["state_dict"].keys() == whole["state_dict"].keys()
        for name, value in whole["state_dict"].items():
            assert torch.equal(value, again["state_dict"][name]), (i, name)
        cut = load_file(tmp_path / f"{i}/tier/model.safetensors")
        assert all(torch.equal(value, cut[name]) for name, value in tier.items())


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a real command of two processes, each of which imports everything
def test_two_processes_cut_the_same(assistant, process_arguments, tmp_path) -> None:
    models = (f"--model.path={assistant}", f"--model.teacher={assistant}", "--model.max_length=32")
    sizes = [f"--slenderise.{size}" for size in (*SIZES, "prunings=2")]
    succeed(
        *("fit", "--config=configs/model/slenderise.yaml", *process_arguments, *models, *sizes),
        *("--data.batch_size=4", "--trainer.max_epochs=2", "--trainer.devices=2", f"--run={tmp_path}/run"),
        witness(tmp_path / "run"),
    )
    ranks = facts(tmp_path / "run")
    assert len(ranks) == 2 and ranks[0]["world_size"] == 2 and ranks[0]["seen"]["train"] != ranks[1]["seen"]["train"]
    assert ranks[0]["weights"] == ranks[1]["weights"]  # a digest of weights and masks
    card = json.loads((tmp_path / "run/tier/card.json").read_text())
    assert card["parameters"] == numbers(tmp_path / "run/tier") == card["compression"]["parameters"]["all"]["after"]
    model = MultiExitForSequenceClassification.from_pretrained(tmp_path / "run/tier")
    assert model.config.heads == [2] * LAYERS and model.config.intermediate == [8] * LAYERS


def test_no_other_configuration_can_lose_it(dial, slender_arguments, tmp_path) -> None:
    (tmp_path / "other.yaml").write_text("trainer: {callbacks: [{class_path: LearningRateMonitor}]}\n")
    arguments = (*slender_arguments, f"--config={tmp_path}/other.yaml", "--trainer.fast_dev_run=true")
    text = dial(*arguments, f"--run={tmp_path}/a").ok()
    assert "step 0: 2 heads and 8 neurons per layer (pruning 1 of 1)" in text and not (tmp_path / "a/tier").exists()


def test_a_folder_from_before_the_group_is_the_same_configuration(dial, fit_arguments, tmp_path) -> None:
    """Without a target the group does nothing, and does not belong to the configuration."""
    dial(*fit_arguments, "--trainer.max_epochs=1", f"--run={tmp_path}/a").ok()
    assert "slenderise" not in (tmp_path / "a/config-fit.yaml").read_text()
    assert "holds the finished run" in dial(*fit_arguments, "--trainer.max_epochs=1", f"--run={tmp_path}/a").ok()


BAD = [
    (
        ("compression=99", "heads=null", "intermediate=null", "embedding_rank=null"),
        r"`slenderise\.compression` must be at",
    ),
    (
        ("compression=2",),
        r"`slenderise\.compression` sets the sizes itself, but `slenderise\.heads` 2 .*set one of them",
    ),
    (("heads=0",), r"`slenderise\.heads` must lie between 1 and 4, the model's own, but got 0"),
    (("heads=5",), r"`slenderise\.heads` must lie between 1 and 4, the model's own, but got 5"),
    (("intermediate=33",), r"`slenderise\.intermediate` must lie between 1 and 32, the model's own, but got 33"),
    (("embedding_rank=17",), r"`slenderise\.embedding_rank` must lie between 1 and 16, the model's own, but got 17"),
    (("stop=62",), r"`slenderise\.stop` must lie before the end of the run of 62 steps .* got 62; train longer"),
    (("stop=5", "prunings=6"), r"`slenderise\.stop` must lie at least `slenderise\.prunings` = 6 steps .*train longer"),
    (("window=0",), r"`slenderise\.window` must be at least 1, but got 0"),
    (("scope=all",), r"`--slenderise\.scope`.*Got value: all"),
    (
        ("heads=null", "intermediate=null", "embedding_rank=null"),
        r"`slenderise\.stop` 0\.6 needs a target, but there is",
    ),
]


@pytest.mark.parametrize(("changed", "message"), BAD, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_targets_and_schedules_that_cannot_be(dial, slender_arguments, tmp_path, changed, message) -> None:
    error = dial(*slender_arguments, *(f"--slenderise.{c}" for c in changed), f"--run={tmp_path}/a").error
    assert re.search(message, error), error
    assert not (tmp_path / "a/config-fit.yaml").exists() and not (tmp_path / "a/checkpoints").exists()


def test_assistants_that_do_not_fit(dial, slender_arguments, make_assistant, tmp_path) -> None:
    def refused(folder: Path) -> str:
        return dial(*slender_arguments, f"--model.teacher={folder}", f"--run={tmp_path}/a").error

    assert re.search(r"`teacher` must have the student's 3 layers.*has 2; take", refused(make_assistant(layers=2)))
    assert re.search(
        r"`teacher`.*negative, positive .*it has yes, no; if they mean", refused(make_assistant(labels=("yes", "no")))
    )
    other = make_assistant()
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"film"', '"movie"'))
    assert re.search(r"`teacher` must have the student's vocabulary.*take a teacher of the same enc", refused(other))
    assert not (tmp_path / "a").exists() or not (tmp_path / "a/config-fit.yaml").exists()


def test_other_models_and_callbacks_are_refused(dial, slender_arguments, fit_arguments, tmp_path) -> None:
    error = dial(*fit_arguments, "--slenderise.heads=1", f"--run={tmp_path}/a").error
    assert "`model` must train a multi-exit model to make it slender, but Classifier trains" in error
    listed = '--trainer.callbacks=[{"class_path": "callbacks.Slenderise", "init_args": {"heads": 1}}]'
    error = dial(*slender_arguments, listed, f"--run={tmp_path}/a").error
    assert "`--trainer.callbacks` must leave out Slenderise, which is always there; set it with `--slenderise." in error


def test_importance_that_is_not_finite_names_the_layer(dial, slender_arguments, tmp_path) -> None:
    broken = ("--model.optimizer.init_args.lr=1e38", "--model.warmup=0", "--slenderise.start=3", "--slenderise.stop=9")
    error = dial(*slender_arguments, *broken, f"--run={tmp_path}/a").error
    assert re.search(
        r"The importance must be finite, but that of the \w+ of layer \d is not; lower the learning", error
    )
    assert not (tmp_path / "a/tier").exists()


@pytest.mark.slow
def test_another_schedule_cannot_resume(dial, slender, slender_arguments, tmp_path, snapshot) -> None:
    before = snapshot(slender)
    last = f"--ckpt_path={slender}/checkpoints/last.ckpt"
    for more, message in (
        (
            ("--slenderise.prunings=5", f"--run={slender}"),
            r"another configuration: slenderise\.prunings was 4 and is 5",
        ),
        (("--slenderise.prunings=5", last), r"settings of the checkpoint, but it has prunings=4, now 5"),
        (("--slenderise.heads=3", last), r"settings of the checkpoint, but it has heads=2, now 3"),
        (("--slenderise.embedding_rank=6", last), r"sizes of the checkpoint, but .*word_embeddings.* differs"),
        (("--trainer.max_epochs=3", last), r"schedule of the checkpoint, but it has stop=37, now 56"),
    ):
        more = more if "--run" in more[-1] else (*more, f"--run={tmp_path}/a")
        assert re.search(message, dial(*slender_arguments, *more).error), message
    idle = [argument for argument in slender_arguments[1:] if "slenderise" not in argument]
    same = "--model.policy=JointSum"  # another policy is refused before
    error = dial("fit", "--config=configs/model/recover.yaml", *idle, same, last, f"--run={tmp_path}/a").error
    assert "`--ckpt_path` must be a checkpoint of a run without Slenderise" in error
    assert snapshot(slender) == before and not (tmp_path / "a/tier").exists()
