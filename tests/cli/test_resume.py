"""A run that is killed and started again ends bit-equal to one that was never killed."""

import pytest
import torch
from safetensors.torch import load_file

STEPS = ["training_step:3", "training_step:20", "training_step:32", "validation_step:2", "training_step:47"]


def assert_equal_runs(left, right) -> None:
    a, b = (load_file(run / "tier/model.safetensors") for run in (left, right))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    first, second = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (left, right))
    assert first["global_step"] == second["global_step"]
    for name in first["state_dict"]:
        assert torch.equal(first["state_dict"][name], second["state_dict"][name]), name
    for i, moments in first["optimizer_states"][0]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, second["optimizer_states"][0]["state"][i][name]), (i, name)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_is_bit_equal(tmp_path, fit_arguments, run_many, workers) -> None:
    common = [*fit_arguments, f"--data.num_workers={workers}", "--resume.every_n_steps=5"]
    jobs = [([*common, f"--run={tmp_path}/whole"], None)]
    for i, place in enumerate(STEPS):
        jobs += [([*common, f"--run={tmp_path}/{i}"], place), ([*common, f"--run={tmp_path}/{i}"], None)]
    codes = run_many(jobs)
    assert codes == [0] + [-9, 0] * len(STEPS), run_many.output[-3000:]
    for i in range(len(STEPS)):
        assert_equal_runs(tmp_path / "whole", tmp_path / str(i))


@pytest.mark.slow
def test_dropout_makes_the_random_state_matter(tmp_path, fit_arguments, run_many) -> None:
    """The check above means something: another seed, all else equal, ends elsewhere."""
    common = [*fit_arguments, "--resume.every_n_steps=5"]
    assert run_many([([*common, f"--run={tmp_path}/{s}", f"--seed_everything={s}"], None) for s in (0, 1)]) == [0, 0]
    with pytest.raises(AssertionError):
        assert_equal_runs(tmp_path / "0", tmp_path / "1")


@pytest.mark.slow
def test_where_the_newest_checkpoint_is_damaged_the_one_before_goes_on(tmp_path, dial, fit_arguments) -> None:
    common = [*fit_arguments, "--resume.every_n_steps=5"]
    dial(*common, f"--run={tmp_path}/whole").ok()
    assert dial(*common, f"--run={tmp_path}/a", fault="training_step:42").code == -9
    last = tmp_path / "a/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    text = dial(*common, f"--run={tmp_path}/a").ok()
    assert len([line for line in text.splitlines() if "last.ckpt is damaged" in line]) == 1
    assert "previous.ckpt" in text and not (tmp_path / "a/checkpoints/previous.ckpt").exists()
    assert_equal_runs(tmp_path / "whole", tmp_path / "a")


@pytest.mark.slow
def test_a_run_that_was_moved_knows_its_best_checkpoint(tmp_path, dial, fit_arguments) -> None:
    common = [*fit_arguments, "--resume.every_n_steps=5"]
    dial(*common, f"--run={tmp_path}/whole").ok()
    assert dial(*common, f"--run={tmp_path}/a", fault="training_step:42").code == -9
    (tmp_path / "a").rename(tmp_path / "b")
    dial(*common, f"--run={tmp_path}/b").ok()
    assert_equal_runs(tmp_path / "whole", tmp_path / "b")
