"""Backends against transformers row by row, and against torch where rows leave at exits; and what is refused."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dial.costs.counting import tier_costs
from dial.inference.executor import Executor
from dial.inference.staged import StagedModel
from dial.machine import has_bf16, instruction_sets
from dial.models import MultiExitForSequenceClassification
from dial.tiers import loading
from dial.tiers.backends import attach as attaching
from dial.tiers.backends import graphs, names
from dial.tiers.backends.attach import in_torch
from dial.tiers.backends.choice import Choice, Route
from dial.tiers.backends.export import export
from dial.tiers.backends.graphs import GRAPHS
from dial.tiers.backends.names import missing_package
from dial.tiers.loading import load_tier, save_tier
from dial.tiers.tier import Tier, View
from dial.tiers.tokens import Tokeniser
from dial.tradeoff.rules import rule_named
from tests.tiers.exported import BACKENDS, UNITS, Make, outputs
from tests.tiers.families import CLASSES, one_by_one, save
from tests.tiers.tiny_tiers import DATA, words_tier

pytestmark = pytest.mark.usefixtures("said_anew")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["bert", "albert", "mobilebert"])
def test_answers_are_those_of_transformers(kind: str, backend: str, tmp_path: Path, tiny_tokenizer: Any) -> None:
    folder = save(tmp_path / "tier", kind, tiny_tokenizer)
    tier = load_tier({"path": str(folder), "backend": backend}, "tier", CLASSES)
    assert tier.parts is not None
    wanted = one_by_one(folder, UNITS)
    for size in (1, 4, 6):
        np.testing.assert_allclose(outputs(tier, UNITS, size)[:, 0], wanted, atol=2e-5, rtol=1e-4)
    with in_torch(tier):
        np.testing.assert_allclose(outputs(tier, UNITS, 4)[:, 0], wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_rows_are_answered_as_by_transformers(backend: str, tmp_path: Path, tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_max_length = 120
    folder = save(tmp_path / "tier", "deberta", tokenizer)  # its trace holds the distances of one length
    tier = load_tier({"path": str(folder), "backend": backend}, "tier", CLASSES)
    units = ["good bad dull " * times for times in (1, 10, 30, 39)]
    wanted = one_by_one(folder, units, max_length=120)
    for size in (1, 2):
        np.testing.assert_allclose(outputs(tier, units, size)[:, 0], wanted, atol=1e-4, rtol=1e-3)


class Attention(nn.Module):
    """Two heads, whose queries read the keys beside them that the mask allows."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, input_ids: Tensor, attention_mask: Tensor, hidden: Tensor) -> Tensor:
        heads, places = hidden.unflatten(-1, (2, 4)).transpose(1, 2), torch.arange(hidden.shape[1])
        near = (places[:, None] - places).abs() <= 1
        allowed = near & attention_mask.bool()[:, None, None]
        mask = {"none": None, "bool": allowed, "added": torch.zeros(()).masked_fill(~allowed, -torch.inf)}[self.kind]
        return F.scaled_dot_product_attention(heads, heads, heads, mask).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["none", "bool", "added"])
