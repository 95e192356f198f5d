"""A pass in lower precision is compared with float32, and refused in int8 where too many answers change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dial.machine import has_bf16
from dial.tiers.backends.agreement import Agreement
from dial.tiers.backends.choice import Route, take
from dial.tiers.backends.comparison import Comparison, check_allowed
from dial.tiers.backends.names import missing_package
from dial.tiers.loading import load_tier
from dial.tiers.teacher import teacher_logits
from dial.tiers.tier import Tier
from dial.tiers.tokens import Tokeniser
from tests.tiers.tiny_tiers import DATA

TEXTS = [f"{a} {b} film" for a in ("the", "a", "so", "very") for b in ("good", "bad", "dull", "fine", "great", "poor")]


class Part:
    """Answers as the model in torch, with the sign of some rows' logits turned."""

    def __init__(self, tier: Tier, turned: set[int], dtype: str = "int8") -> None:
        self.tier, self.turned, self.name, self.seen = tier, turned, f"onnxruntime {dtype}", 0

    def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = self.tier.model(**inputs).logits
        signs = [[-1.0 if self.seen + i in self.turned else 1.0] for i in range(len(logits))]
        self.seen += len(logits)
        return logits * torch.tensor(signs)


@pytest.fixture
def tier(tiny_bert: Path) -> Tier:
    return load_tier(str(tiny_bert), "super", DATA).eval()


def passed(tier: Tier, said: list[str], rows: int, **settings: Any) -> None:
    tokeniser = Tokeniser(tier)
    comparison = Comparison(tier, said.append, rows=rows, **settings)
    encoded = tokeniser(TEXTS)
    with torch.inference_mode():
        for start in range(0, len(TEXTS), 4):
            batch = tokeniser.collate(encoded[start : start + 4])
            comparison.see(batch, tier(batch))
        comparison.finish()


def test_what_changes_in_the_first_rows_is_said_once(tier: Tier) -> None:
    said: list[str] = []
    tier.compute_with([Part(tier, {1, 6, 20}, "bfloat16")])
    passed(tier, said, rows=12)
    assert len(said) == 1 and said[0].startswith("super is computed by onnxruntime bfloat16: 2 of 12 answers changed")
    assert tier.computed_by == "onnxruntime bfloat16"  # it is computed so on
    said.clear()
    tier.compute_with([Part(tier, {1, 6, 20}, "bfloat16")])
    passed(tier, said, rows=1000)
    assert "3 of 24" in said[0]


def test_torch_and_float32_are_not_looked_at(tier: Tier) -> None:
    said: list[str] = []
    passed(tier, said, rows=12)
    tier.compute_with([Part(tier, {1}, "float32")])
    passed(tier, said, rows=12)
    assert said == []


def test_int8_that_changes_too_many_answers_is_refused_with_the_number(tier: Tier) -> None:
    tier.compute_with([Part(tier, {0, 5, 9})])
    with pytest.raises(ValueError, match=r"`dtype` of super must change no more than 0\.5%.*3 of 12 rows.*\(25\.0%\)"):
        passed(tier, [], rows=12)
    tier.compute_with([Part(tier, {0, 5, 9})])
    passed(tier, [], rows=12, share=0.5)
    check_allowed(Agreement(256, 1, 0.0), tier)  # one of so many may be chance
    with pytest.raises(ValueError, match="5 of 256"):
        check_allowed(Agreement(256, 5, 0.0), tier)


@pytest.mark.skipif(any(map(missing_package, ("openvino", "onnxruntime"))), reason="not both backends are installed")
def test_a_teacher_s_route_is_in_its_key(tier: Tier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokeniser = Tokeniser(tier)
    encodings = {tier.encoding_key: tokeniser.collate(tokeniser(TEXTS))}
    loader = [{"sample_id": torch.arange(len(TEXTS)), "encodings": encodings}]
    rows = np.arange(len(TEXTS))
    _, whole = teacher_logits(tier, loader, rows, "r", tmp_path)
    low_route = Route("openvino", "bfloat16") if has_bf16() else Route("onnxruntime", "int8")
    assert take(tier, low_route, tmp_path)
    _, low = teacher_logits(tier, loader, rows, "r", tmp_path)
    assert f"of {len(TEXTS)} answers changed" in capsys.readouterr().out
    assert 0 < np.abs(low - whole).max() < 0.1
    assert len(list(tmp_path.glob("teacher-*"))) == 2
