"""What is installed: ranges and exact versions agree, and scripts that no test can run are at least well formed."""

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


def requirements() -> list[Requirement]:
    extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *extras]]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_exact_version_is_in_the_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[requirement.name])


def test_malicious_releases_of_lightning_are_excluded() -> None:
    (lightning,) = (r for r in requirements() if r.name == "lightning")
    assert not any(lightning.specifier.contains(version) for version in ("2.6.2", "2.6.3"))


def test_no_local_builds_are_pinned() -> None:
    assert not any("+" in version or "/" in version for version in PINS.values())


@pytest.mark.parametrize("script", ["configs/cluster/slurm.sh", "scripts/demo.sh", "scripts/demo_text.sh", ".ci/run"])
def test_shell_scripts_parse_and_are_executable(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert (ROOT / script).stat().st_mode & 0o100


def test_slurm_script_and_trainer_agree() -> None:
    trainer = yaml.safe_load((ROOT / "configs/trainer/multinode.yaml").read_text())
    script = (ROOT / "configs/cluster/slurm.sh").read_text()
    assert f"--nodes={trainer['num_nodes']}\n" in script
    assert f"--ntasks-per-node={trainer['devices']}\n" in script
