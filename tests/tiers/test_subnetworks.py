"""Tiers that are a part of a model by width and depth: what is loaded, what it costs, answers, and what is refused."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dial.costs.counting import check_countable, tier_costs
from dial.inference.executor import Executor
from dial.inference.staged import StagedModel
from dial.models.slender.structures import attach_masks, masks, structures
from dial.models.slender.subnetworks import FIELD
from dial.tiers.backends.names import missing_package
from dial.tiers.loading import load_tier
from dial.tiers.subnetworks import check_whole
from dial.tiers.tier import View
from dial.tiers.tokens import Tokeniser
from dial.tradeoff.rules import rule_named
from tests.tiers.mpnet import write_mpnet
from tests.tiers.small import texts

NAMES = ["negative", "positive"]
TRAINED = {"widths": [0.25, 0.5, 1.0], "depths": [0.5, 1.0]}
UNITS = [unit for unit in texts(60) if unit]


def mark(folder: Path) -> Path:
    """Let a folder say that it was trained at several widths and depths; random weights are as good as any here."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    setattr(model.config, FIELD, TRAINED)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(make_tiny_bert) -> Path:
    return mark(make_tiny_bert(layers=4, seed=5, num_attention_heads=4))


@pytest.fixture(scope="module")
def folders(bert, tmp_path_factory) -> dict[str, Path]:
    return {"bert": bert, "mpnet": mark(write_mpnet(tmp_path_factory.mktemp("mpnet"), num_attention_heads=4))}


def part(folder: Path, **view) -> object:
    return load_tier({"path": str(folder), **view}, "part", NAMES)


@torch.no_grad()
def outputs(tier, units) -> np.ndarray:
    tokeniser = Tokeniser(tier)
    rows = tokeniser(units)
    return torch.cat([tier(tokeniser.collate(rows[i : i + 7])) for i in range(0, len(rows), 7)])[:, 0].numpy()


@torch.no_grad()
def by_hand(folder: Path, heads: int, neurons: int, layers: list[int]) -> np.ndarray:
    """Row by row, the stock model whose other heads and neurons are masked, and whose other layers are left out."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    attach_masks(model)
    for axis, mask in zip(structures(model), masks(model), strict=True):
        mask[heads if axis.kind == "heads" else neurons :] = 0
    encoder = model.base_model.encoder
    encoder.layer = torch.nn.ModuleList(encoder.layer[number] for number in layers)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    length = tokenizer.model_max_length
    rows = [tokenizer(unit, truncation=True, max_length=min(length, 32), return_tensors="pt") for unit in UNITS]
    return torch.cat([model(**row).logits for row in rows]).numpy()


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_a_spec_is_the_masked_full_model(folders, family: str) -> None:
    tier = part(folders[family], width=0.5, depth=0.5, max_length=32)
    wanted = by_hand(folders[family], 2, 16, [0, 2])
    np.testing.assert_allclose(outputs(tier, UNITS), wanted, atol=1e-5, rtol=1e-4)
    whole = part(folders[family], max_length=32)
    assert np.abs(outputs(whole, UNITS) - wanted).max() > 1e-2
    np.testing.assert_array_equal(
        outputs(part(folders[family], width=1.0, max_length=32), UNITS), outputs(whole, UNITS)
    )


@pytest.mark.parametrize(("width", "depth", "heads", "layers"), [(0.25, 1.0, 1, 4), (0.5, 0.5, 2, 2), (1.0, 0.5, 4, 2)])
def test_costs_are_those_of_the_smaller_matrices(bert, width: float, depth: float, heads: int, layers: int) -> None:
    tier = part(bert, width=width, depth=depth)
    hidden, size, neurons = 16, 4, round(32 * width)

    def macs(length: int) -> int:
        attention = 4 * length * hidden * heads * size + 2 * length**2 * heads * size
        return layers * (attention + 2 * length * hidden * neurons) + hidden * hidden + hidden * 2

    assert check_countable(tier, "model", 24) == macs(24)
    (cost,) = tier_costs(tier, [3, 9, 30]).values()
    assert [float(cost(np.array([length]))[0]) for length in (3, 9, 17, 30)] == [macs(n) for n in (3, 9, 17, 30)]
    assert tier.describe()["view"] == {**tier.describe()["view"], "width": width, "depth": depth}
    assert tier.describe()["parameters"] == sum(p.numel() for p in tier.model.parameters())


def test_a_part_may_drop_tokens_too(bert) -> None:
    view = {"width": 0.5, "depth": 0.5}
    plain, all_kept = part(bert, **view), part(bert, **view, lengths=[1.0, 1.0])
    np.testing.assert_allclose(outputs(all_kept, UNITS), outputs(plain, UNITS), atol=1e-5)
    fewer = part(bert, **view, lengths=[0.75, 0.5])
    macs = [check_countable(tier, "model", 24) for tier in (fewer, plain, part(bert))]
    assert macs == sorted(set(macs))
    assert np.abs(outputs(fewer, UNITS) - outputs(plain, UNITS)).max() > 1e-3


def test_one_folder_is_swift_and_super(bert) -> None:
    """The executor's answers are those of the two models run apart."""
    views = ({"width": 0.25, "depth": 0.5}, {})
    tiers = [load_tier({"path": str(bert), **view}, name, NAMES) for view, name in zip(views, "ab", strict=True)]
    assert tiers[0].fingerprint != tiers[1].fingerprint and tiers[0].encoding_key == tiers[1].encoding_key
    swift, whole = (outputs(tier, UNITS) for tier in tiers)
    scores = torch.from_numpy(swift).double().softmax(-1).amax(-1).numpy()
    threshold = float(np.median(scores)) + 1e-4
    rule = rule_named("threshold", "softmax", stages=("a", "b"), thresholds=(threshold,))
    answers = sorted(Executor(StagedModel(tiers), rule, batch_sizes=8).run(UNITS), key=lambda answer: answer.id)
    stays = scores >= threshold
    assert [answer.stage for answer in answers] == [0 if stay else 1 for stay in stays] and 10 < stays.sum() < len(
        stays
    ) - 10
    expected = np.where(stays, swift.argmax(-1), whole.argmax(-1))
    assert [answer.prediction for answer in answers] == expected.tolist()


