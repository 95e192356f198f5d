"""`dial predict` has tiers computed by what is fastest and answers alike; what it says, and where it does not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.row_files import Stream
from datamodules.sources import TextFile
from dial.cli import predict, preparation
from dial.cli.main import main
from dial.cli.record_files import JsonLines
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


def only(wanted: choice.Route, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a route be the only one beside torch, and twice as fast: such small tiers gain nothing."""
    timed = choice._timed

    def said_to_be_faster(*args: Any) -> Any:
        ratios, parts = timed(*args)
        return {route: 2.0 if route == wanted else 1.0 for route in ratios}, parts

    monkeypatch.setattr(choice, "_timed", said_to_be_faster)
    for place in (choice, network_routes):
        monkeypatch.setattr(place, "routes", lambda: [wanted])


@pytest.mark.skipif(not installed(), reason="neither openvino nor onnxruntime is installed")
def test_answers_of_the_fastest_backend_are_those_of_the_test(
    run: Path, long_input: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = choice.Route(installed()[0], "float32")
    only(wanted, monkeypatch)
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


def stop_after(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write = JsonLines.write

    def stopped(self: JsonLines, records: Any) -> None:
        if self.totals.rows >= rows:
            raise KeyboardInterrupt
        write(self, records)

    monkeypatch.setattr(predict, "BATCH", 8)
    monkeypatch.setattr(JsonLines, "pause", -1.0)
    monkeypatch.setattr(JsonLines, "write", stopped)


def test_an_output_goes_on_with_what_computed_its_rows(
    run: Path, long_input: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tested, _ = answers(run, long_input, tmp_path / "tested.jsonl", "--backend", "tested")
    out = tmp_path / "out.jsonl"
    command = ["predict", str(run), str(long_input), "--out", str(out), "--score", "softmax", "--threshold", "0.4"]
    low = choice.Route("torch", "bfloat16")
    with monkeypatch.context() as patched:
        only(low, patched)
        stop_after(24, patched)
        assert main([*command, "--same-answers", "0.05"]) == 130
    assert main([*command, "--backend", "tested"]) == 2
    refusal = capsys.readouterr().err
    assert "holds rows for which swift was computed by torch bfloat16, but --backend tested asks for torch" in refusal
    monkeypatch.setattr(network_routes, "take_fastest", lambda *args: pytest.fail("it is chosen again"))
    found, manifest = answers(run, long_input, out)
    assert manifest["computed_by"] == {"swift": str(low), "super": str(low)} == manifest["backends"]["tiers"]
    assert manifest["resumed"]["after_rows"] == 24 and manifest["resumed"]["scores_equal_to"] > 1e-5
    assert len(found) == len(tested)
    before = out.read_bytes()
    assert main(command) == 0 and out.read_bytes() == before  # finished: nothing is compared


def test_rows_that_were_answered_as_tested_are_gone_on_with_so(
    run: Path, long_input: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    command = ["predict", str(run), str(long_input), "--out", str(out), "--score", "softmax", "--threshold", "0.4"]
    with monkeypatch.context() as patched:
        stop_after(24, patched)
        assert main([*command, "--backend", "tested"]) == 130
    only(choice.Route("torch", "bfloat16"), monkeypatch)
    _, manifest = answers(run, long_input, out, "--same-answers", "0.05")
    assert manifest["computed_by"] == {"swift": "torch", "super": "torch"} and "backends" not in manifest


def test_equal_scores_are_not_claimed_where_they_were_not_measured() -> None:
    assert predict.resumed(5, {"epsilon": None}) == {"resumed": {"after_rows": 5, "scores_equal_to": None}}
    assert predict.resumed(5, {})["resumed"]["scores_equal_to"] == 1e-5 and predict.resumed(0, {}) == {}


def test_nothing_is_read_ahead_of_a_pipe(long_input: Path) -> None:
    content = io.BytesIO(long_input.read_bytes())
    piped = TextFile("", stream=Stream(content), stream_format=".jsonl")
    place = content.tell()
    assert preparation._compared(piped) == [] and content.tell() == place
    assert preparation._compared(TextFile(long_input)) == small.texts(650, seed=3)[:500]


@pytest.mark.parametrize("share", ["0", "1", "nan"])
def test_a_share_that_none_can_keep(
    share: str, run: Path, long_input: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["predict", str(run), str(long_input), "--out", str(tmp_path / "o.jsonl"), "--same-answers", share])
    assert code != 0 and "`--same-answers` must be between 0 and 1" in capsys.readouterr().err
