"""A run folder belongs to one configuration."""

import pytest
import yaml

from dial.runs import check_run_folder, claim_run_folder

CONFIG = {
    "seed_everything": 0,
    "run": "runs/a",
    "model": {"class_path": "Classifier", "init_args": {"layers": 2}},
    "data": {"class_path": "GLUEDataModule", "init_args": {"task": "sst2", "num_workers": 0, "cache_dir": None}},
    "trainer": {"max_epochs": 3, "enable_progress_bar": True},
}


def changed(path: str, value: object) -> dict:
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    *parents, leaf = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    return config


def test_the_same_configuration_may_come_back(tmp_path) -> None:
    claim_run_folder(tmp_path / "a", "fit", CONFIG)
    claim_run_folder(tmp_path / "a", "fit", CONFIG)
    assert yaml.safe_load((tmp_path / "a/config-fit.yaml").read_text()) == CONFIG


KEYS = ["model.init_args.layers", "data.init_args.task", "trainer.max_epochs", "seed_everything"]


@pytest.mark.parametrize("key", KEYS)
def test_another_configuration_is_refused_and_the_old_one_stays(tmp_path, key) -> None:
    claim_run_folder(tmp_path, "fit", CONFIG)
    before = (tmp_path / "config-fit.yaml").read_bytes()
    with pytest.raises(ValueError, match=f"--run.*another configuration: {key} was") as error:
        claim_run_folder(tmp_path, "fit", changed(key, 7))
    assert "\n" not in str(error.value)
    assert (tmp_path / "config-fit.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.enable_progress_bar", False),
        ("data.init_args.num_workers", 2),
        ("data.init_args.cache_dir", "elsewhere"),
    ],
)
def test_what_changes_no_number_may_differ(tmp_path, key, value) -> None:
    claim_run_folder(tmp_path, "fit", CONFIG)
    claim_run_folder(tmp_path, "fit", changed(key, value))


def test_each_command_has_its_own_configuration(tmp_path) -> None:
    claim_run_folder(tmp_path, "fit", CONFIG)
    claim_run_folder(tmp_path, "test", changed("model.init_args.layers", 7))


def test_checking_writes_nothing(tmp_path) -> None:
    assert not check_run_folder(tmp_path / "a", "fit", CONFIG)
    assert not (tmp_path / "a").exists()
