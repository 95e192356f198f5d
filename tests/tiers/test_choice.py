"""Choosing what computes a tier: agreement against counting, the choice against invented times, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dial.inference import routes as network_routes
from dial.inference.executor import Executor
from dial.inference.routes import take_fastest
from dial.inference.staged import StagedModel
from dial.tiers.backends import choice as choosing
from dial.tiers.backends import lowered
from dial.tiers.backends.agreement import Agreement, agreement, confidence_of_each, rows_needed
from dial.tiers.backends.choice import TORCH, Route, fastest, fastest_backend, take
from dial.tiers.backends.names import missing_package
from dial.tiers.loading import load_tier
from dial.tiers.text_loading import load_text_tier
from dial.tiers.tier import Tier, View
from dial.tiers.tokens import Tokeniser
from dial.tradeoff.rules import rule_named
from tests.tiers.readers import FREE, save_reader
from tests.tiers.tiny_tiers import DATA

Make = Callable[..., Path]
WORDS = "the a film plot cast is was not but good bad dull fine great poor".split()
random = np.random.default_rng(0)
TEXTS = [" ".join(random.choice(WORDS, random.integers(1, 12))) for _ in range(700)]


def probability_of_at_most(changed: int, rows: int, share: float) -> float:
    """That of `rows` draws at most `changed` change, where a share stays; by adding up."""
    from math import comb

    return sum(comb(rows, k) * (1 - share) ** k * share ** (rows - k) for k in range(changed + 1))


@pytest.mark.parametrize(("rows", "changed"), [(460, 0), (872, 1), (50, 7)])
def test_the_bound_is_the_share_at_which_so_few_changes_are_one_in_ten(rows: int, changed: int) -> None:
    bound = Agreement(rows, changed, 0.0).at_least
    assert probability_of_at_most(changed, rows, bound) == pytest.approx(0.1, rel=1e-6)


def test_bounds_at_the_ends() -> None:
    assert Agreement(5, 5, 0.0).at_least == 0
    needed = rows_needed(0.99)
    assert Agreement(needed, 0, 0.0).at_least >= 0.99 > Agreement(needed - 1, 0, 0.0).at_least


@pytest.mark.parametrize("tries", [1, 3, 6])
def test_tries_on_the_same_rows_pass_by_chance_once_in_ten_times_together(tries: int) -> None:
    """Routes that keep just less than the share, each of whose answers change by themselves."""
    share, rows = 0.99, 1500
    each = confidence_of_each(tries)
    changed = np.random.default_rng(1).binomial(rows, 1 - share + 1e-9, (20_000, tries))
    least = {int(k): Agreement(rows, int(k), 0.0, each).at_least for k in np.unique(changed)}
    passed = np.vectorize(least.__getitem__)(changed) >= share
    assert 0.02 < passed.any(axis=1).mean() < 0.105
    needed = rows_needed(share, tries)
    assert Agreement(needed, 0, 0.0, each).at_least >= share > Agreement(needed - 1, 0, 0.0, each).at_least


def test_no_route_whose_rows_depend_on_their_neighbours_is_taken_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "installed", lambda: ["openvino", "onnxruntime"])
    there = choosing.routes()
    assert Route("onnxruntime", "int8") not in there and Route("onnxruntime", "float32") in there


def test_agreement_counts_rows_by_all_their_exits() -> None:
    expected = random.normal(size=(40, 3, 2)).astype(np.float32)
    found = expected.copy()
    found[7, 1] = found[7, 1, ::-1]
    found[9] += 0.25
    seen = agreement(found, expected)
    largest = max(0.25, float(np.abs(found[7] - expected[7]).max()))
    assert (seen.rows, seen.changed) == (40, 1) and seen.epsilon == pytest.approx(largest, abs=1e-6)
    values = random.normal(size=(40, 1, 1))
    assert agreement(values + 0.02 * values.std(), values).changed == 40
    assert agreement(values + 0.005 * values.std(), values).changed == 0


@pytest.mark.parametrize("columns", [1, 3])
def test_an_output_that_is_not_finite_is_changed(columns: int) -> None:
    expected = random.normal(size=(40, 2, columns))
    found = expected + 1e-3
    found[[3, 8], 1, 0], found[11, 0, 0], found[20, 0, 0] = np.nan, np.inf, -np.inf
    seen = agreement(found, expected)
    assert (seen.rows, seen.changed) == (40, 4) and seen.epsilon == pytest.approx(1e-3)
    assert agreement(found * np.nan, expected).changed == agreement(found, expected * np.nan).changed == 40


class Invented:
    """A part that answers as the tier does in torch, or otherwise for a share of the rows."""

    def __init__(self, tier: Tier, name: str, wrong: bool) -> None:
        self.tier, self.name, self.wrong = tier, name, wrong

    def __call__(self, inputs: Any) -> torch.Tensor:
        logits = self.tier.model(**inputs).logits
        if self.wrong:
            some = inputs["input_ids"].sum(dim=1) % 20 == 0
            logits = torch.where(some[:, None], -logits, logits)
        return logits


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Route, tuple[float, bool]]]:
    """How fast routes are said to be, and whether they answer otherwise; a test fills it."""
    said: dict[Route, tuple[float, bool]] = {}

    def take_invented(tier: Tier, route: Route, cache_dir: Any = None) -> bool:
        parts = None if route == TORCH else [Invented(tier, str(route), said[route][1])]
        tier.compute_with(parts)
        return True

    def timed(tier: Tier, wanted: Sequence[Route], batches: Any, cache_dir: Any) -> Any:
        parts = {}
        for route in wanted:
            take_invented(tier, route)
            parts[route] = tier.parts
        tier.compute_with(None)
        return {route: said[route][0] if route in said else 1.0 for route in wanted}, parts

    for place in (choosing, network_routes):
        monkeypatch.setattr(place, "take", take_invented)
        monkeypatch.setattr(place, "routes", lambda: list(said))
    monkeypatch.setattr(choosing, "_timed", timed)
    return said


A, B, C = Route("openvino", "bfloat16"), Route("openvino", "float32"), Route("onnxruntime", "int8")


def test_the_fastest_that_answers_alike_is_taken_and_remembered(
    tiny_bert: Path, tmp_path: Path, invented: dict[Route, tuple[float, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    invented |= {A: (2.0, False), B: (1.5, False), C: (5.0, True)}
    tier = load_tier(str(tiny_bert), "tier", DATA).eval()
    rows = Tokeniser(tier)(TEXTS)
    found = fastest(tier, rows, cache_dir=tmp_path)
    expected = sum(sum(row.ids) % 20 == 0 for row in rows)
    assert found.route == A and tier.parts is None and B not in found.agreements
    assert found.agreements[C].changed == expected > 5 and found.agreements[A].changed == 0
    assert found.agreements[A].confidence == pytest.approx(1 - 0.1 / 3)  # three are faster than torch
    assert f"not onnxruntime int8: {expected} of 700 answers changed" in str(found)
    monkeypatch.setattr(choosing, "_timed", None)  # nothing is timed again
    again = fastest(tier, [], cache_dir=tmp_path)
    assert (again.route, again.faster, again.agreements) == (found.route, found.faster, found.agreements)
    assert again.cached and not found.cached


def test_torch_stays_where_nothing_is_clearly_faster_or_answers_alike(
    tiny_bert: Path, tmp_path: Path, invented: dict[Route, tuple[float, bool]]
) -> None:
    invented |= {B: (1.02, False), C: (5.0, True)}
    tier = load_tier(str(tiny_bert), "tier", DATA).eval()
    found = fastest(tier, Tokeniser(tier)(TEXTS), cache_dir=tmp_path)
    assert found.route == TORCH and "nothing that is faster answers alike" in str(found)
    few = fastest(tier, Tokeniser(tier)(TEXTS[:100]), batch_size=7, cache_dir=tmp_path)
    assert few.route == TORCH  # a hundred rows promise nothing
    invented[C] = (5.0, False)
    assert fastest(tier, Tokeniser(tier)(TEXTS), batch_size=8, cache_dir=tmp_path).route == C


def test_a_network_takes_what_its_tiers_found_and_says_so(
    make_tiny_bert: Make, tmp_path: Path, invented: dict[Route, tuple[float, bool]]
) -> None:
    invented |= {A: (2.0, False), C: (5.0, True)}
    tiers = [load_tier(str(make_tiny_bert(seed=seed)), name, DATA) for seed, name in ((1, "swift"), (2, "super"))]
    network = StagedModel(tiers).eval()
    rule = rule_named("threshold", "softmax", stages=("swift", "super"), thresholds=(0.7,))
    assert take_fastest(network, rule, lambda: TEXTS[:100], cache_dir=tmp_path) is None
    expected = [answer.prediction for answer in Executor(network, rule).run(TEXTS)]
    found = take_fastest(network, rule, lambda: TEXTS, cache_dir=tmp_path)
    assert found is not None and found.taken and found.answers.changed == 0
    assert [tier.computed_by for tier in tiers] == ["openvino bfloat16"] * 2
    assert [answer.prediction for answer in Executor(network, rule).run(TEXTS)] == expected
    assert found.lines()[0].startswith("swift is computed by openvino bfloat16: 2.00x as fast as torch float32")
    assert take_fastest(network, rule, lambda: TEXTS, cache_dir=tmp_path) is None  # they are taken already
    for tier in tiers:
        tier.compute_with(None)
    again = take_fastest(network, rule, list, cache_dir=tmp_path)
    assert again is not None and again.remembered and not found.remembered and again.rows == found.rows
    assert again.to_json() == found.to_json() | {"remembered": True} and tiers[0].computed_by == "openvino bfloat16"


def test_a_network_is_compared_again_where_a_tier_s_route_or_a_library_changed(
    make_tiny_bert: Make, tmp_path: Path, invented: dict[Route, tuple[float, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    invented |= {A: (2.0, False), B: (1.5, False)}
    tier = load_tier(str(make_tiny_bert(seed=6)), "super", DATA)
    network = StagedModel([tier]).eval()
    rule = rule_named("threshold", "softmax", stages=("super",), thresholds=())

    def remembered(texts: list[str]) -> bool:
        found = take_fastest(network, rule, lambda: texts, cache_dir=tmp_path)
        tier.compute_with(None)
        assert found is not None
        return found.remembered

    assert [remembered(TEXTS), remembered([])] == [False, True]
    for file in (tmp_path / "routes").glob("[!n]*.json"):
        file.unlink()  # of the tier; times differ now
    invented[B] = (3.0, False)
    fastest(tier, Tokeniser(tier)(TEXTS), cache_dir=tmp_path)
    assert [remembered(TEXTS), remembered([])] == [False, True]
    real = choosing.version
    monkeypatch.setattr(choosing, "version", lambda name: "9.9" if name == "transformers" else real(name))
    assert [remembered(TEXTS), remembered([])] == [False, True]


def test_outputs_are_compared_where_the_same_stage_answers(
    make_tiny_bert: Make, tmp_path: Path, invented: dict[Route, tuple[float, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    invented |= {A: (2.0, False)}
    monkeypatch.setattr(Invented, "__call__", lambda self, inputs: self.tier.model(**inputs).logits * 0.95)
    tiers = [load_tier(str(make_tiny_bert(seed=seed)), name, DATA) for seed, name in ((1, "swift"), (2, "super"))]
    network = StagedModel(tiers).eval()
    with torch.no_grad():
        tiers[1].model.classifier.bias += 5  # far from the other's outputs
    tokeniser = Tokeniser(tiers[0])
    with torch.inference_mode():
        scores = tiers[0](tokeniser.collate(tokeniser(TEXTS)))[:, 0].softmax(dim=1).amax(dim=1)
    rule = rule_named("threshold", "softmax", stages=("swift", "super"), thresholds=(float(scores.median()),))
    before = list(Executor(network, rule).run(TEXTS))
    found = take_fastest(network, rule, lambda: TEXTS, share=0.2, cache_dir=tmp_path)
    assert found is not None and found.taken
    pairs = list(zip(before, Executor(network, rule).run(TEXTS), strict=True))
    moved = [(a.stage == b.stage, float(np.abs(a.outputs - b.outputs).max())) for a, b in pairs]
    assert found.answers.epsilon == pytest.approx(max(by for same, by in moved if same), abs=1e-6)
    assert found.answers.epsilon < 1 < max(by for _, by in moved)  # some rows were answered by the other tier


def test_a_network_whose_answers_change_is_left_as_it_was_tested(
    make_tiny_bert: Make, tmp_path: Path, invented: dict[Route, tuple[float, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    invented |= {C: (5.0, True)}
    monkeypatch.setattr(
        choosing, "agreement", lambda found, expected, confidence: Agreement(len(found), 0, 0.0)
    )  # they seem alike
    tier = load_tier(str(make_tiny_bert(seed=4)), "super", DATA)
    rule = rule_named("threshold", "softmax", stages=("super",), thresholds=())
    found = take_fastest(StagedModel([tier]).eval(), rule, lambda: TEXTS, cache_dir=tmp_path)
    assert found is not None and not found.taken and found.answers.changed > 5 and tier.parts is None
    assert found.lines()[0].startswith("all tiers are computed as they were tested: together, ")
    assert found.to_json()["tiers"] == {"super": "torch float32"}


def test_torch_in_lower_precision_is_the_view_s(tiny_bert: Path) -> None:
    whole = load_tier(str(tiny_bert), "tier", DATA).eval()
    low = load_tier({"path": str(tiny_bert), "dtype": "bfloat16"}, "tier", DATA).eval()
    tokeniser = Tokeniser(whole)
    batch = tokeniser.collate(tokeniser(TEXTS[:9]))
    with torch.inference_mode():
        expected = whole(batch)
        assert take(whole, Route("torch", "bfloat16")) and whole.computed_by == "torch bfloat16"
        torch.testing.assert_close(whole(batch), low(batch))
        assert (whole(batch) - expected).abs().max() > 1e-4
        take(whole, TORCH)
        torch.testing.assert_close(whole(batch), expected)
    assert all(parameter.dtype == torch.float32 for parameter in whole.model.parameters())


@pytest.mark.usefixtures("said_anew")
def test_bf16_is_computed_in_float32_where_a_cpu_has_no_instructions_for_it(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = {"path": str(tiny_bert), "dtype": "bfloat16"}
    tiers = [load_tier(spec, name, DATA).eval() for name in ("swift", "super")]
    before = tiers[0].fingerprint
    monkeypatch.setattr(lowered, "has_bf16", lambda: True)
    lowered.replace_emulated(tiers, "cpu")
    monkeypatch.setattr(lowered, "has_bf16", lambda: False)
    lowered.replace_emulated(tiers, torch.device("cuda"))
    assert [tier.computed_by for tier in tiers] == ["torch", "torch"] and caplog.messages == []
    lowered.replace_emulated(tiers, "cpu")
    assert [tier.computed_by for tier in tiers] == ["torch float32"] * 2 and tiers[0].fingerprint == before
    assert caplog.messages == ["bfloat16 is computed in float32 here: this processor has no instructions for it."]
    whole = load_tier(str(tiny_bert), "whole", DATA).eval()
    with torch.no_grad():
        for parameter in whole.model.base_model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    tokeniser = Tokeniser(whole)
    batch = tokeniser.collate(tokeniser(TEXTS[:9]))
    with torch.inference_mode():
        torch.testing.assert_close(tiers[1](batch), whole(batch), atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("said_anew")
@pytest.mark.parametrize("kind", ["spans", "drops tokens", "writes", "teacher"])
def test_what_no_other_parts_compute_is_in_float32_itself(
    kind: str, tiny_bert: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"spans": save_reader(tmp_path / "reader"), "writes": tiny_t5}
    view: dict[str, Any] = {"path": str(folders.get(kind, tiny_bert)), "dtype": "bfloat16"}
    view |= {"lengths": [0.5] * 2} if kind == "drops tokens" else {}
    load, labels = (load_text_tier, FREE) if kind == "writes" else (load_tier, FREE if kind == "spans" else DATA)
    tier: Any = load(View.parse(view, "tier"), "tier", labels).eval()
    before, digest = {name: value.clone() for name, value in tier.model.state_dict().items()}, tier.fingerprint
    assert torch.bfloat16 in {value.dtype for value in before.values()}
    monkeypatch.setattr(lowered, "has_bf16", lambda: False)
    lowered.replace_emulated([tier], "cpu", in_place=kind == "teacher")
    assert tier.fingerprint == digest and tier.computed_by == "torch" and tier.describe()
    for name, value in tier.model.state_dict().items():
        assert value.dtype == torch.float32 or not value.is_floating_point()
        torch.testing.assert_close(value, before[name].to(value.dtype), atol=0, rtol=0)
    tokeniser = tier.tokeniser()
    unit = ("who won the town", "a king won the town in 1066 .") if kind == "spans" else TEXTS[0]
    with torch.inference_mode():
        assert torch.isfinite(tier.decide(tokeniser.collate(tokeniser([unit])))[0]).all()


def test_auto_does_without_exports_where_none_can_be_written(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any) -> bool:
        raise ValueError("`backend` openvino needs a folder for its export")

    tier = load_tier(str(tiny_bert), "tier", DATA).eval()
    monkeypatch.setattr(choosing, "attach", refused)
    monkeypatch.setattr(choosing, "routes", lambda: [B])
    found = fastest_backend(tier, "float32", tmp_path)
    assert found.route == TORCH and list(found.faster) == [TORCH] and tier.parts is None


def test_auto_takes_a_backend_of_this_machine_by_time(tiny_bert: Path, tmp_path: Path) -> None:
    tier = load_tier(str(tiny_bert), "tier", DATA)
    found = fastest_backend(tier, "float32", tmp_path)
    there = {"torch", *(name for name in ("openvino", "onnxruntime") if missing_package(name) is None)}
    assert {route.backend for route in found.faster} == there
    assert {route.dtype for route in found.faster} == {"float32"} and found.faster[TORCH] == 1
    best = max(found.faster, key=lambda route: found.faster[route])
    assert found.route == (best if found.faster[best] > 1.05 else TORCH)
    assert fastest_backend(tier, "float32", tmp_path).cached
    auto = load_tier({"path": str(tiny_bert), "backend": "auto"}, "tier", DATA).eval()
    tokeniser = Tokeniser(tier.eval())
    batch = tokeniser.collate(tokeniser(TEXTS[:9]))
    with torch.inference_mode():
        torch.testing.assert_close(auto(batch), tier(batch), atol=1e-5, rtol=1e-4)
