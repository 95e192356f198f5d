"""`dial predict` has tiers computed by what is fastest and answers alike; what it says, and where it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dial.cli import preparation
from dial.cli.main import main
from dial.inference import routes as network_routes
from dial.tiers.backends import choice
from dial.tiers.backends.names import installed
from tests.inference.run_folder import make_run
from tests.tiers import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    base = small.plain_tier("base")
    tiers = [small.exits_tier("swift", base, (1, 2)), small.plain_tier("super", 2, words=12)]
    return make_run(tmp_path_factory.mktemp("run"), tiers, rows=60)


@pytest.fixture
def long_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preparation, "COMPARED_ROWS", 500)
    monkeypatch.setattr(preparation, "LONG", 600)
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in small.texts(650, seed=3)))
    return path


def answers(run: Path, source: Path, out: Path, *more: str) -> tuple[list[Any], dict[str, Any]]:
    rule = ["--score", "softmax", "--threshold", "0.4"]
    assert main(["predict", str(run), str(source), "--out", str(out), *rule, *more]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return [row["label_name"] for row in rows], json.loads(out.with_name(f"{out.name}.manifest.json").read_text())


@pytest.mark.skipif(not installed(), reason="neither openvino nor onnxruntime is installed")
def test_answers_of_the_fastest_backend_are_those_of_the_test(
    run: Path, long_input: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = installed()[0]
    wanted = choice.Route(backend, "float32")
    timed = choice._timed

    def said_to_be_faster(*args: Any) -> Any:  # such small tiers gain nothing
        ratios, parts = timed(*args)
        return {route: 2.0 if route == wanted else 1.0 for route in ratios}, parts

    monkeypatch.setattr(choice, "_timed", said_to_be_faster)
    for place in (choice, network_routes):
        monkeypatch.setattr(place, "routes", lambda: [wanted])
    tested, before = answers(run, long_input, tmp_path / "tested.jsonl", "--backend", "tested")
    assert "is computed by" not in capsys.readouterr().err and "backends" not in before
    found, manifest = answers(run, long_input, tmp_path / "auto.jsonl")
    said = capsys.readouterr().err
    assert "swift is computed by" in said and "super is computed by" in said
    taken = manifest["backends"]
    assert taken["answers"]["changed"] == 0 and taken["answers"]["rows"] == 500
    assert taken["tiers"] == {"swift": str(wanted), "super": str(wanted)}
    assert found == tested
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(long_input.read_text().splitlines()[:5]) + "\n")
    again, manifest = answers(run, short, tmp_path / "short-out.jsonl")
    assert again == tested[:5] and manifest["backends"] == taken | {"remembered": True} != taken


def test_a_short_input_is_answered_as_tested(
    run: Path, long_input: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preparation, "LONG", 700)
    _, manifest = answers(run, long_input, tmp_path / "out.jsonl")
    assert "backends" not in manifest and "is computed by" not in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "1", "nan"])
def test_a_share_that_none_can_keep(
    share: str, run: Path, long_input: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["predict", str(run), str(long_input), "--out", str(tmp_path / "o.jsonl"), "--same-answers", share])
    assert code != 0 and "`--same-answers` must be between 0 and 1" in capsys.readouterr().err