@pytest.mark.parametrize("family", ["bert", "mpnet"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_backends_answer_alike(folders, family: str, backend: str) -> None:
    if missing_package(backend):
        pytest.skip(f"{backend} is not installed")
    view = {"width": 0.5, "depth": 0.5}
    plain, tier = part(folders[family], **view), part(folders[family], **view, backend=backend)
    assert tier.parts is not None
    np.testing.assert_allclose(outputs(tier, UNITS), outputs(plain, UNITS), atol=2e-5, rtol=1e-4)
    assert part(folders[family], backend=backend).parts is not None  # the full network has an export of its own
    np.testing.assert_allclose(
        outputs(part(folders[family], **view, backend=backend), UNITS), outputs(plain, UNITS), atol=2e-5
    )


def test_a_width_without_training_is_told(bert, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        part(bert, width=0.5, depth=0.5)
        assert not caplog.records
        tier = part(bert, width=0.75)
    (record,) = caplog.records
    assert "was trained at widths 0.25, 0.5, 1, not at 0.75" in record.getMessage()
    assert structures(tier.model)[0].count == 3


def test_bad_specs(bert, tiny_bert, tiny_t5) -> None:
    def refused(path: Path, **view) -> str:
        with pytest.raises(ValueError, match="`tiers\\[0\\]`") as caught:
            load_tier(View.parse({"path": str(path), **view}, "tiers[0]"), "a", NAMES, "tiers[0]")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    message = refused(tiny_bert, width=0.5)
    assert "`width` needs a model that was trained at several widths and depths" in message and "DynaBERT" in message
    assert "`depth` needs a model that was trained" in refused(tiny_bert, depth=0.5)
    assert "`width` must divide the 4 attention heads of a layer, but 0.6 of them are 2.4" in refused(bert, width=0.6)
    assert "`width` must be above 0 and at most 1, but got 1.5" in refused(bert, width=1.5)
    assert "`depth` must drop a layer" in refused(bert, depth=0.9)
    assert "`width` must be a number, or left out, but got 'half'" in refused(bert, width="half")
    assert "`depth` must be left out beside `layers`" in refused(bert, depth=0.5, layers=2)
    assert "`width` must be left out for an encoder-decoder, but got 0.5; take `layers`" in refused(tiny_t5, width=0.5)
    with pytest.raises(ValueError, match=r"`depth` must be left out for a tier of spans, but got 0\.5"):
        check_whole(View(path="x", depth=0.5), "a tier of spans", "tiers[0]")
