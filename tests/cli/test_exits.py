"""Multi-exit models by real commands: several processes, runs that are killed in their second stage, bad input."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dial.models import MultiExitForSequenceClassification
from tests.cli.conftest import QUIET
from tests.cli.glue_files import write_task
from tests.cli.real_commands import facts, succeed, witness
from tests.cli.test_resume import assert_equal_runs

LABELS = ["negative", "positive"]


@pytest.fixture(scope="session")
def exits(make_tiny_bert, tmp_path_factory, tiny_tokenizer) -> Path:
    """A model with exits after layers 1, 2 and 3, without dropout, that learns to exit."""
    bert = make_tiny_bert(layers=3, seed=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    folder = tmp_path_factory.mktemp("exits")
    model = MultiExitForSequenceClassification.from_encoder(str(bert), label_names=LABELS, dropout=0.0, certainty=True)
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(exits, process_arguments, tmp_path_factory):
    """Function: folder of a fit by a policy in so many processes; its steps read the same 8 rows; each runs once."""
    runs: dict[tuple[str, int], Path] = {}
    # Of plain gradient descent: a constant factor on a gradient would cancel in AdamW's steps.
    optimizer = "--model.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.1}}"

    def run(policy: str, processes: int) -> Path:
        if (policy, processes) not in runs:
            folder = runs[policy, processes] = tmp_path_factory.mktemp(f"{policy}{processes}")
            succeed(
                *("fit", "--model=MultiExit", f"--model.path={exits}", f"--model.policy={policy}", optimizer),
                *("--model.max_length=32", "--trainer.max_epochs=2", "--trainer.gradient_clip_val=1.0"),
                *(*process_arguments, f"--trainer.devices={processes}", f"--data.batch_size={8 // processes}"),
                *("--early_stopping.patience=9", witness(folder), f"--run={folder}"),
            )
        return runs[policy, processes]

    return run


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("policy", ["GradientEquilibrium", "TwoStage"])
def test_two_processes_train_as_one(exits, trained, policy) -> None:
    one, two = (load_file(trained(policy, processes) / "tier/model.safetensors") for processes in (1, 2))
    start = load_file(exits / "model.safetensors")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-3, msg=name)
        assert not torch.equal(value, start[name]) or name.endswith("key.bias"), name  # softmax does not see that one
    ranks = facts(trained(policy, 2))
    assert [rank["world_size"] for rank in ranks] == [2, 2] and len({rank["weights"] for rank in ranks}) == 1
    assert ranks[0]["global_step"] == facts(trained(policy, 1))[0]["global_step"] == 12


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_the_second_stage_and_resumed_is_bit_equal(dial, tiny_bert, data_arguments, tmp_path) -> None:
    """Stage two begins in the middle of the first of two epochs of 31 steps; dropout makes the random state count."""
    common = [
        *("fit", "--config=configs/model/deebert.yaml", f"--model.path={tiny_bert}", *data_arguments, *QUIET),
        *("--model.policy.init_args.share=0.3", "--model.certainty=joint", "--model.max_length=32"),
        *("--data.batch_size=8", "--trainer.max_epochs=2", "--resume.every_n_steps=5"),
    ]
    whole = dial(*common, f"--run={tmp_path}/whole").ok()
    assert "epoch 1" in whole
    for place in ("training_step:23", "training_step:45"):
        killed = tmp_path / place.replace(":", "-")
        assert dial(*common, f"--run={killed}", fault=place).code == -9
        assert "resuming from" in dial(*common, f"--run={killed}").ok()
        assert_equal_runs(tmp_path / "whole", killed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_regression_learns_to_exit_and_does(dial, make_tiny_bert, tmp_path) -> None:
    """STS-B from training to operating points, with shipped configurations."""
    source = write_task(tmp_path / "data", "stsb", train=200, test=60)
    bert = make_tiny_bert(layers=3, labels=("score",), seed=2)
    common = (
        *("--config=configs/model/berxit.yaml", "--data=configs/data/stsb.yaml", f"--data.source={source}", *QUIET),
        *("--data.calibration_fraction=0.3", "--model.max_length=32", "--sweep.bootstrap=100"),
    )
    dial("fit", *common, f"--model.path={bert}", "--trainer.max_epochs=1", f"--run={tmp_path}/run").ok()
    again = (*common, f"--model.path={tmp_path}/run/tier", f"--run={tmp_path}/run")
    text = dial("test", *again, "--sweep.tolerance=0.5", "--sweep.patience=[1]").ok()
    for part in ("Operating points of `learned`", "Operating points of patience (PABEE)", "Simple instances"):
        assert part in text
    summary = json.loads((tmp_path / "run/sweep/summary.json").read_text())
    found = {(p["score"], p["kind"]) for p in summary["splits"]["test"]["points"]}
    assert found >= {(s, k) for s in ("learned", "patience") for k in ("expected", "confident")}
    assert (tmp_path / "run/sweep/exits.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.exits=[1, 4]"], "`exits` must be layers from 1 to 3, but got [1, 4]"),
        (["--model.exits=[1, 2]"], "`exits` must end with the last layer 3"),
        (["--sweep.patience=[0]"], "`sweep.patience` must be at least 1"),
        (["--sweep.patience=[3]"], "`sweep.patience` must be from 1 to 2, as 3 exits agree at most 2 times in a row"),
        (["--sweep.tolerance=-1"], "`sweep.tolerance` must be 0 or more"),
    ],
)
def test_bad_input_is_one_line(dial, exits, data_arguments, tmp_path, arguments, message) -> None:
    model = ("--model=MultiExit", f"--model.path={exits}")
    assert message in dial("test", *model, *data_arguments, *QUIET, *arguments, f"--run={tmp_path}/run").error
    assert not (tmp_path / "run/sweep").exists()