def test_attention_is_exported_as_its_equation_says(kind: str, backend: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def batch(rows: int, tokens: int) -> dict[str, Tensor]:
        hidden = 3 * torch.randn(rows, tokens, 8, generator=generator)
        mask = (torch.arange(tokens) < torch.arange(tokens - rows + 1, tokens + 1)[:, None]).long()
        return {"input_ids": torch.ones(rows, tokens).long(), "attention_mask": mask, "hidden": hidden}

    export(Attention(kind), batch(2, 5), tmp_path / "attention.onnx")
    given = batch(4, 9)  # in the first row the last tokens have no key that they may read
    found = GRAPHS[backend](tmp_path / "attention.onnx", "float32")(given).unflatten(-1, (2, 4)).numpy()
    assert np.isfinite(found).all()
    heads, mask = given["hidden"].unflatten(-1, (2, 4)).double().numpy(), given["attention_mask"].numpy()
    for row, place, head in np.ndindex(found.shape[:3]):
        keys = [s for s in range(9) if kind == "none" or (abs(s - place) <= 1 and mask[row, s])]
        if keys:
            weights = np.exp([heads[row, place, head] @ heads[row, s, head] / 2 for s in keys])
            wanted = sum(w * heads[row, s, head] for w, s in zip(weights, keys, strict=True)) / weights.sum()
            np.testing.assert_allclose(found[row, place, head], wanted, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_between_the_products_of_attention_there_is_a_softmax_alone(backend: str, tiny_bert: Path) -> None:
    """OpenVINO makes one operation of them."""
    import onnx

    tier = load_tier({"path": str(tiny_bert), "backend": backend}, "tier", DATA)
    assert tier.parts is not None
    operations = [node.op_type for node in onnx.load(tier.parts[0].file).graph.node]
    assert operations.count("Softmax") == tier.model.config.num_hidden_layers and "IsNaN" not in operations
    following = [after for each, after in itertools.pairwise(operations) if each == "Softmax"]
    assert set(following) == {"MatMul"}


@pytest.mark.skipif(bool(missing_package("openvino")), reason="openvino or onnx is not installed")
@pytest.mark.parametrize("case", ["two forms", "file gone", "not told apart"])
def test_long_rows_are_computed_in_another_form(case: str, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_tier(str(tiny_bert), "tier", DATA)
    lengths = [len(row.ids) for row in Tokeniser(whole)(UNITS)]
    monkeypatch.setattr(graphs, "FUSED_FROM", sorted(lengths)[3])
    if case == "not told apart":
        monkeypatch.setattr(graphs, "APART", {"NO_SUCH_SETTING": "1"})
    tier = load_tier({"path": str(tiny_bert), "backend": "openvino"}, "tier", DATA)
    assert tier.parts is not None
    graph = tier.parts[0] = graphs.OpenVinoGraph(tier.parts[0].file, "float32")
    if case == "file gone":
        monkeypatch.setattr(graph, "file", tiny_bert / "gone.onnx")
    for size in (1, 2, 6):
        np.testing.assert_allclose(outputs(tier, UNITS, size), outputs(whole, UNITS, size), atol=1e-5)
    forms = len({id(request) for request in graph._requests.values()})
    assert forms == (2 if case == "two forms" else 1) or not any(name.startswith("avx") for name in instruction_sets())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bilstm_reads_no_padding(backend: str, tmp_path: Path) -> None:
    folder = save_tier(tmp_path / "tier", words_tier(hidden_size=8, embedding_size=6), {})
    whole = load_tier(str(folder), "swift", DATA)
    tier = load_tier({"path": str(folder), "backend": backend}, "swift", DATA)
    assert tier.parts is not None
    texts = ["a great film", "the plot was not so good and the cast is poor", "dull", ""]
    for size in (1, 3, 4):
        np.testing.assert_allclose(outputs(tier, texts, size), outputs(whole, texts, size), atol=1e-5)


@pytest.fixture(scope="module")
def exits_folder(make_tiny_bert: Make, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        bert = str(make_tiny_bert(layers=4, seed=3))
        model = MultiExitForSequenceClassification.from_encoder(bert, [1, 3, 4], DATA, pooling="mean")
    folder = tmp_path_factory.mktemp("exits")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_executor_decides_alike_at_exits(backend: str, exits_folder: Path) -> None:
    whole = load_tier(str(exits_folder), "exits", DATA)
    tier = load_tier({"path": str(exits_folder), "backend": backend}, "exits", DATA)
    assert tier.parts is not None and len(tier.parts) == 3
    words = np.array("the a film plot cast is was not but good bad dull fine great poor".split())
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, random.integers(1, 14))) for _ in range(300)]
    scores = torch.from_numpy(outputs(whole, texts, 50)).double().softmax(-1).amax(-1).numpy()
    thresholds = np.median(scores[:, :2], axis=0)
    rule = rule_named("threshold", "softmax", stages=tuple(whole.stage_names), thresholds=tuple(thresholds))
    found = [list(Executor(StagedModel([each]), rule, batch_sizes=16).run(texts)) for each in (whole, tier)]
    for one, other in zip(*found, strict=True):
        near = np.abs(scores[one.id][:2] - thresholds).min() < 1e-5
        assert near or (one.stage, one.prediction) == (other.stage, other.prediction)
    assert len({answer.stage for answer in found[1]}) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_exits_in_a_backend_cost_what_they_cost_in_torch(backend: str, exits_folder: Path) -> None:
    tiers = [load_tier({"path": str(exits_folder), "backend": each}, "exits", DATA) for each in ("torch", backend)]
    one, other = (tier_costs(tier, [3, 9, 30]) for tier in tiers)
    assert one == other and len(one) == 3


@pytest.mark.skipif(bool(missing_package("openvino")), reason="openvino or onnx is not installed")
@pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16 instructions")
def test_openvino_is_held_to_the_numbers_asked_for(tiny_bert: Path) -> None:
    texts = [unit for unit in UNITS if isinstance(unit, str)]
    expected = outputs(load_tier(str(tiny_bert), "tier", DATA), texts, 4)
    moved = {}
    for dtype in ("float32", "bfloat16"):
        tier = load_tier({"path": str(tiny_bert), "backend": "openvino", "dtype": dtype}, "tier", DATA)
        moved[dtype] = np.abs(outputs(tier, texts, 4) - expected).max()
    assert moved["float32"] < 2e-6 < 1e-4 < moved["bfloat16"] < 0.05


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_export_that_answers_otherwise_is_not_taken(
    backend: str, make_tiny_bert: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = attaching.export

    def wrong(part: Any, given: Any, file: Path) -> None:
        damaged = copy.deepcopy(part)
        damaged.model.classifier.weight.data[0, 0] += 0.01
        export(damaged, given, file)

    monkeypatch.setattr(attaching, "export", wrong)
    tier = load_tier({"path": str(make_tiny_bert(seed=13)), "backend": backend}, "tier", DATA)
    assert tier.parts is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_that_a_tier_does_not_use_are_not_taken(
    backend: str, make_tiny_bert: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tier, "compute_with", lambda self, parts: None)  # a tier that computes in a way of its own
    assert load_tier({"path": str(make_tiny_bert(seed=14)), "backend": backend}, "tier", DATA).parts is None
    assert attaching._say.cache_info().currsize == 1  # it was said


@pytest.mark.parametrize("backend", BACKENDS)
def test_graphs_can_be_copied_and_follow_the_number_of_threads(backend: str, tiny_bert: Path) -> None:
    tier = load_tier({"path": str(tiny_bert), "backend": backend}, "tier", DATA)
    expected = outputs(tier, UNITS, 3)
    again = copy.deepcopy(tier)
    assert again.parts is not None and again.parts[0] is not tier.parts[0]
    np.testing.assert_array_equal(outputs(again, UNITS, 3), expected)
    pickle.loads(pickle.dumps(tier.parts))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        np.testing.assert_allclose(outputs(tier, UNITS, 3), expected, atol=1e-6)
        assert tier.parts[0]._threads == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ValueError, match=f"`backend` {backend} computes on a CPU only.*meta"):
        tier.parts[0]({"input_ids": torch.zeros(1, 3, device="meta")})


def test_what_is_refused(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"`tier`: `backend` must be one of torch, .*got 'tensorrt'"):
        View.parse({"path": "x", "backend": "tensorrt"}, "tier")
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    for backend in ("openvino", "onnxruntime"):
        with pytest.raises(ValueError, match=rf"`path`: `backend` {backend} needs the package .*\.\[{backend}\]"):
            load_tier({"path": str(tiny_bert), "backend": backend}, "tier", DATA)
    monkeypatch.setattr(names, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match=r"`dtype` must be float32 or bfloat16 where `backend` is openvino.*'int8'"):
        View.parse({"path": "x", "backend": "openvino", "dtype": "int8"}, "tier")
    with pytest.raises(ValueError, match="`path`: `backend` must be torch for training, but got 'openvino'"):
        load_tier({"path": str(tiny_bert), "backend": "openvino"}, "tier", DATA, train=True)


def test_a_fingerprint_changes_with_the_backend_and_not_for_torch(tiny_bert: Path) -> None:
    tier = load_tier(str(tiny_bert), "tier", DATA)
    before = tier.fingerprint
    assert "backend" not in tier.describe()["view"]  # what was tested before there were backends is the same
    tier.view = View(path=str(tiny_bert), backend="auto")
    assert tier.fingerprint != before and tier.describe()["view"]["backend"] == "auto"


@pytest.mark.skipif(bool(missing_package("onnxruntime")), reason="onnxruntime or onnx is not installed")
def test_int8_is_asked_for_without_overflow(tiny_bert: Path) -> None:
    """A processor with VNNI computes alike either way, so that only the setting can be looked at."""
    tier = load_tier({"path": str(tiny_bert), "backend": "onnxruntime", "dtype": "int8"}, "tier", DATA)
    settings = tier.parts[0]._session.get_session_options()
    assert settings.get_session_config_entry("session.x64quantprecision") == "1"
    with in_torch(tier):
        expected = outputs(tier, UNITS, 3)
    moved = np.abs(outputs(tier, UNITS, 3) - expected).max()
    assert 0 < moved < 0.05


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_computes_a_tier_is_in_its_description(backend: str, tiny_bert: Path) -> None:
    tier = load_tier({"path": str(tiny_bert), "backend": backend}, "tier", DATA)
    assert tier.describe()["computed_by"] == f"{backend} float32"
    tier.compute_with(None)  # as where a model cannot be exported
    assert tier.describe()["computed_by"] == "torch"
    assert "computed_by" not in load_tier(str(tiny_bert), "tier", DATA).describe()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.skipif(bool(missing_package("openvino")), reason="openvino or onnx is not installed")
def test_what_auto_chose_for_a_cpu_stays_there(dtype: str, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Choice(Route("openvino", dtype), {}, {})
    monkeypatch.setattr(loading, "fastest_backend", lambda tier, dtype: chosen)
    tier = load_tier({"path": str(tiny_bert), "backend": "auto", "dtype": dtype}, "tier", DATA)
    assert tier.computed_by.startswith("openvino")
    tier.to("cpu").eval()
    assert tier.computed_by.startswith("openvino")
    StagedModel([tier]).to("meta")
    assert tier.computed_by == "torch" and tier.model.base_model.dtype == getattr(torch, dtype)


SIGNAL = """
import os, signal, sys, threading
import openvino.opset13 as ops, numpy, openvino
from dial.tiers.backends.graphs import OpenVinoGraph
given = ops.parameter([-1, 4], numpy.float32)
weights = ops.constant(numpy.ones((4, 4), numpy.float32))
openvino.save_model(openvino.Model([ops.matmul(given, weights, False, False)], [given]), sys.argv[1])
graphs = [OpenVinoGraph.__new__(OpenVinoGraph)]
graphs[0].file, graphs[0].dtype = sys.argv[1], "float32"
graphs[0]._compile(1)
dropped = threading.Thread(target=graphs.clear)
dropped.start()
dropped.join()
signal.signal(signal.SIGINT, lambda number, frame: print("arrived", number))
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.skipif(bool(missing_package("openvino")), reason="openvino is not installed")
def test_a_signal_after_a_graph_was_dropped_in_another_thread_arrives(tmp_path: Path) -> None:
    code = [sys.executable, "-c", SIGNAL, str(tmp_path / "graph.xml")]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "arrived 2\n"), done.stderr[-2000:]
