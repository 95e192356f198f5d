"""The plans of reading comprehension and dropped tokens: commands parse, and searches find what is asked of them."""

import numpy as np
import pytest
from transformers import BertConfig, BertForSequenceClassification

from dial.cli.lengths import LengthsCommand
from dial.cli.steps import Step
from dial.costs.dropping import LayerCosts
from dial.inference.length_search import Evolution
from dial.models import build_word_tokenizer
from dial.models.lengths import Lengths
from dial.tiers.tier import Tier, View
from scripts import results_lengths_plan, results_spans_plan
from scripts.results_lengths_plan import COLUMNS, LENGTH_DROP, LengthsCell
from scripts.results_spans_plan import SpanCell, plan
from scripts.results_steps import ROOT
from tests.scripts.test_text_results import parse

STEPS = [*plan("data", "models"), *(step for task in COLUMNS for step in LengthsCell(task).steps())]
LAYERS = 6


@pytest.mark.parametrize(
    "step",
    [step for step in STEPS if step.command[1] in ("fit", "test") and not step.name.startswith("mrpc")],
    ids=lambda step: step.name,
)
def test_commands_parse(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(StopIteration):
        parse(step.command, monkeypatch)


def test_searches_are_as_the_paper_has_them() -> None:
    searches = [LengthsCommand.parser().parse_args(step.command[2:]) for step in STEPS if step.command[1] == "lengths"]
    assert [(s.population, s.generations, s.rows) for s in searches] == [(20, 15, 200), (20, 15, 500), (20, 15, 500)]
    assert searches[0].tier == SpanCell("squad").tier("adaptive") and not searches[0].columns


def test_the_student_is_distilled_and_then_made_length_adaptive() -> None:
    fits = {step.name.rpartition("/")[2]: " ".join(step.command) for step in STEPS if step.name.startswith("squad")}
    folder = SpanCell("squad").folder
    assert "span_distil.yaml" in fits["student"]
    assert f"--model.teacher {{path: {folder}/super/tier, dtype: bfloat16}}" in fits["student"]
    assert "length_adaptive_span.yaml" in fits["adaptive"] and f"--model.path {folder}/student/tier" in fits["adaptive"]


def test_every_first_tier_is_kept_with_the_super_from_one_test() -> None:
    """Cheapest first, and named as the steps that keep them say."""
    steps = {step.name: step for step in STEPS if step.name.startswith("squad")}
    command = steps["squad/seed0/first-tiers"].command
    names = command[command.index("--model.names") + 1].strip("[]").split(", ")
    tiers = command[command.index("--model.tiers") + 1]
    places = [tiers.index(text) for text in ("lengths: 0.4", "lengths: 0.7", "student/tier", "super/tier")]
    assert tiers.count("dtype: bfloat16") == len(places)
    assert places == sorted(places) and names == ["lengths-04", "lengths-07", "student", "super"]
    for name in names[:-1]:
        store = steps[f"squad/seed0/cascade-{name}/table"].command[2:]
        assert store == (f"{command[-1]}", "--tiers", name, "super", "--name", f"cascade-{name}")


@pytest.fixture(scope="module")
def costs() -> LayerCosts:
    """Of an encoder of MiniLM-L6's shape."""
    sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": LAYERS}
    model = BertForSequenceClassification(BertConfig(vocab_size=100, **sizes)).eval()
    tier = Tier("model", View("random"), model, build_word_tokenizer(["a b"], 100, 512, True), 512, ["no", "yes"])
    tier.drop_tokens(Lengths((1.0,) * LAYERS))
    return LayerCosts(tier, tier.path(0))


@pytest.mark.parametrize(
    ("tokens", "shares"), [((8, 25, 60), results_lengths_plan.SHARES), ((100, 190, 256), results_spans_plan.SHARES)]
)
def test_the_first_generation_of_a_search_is_below_every_share(costs, tokens, shares) -> None:
    """So that every tier of the plan is found: the cheapest configuration is always on the front."""
    first = next(Evolution(LAYERS, 20, 0, length_drop=float(LENGTH_DROP)).run(lambda lengths: (0.0, 0.0), []))
    whole = costs(tokens, Lengths((1.0,) * LAYERS)).sum()
    least = min(costs(tokens, one.lengths).sum() for one in first) / whole
    assert least < min(map(float, shares))
    usual = next(Evolution(LAYERS, 20, 0).run(lambda lengths: (0.0, 0.0), []))
    assert min(costs(tokens, one.lengths).sum() for one in usual) / whole > min(map(float, shares))
    assert np.isfinite(least)
