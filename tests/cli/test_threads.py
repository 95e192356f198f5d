"""Threads wait passively, unless the user has said how they are to wait."""

import os
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT

NAMES = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT", "KMP_LIBRARY")
SHOW = f"import os; print({{name: os.environ.get(name) for name in {NAMES!r}}})"
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": None, "KMP_LIBRARY": None}


def run(code: str, **environment: str) -> dict[str, str | None]:
    """The variables at the end of some code, in a new process that has set none."""
    plain = {key: value for key, value in os.environ.items() if key not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{SHOW}"], capture_output=True, text=True, cwd=ROOT, check=True,
        env={**plain, **environment},
    )  # fmt: skip
    return eval(done.stdout.splitlines()[-1])


def test_every_command_sets_it() -> None:
    assert run("from dial.cli.main import main; main(['bogus'])") == PASSIVE


def test_importing_alone_sets_nothing() -> None:
    assert run("import dial") == dict.fromkeys(NAMES)


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "1000"), ("KMP_BLOCKTIME", "200")]
)
def test_what_the_user_has_set_stays(name, value) -> None:
    expected = {**dict.fromkeys(NAMES), name: value}
    assert run("from dial.cli.main import main; main(['bogus'])", **{name: value}) == expected


def test_the_classifier_sets_it_before_torch_is_imported() -> None:
    """And not afterwards, when it would reach nothing but the processes that are started later."""
    names = ("lightning_modules", "dial.inference", "dial.inference.classifier")
    fake = f"import sys, types\nfor name in {names}: sys.modules[name] = types.ModuleType(name)\n"
    fake += f"sys.modules[{names[2]!r}].AdaptiveClassifier = 1\n"
    ask = "from dial import AdaptiveClassifier"
    assert run(fake + ask) == PASSIVE
    assert run(f"{fake}sys.modules['torch'] = 1\n{ask}") == dict.fromkeys(NAMES)


def test_the_openmp_of_this_torch_reads_it() -> None:
    """GNU's prints what it has read; where another one is linked it is Intel's or LLVM's, which print the same line."""
    code = "import sys; from dial.threads import wait_passively; wait_passively(); import torch; torch.ones(1) + 1"
    plain = {key: value for key, value in os.environ.items() if key not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True,
        env={**plain, "OMP_DISPLAY_ENV": "true"},
    )  # fmt: skip
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "OMP_WAIT_POLICY" in line]
    if not lines:
        pytest.skip("this torch has no OpenMP")
    assert all("PASSIVE" in line for line in lines), lines
