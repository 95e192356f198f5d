"""Multi-exit tiers: the staged contract, labels, costs of each exit, and a cascade with a sweep on top."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dial.costs.counting import network_costs
from dial.costs.macs import count_macs
from dial.inference.staged import StagedModel, take_rows
from dial.models import MultiExitConfig, MultiExitForSequenceClassification
from dial.report.report import build_report
from dial.report.settings import SweepSettings
from dial.stages import scores as routing
from dial.stages.table import StageTable
from dial.tiers.loading import build_tier, load_tier, save_tier
from dial.tiers.multi_exit import MultiExitTier
from dial.tradeoff.events import replay
from dial.tradeoff.rules import curve
from tests.tradeoff.choosing import thresholds_at

DATA = ["negative", "positive"]
SWAPPED = ("Positive", "Negative")
WIDTH, FEED_FORWARD, LAYERS = 16, 32, 4
MakeBert = Callable[..., Path]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make_folder(make_tiny_bert: MakeBert, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Function that saves a random multi-exit BERT of four layers and gives its folder."""

    def make(
        exits: list[int] | None = None, labels: tuple[str, ...] = tuple(DATA), seed: int = 1, **settings: Any
    ) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            bert = str(make_tiny_bert(layers=LAYERS, seed=seed))
            source = MultiExitForSequenceClassification.from_encoder(bert, [4]).config
            config = MultiExitConfig(
                encoder=source.encoder,
                exits=exits or [1, 2, 4],
                id2label=dict(enumerate(labels)),
                label2id={name: i for i, name in enumerate(labels)},
                **settings,
            )
            made = MultiExitForSequenceClassification(config)
        folder = tmp_path_factory.mktemp("multi-exit")
        made.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def folder(make_folder: Make) -> Path:
    return make_folder()


def texts(count: int) -> list[str]:
    random = np.random.default_rng(3)
    words = "a film plot cast good bad dull fine great poor very not".split()
    return [" ".join(random.choice(words, size=random.integers(1, 12))) for _ in range(count)]


def encode(tier: Any, count: int = 12) -> dict[str, Tensor]:
    return dict(tier.tokenizer(texts(count), padding=True, return_tensors="pt"))


def by_plan(plan: list[int], seen: list[tuple[int, list[int]]]) -> Callable[[int, Tensor, Tensor], Tensor]:
    def go_on(stage: int, rows: Tensor, outputs: Tensor) -> Tensor:
        seen.append((stage, rows.tolist()))
        return torch.tensor([plan[row] > stage for row in rows.tolist()], dtype=torch.bool)

    return go_on


# ---- the tier ----


@torch.no_grad()
def test_a_folder_is_a_tier_of_its_exits(folder: Path) -> None:
    tier = load_tier(str(folder), "ta", DATA, "tiers[0]")
    assert isinstance(tier, MultiExitTier) and not tier.model.training
    assert tier.exits == ["layer1", "layer2", "layer4"]
    assert tier.stage_names == ["ta.layer1", "ta.layer2", "ta.layer4"]
    encoding = encode(tier)
    model = MultiExitForSequenceClassification.from_pretrained(folder).eval()
    logits = tier(encoding)
    assert logits.shape == (12, 3, 2) and logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(**encoding).logits)
    output = tier.outputs(encoding, hidden_states=True)
    torch.testing.assert_close(output.logits, logits)
    assert len(output.hidden_states) == LAYERS + 1 and tier.outputs(encoding).hidden_states is None


@torch.no_grad()
def test_outputs_are_in_the_datas_order_of_labels(make_folder: Make) -> None:
    folder = make_folder(labels=SWAPPED)
    tier = load_tier(str(folder), "ta", DATA)
    encoding = encode(tier)
    expected = MultiExitForSequenceClassification.from_pretrained(folder).eval()(**encoding).logits.flip(-1)
    torch.testing.assert_close(tier(encoding), expected)
    seen: dict[int, Tensor] = {}

    def go_on(index: int, rows: Tensor, outputs: Tensor) -> Tensor:
        seen[index] = outputs
        return torch.ones(len(rows), dtype=torch.bool)

    tier.run(encoding, go_on)
    for index in range(3):
        torch.testing.assert_close(seen[index], expected[:, index])


@torch.no_grad()
def test_outputs_are_float32_whatever_the_encoder_computes_in(folder: Path) -> None:
    exact = load_tier(str(folder), "ta", DATA)
    encoding = encode(exact)
    half = load_tier({"path": str(folder), "dtype": "bfloat16"}, "ta", DATA)
    assert half.model.layers[0].output.dense.weight.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = exact(encoding)
    for logits in (under, half(encoding)):
        assert logits.dtype == torch.float32
        assert not torch.equal(logits, logits.bfloat16().float())
        torch.testing.assert_close(logits, exact(encoding), atol=0.1, rtol=0.1)


@torch.no_grad()
def test_a_view_cuts_at_an_exit(folder: Path) -> None:
    whole = load_tier(str(folder), "ta", DATA)
    tier = load_tier({"path": str(folder), "layers": 2}, "ta", DATA)
    assert tier.exits == ["layer1", "layer2"] and len(tier.model.layers) == 2
    torch.testing.assert_close(tier(encode(tier)), whole(encode(whole))[:, :2])
    with pytest.raises(ValueError, match=r"`layers` of a multi-exit model must be one of its exits 1, 2, 4, but got 3"):
        load_tier({"path": str(folder), "layers": 3}, "ta", DATA)
    with pytest.raises(ValueError, match=r"`tiers\[0\]`: `layers` must be from 1 to 4, but got 5"):
        load_tier({"path": str(folder), "layers": 5}, "ta", DATA, "tiers[0]")


@torch.no_grad()
def test_a_single_exit_and_regression(make_folder: Make) -> None:
    folder = make_folder(exits=[4], labels=("score",))
    tier = load_tier(str(folder), "ta", [])
    assert tier.stage_names == ["ta"] and tier(encode(tier)).shape == (12, 1, 1)


@torch.no_grad()
def test_it_is_saved_and_comes_back(make_folder: Make, tmp_path: Path) -> None:
    source = make_folder(heads=[1, 2, 1, 1], intermediate=[3, 32, 8, 9], embedding_rank=5, pooler=True)
    tier = load_tier(str(source), "ta", DATA)
    folder = save_tier(tmp_path / "saved", tier, {"task": "x"})
    again = load_tier(str(folder), "ta", DATA)
    assert torch.equal(again(encode(again)), tier(encode(tier)))
    assert again.fingerprint == tier.fingerprint and again.card == {"task": "x"}


@torch.no_grad()
def test_it_is_built_from_a_configuration(tiny_bert: Path) -> None:
    encoder = {"model_type": "bert", "hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2}
    encoder |= {"intermediate_size": FEED_FORWARD, "max_position_embeddings": 32}
    config = {"model_type": "multi_exit", "encoder": encoder, "exits": [2, 3]}
    tier = build_tier(config, str(tiny_bert), DATA, name="scratch")
    assert isinstance(tier, MultiExitTier) and tier.exits == ["layer2", "layer3"] and tier.max_length == 32
    assert tier.model.get_input_embeddings().num_embeddings == len(tier.tokenizer)
    assert tier.eval()(encode(tier)).shape == (12, 2, 2)
    with pytest.raises(ValueError, match="`exits` must end with the last layer 3"):
        build_tier({**config, "exits": [2]}, str(tiny_bert), DATA)


def test_an_exit_that_is_missing_is_trained_or_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    del weights["heads.1.linear.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must be a trained classifier, but .* has no heads\.1\.linear\.weight"):
        load_tier(str(broken), "ta", DATA)
    assert load_tier(str(broken), "ta", DATA, train=True).training


# ---- costs ----


def by_hand(length: int, layers: int, exits: int, heads: list[int], inner: list[int], rank: int | None) -> int:
    """MACs of one text, layer by layer; a head is 8 wide."""
    total = 0 if rank is None else length * rank * WIDTH
    for layer in range(layers):
        total += 4 * length * WIDTH * 8 * heads[layer] + 2 * length * length * 8 * heads[layer]
        total += 2 * length * WIDTH * inner[layer]
    return total + exits * WIDTH * 2


@pytest.mark.parametrize("slender", [False, True])
def test_costs_of_each_exit(make_folder: Make, slender: bool) -> None:
    shapes: dict[str, Any] = {"heads": [1, 2, 1, 1], "intermediate": [3, 32, 8, 9], "embedding_rank": 5}
    tier = load_tier(str(make_folder(**(shapes if slender else {}))), "ta", DATA)
    lengths = np.array([5, 9])
    costs = network_costs([tier], {"ta": np.asarray(lengths)})
    macs = costs.stage_macs(StagedModel([tier]).stages, {"ta": lengths})[1]
    heads, inner = ([1, 2, 1, 1], [3, 32, 8, 9]) if slender else ([2] * 4, [FEED_FORWARD] * 4)
    rank = 5 if slender else None
    for row, length in enumerate(lengths):
        for index, layer in enumerate([1, 2, 4]):
            assert macs[row, index] == by_hand(length, layer, index + 1, heads, inner, rank)
    reference = count_macs(tier.reference_path(), tier.example(7))
    assert reference == by_hand(7, 4, 1, [2] * 4, [FEED_FORWARD] * 4, None)


@torch.no_grad()
def test_a_path_answers_as_the_tier_and_is_bounded(folder: Path) -> None:
    tier = load_tier(str(folder), "ta", DATA)
    encoding = encode(tier)
    for index in range(3):
        torch.testing.assert_close(tier.path(index)(**encoding), tier(encoding)[:, index])
    with pytest.raises(ValueError, match="`exit_index` must be below 3, but got 3"):
        tier.path(3)


# ---- a cascade, and a sweep over it ----


@pytest.fixture
def cascade(make_folder: Make, make_tiny_bert: MakeBert) -> StagedModel:
    first = load_tier({"path": str(make_folder(labels=SWAPPED)), "max_length": 16}, "slender", DATA)
    return StagedModel([first, load_tier(str(make_tiny_bert(layers=3, seed=5)), "super", DATA)]).eval()


def encode_all(model: StagedModel, count: int) -> dict[str, dict[str, Tensor]]:
    return {tier.encoding_key: encode(tier, count) for tier in model.tiers}


@torch.no_grad()
def test_a_cascade_runs_as_it_replays(cascade: StagedModel) -> None:
    assert [stage.name for stage in cascade.stages] == ["slender.layer1", "slender.layer2", "slender.layer4", "super"]
    encodings = encode_all(cascade, 12)
    everything = cascade(encodings)
    assert everything.shape == (12, 4, 2)
    plan = [0, 3, 1, 2, 3, 1, 0, 2, 3, 0, 0, 3]
    seen: list[tuple[int, list[int]]] = []
    widths: list[tuple[int, ...]] = []
    cascade.tiers[1].model.register_forward_pre_hook(
        lambda _m, _a, inputs: widths.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    outputs, stage = cascade.run(encodings, by_plan(plan, seen))
    assert stage.tolist() == plan
    torch.testing.assert_close(outputs, everything[torch.arange(12), plan], atol=1e-5, rtol=1e-5)
    assert seen == [(s, [row for row in range(12) if plan[row] >= s]) for s in range(3)]
    last = take_rows(encodings[cascade.tiers[1].encoding_key], torch.tensor([1, 4, 8, 11]))["input_ids"]
    assert widths == [tuple(last.shape)]


@torch.no_grad()
def test_a_sweep_over_all_exits_and_tiers(cascade: StagedModel) -> None:
    count = 80
    encodings = encode_all(cascade, count)
    logits = cascade(encodings).numpy()
    lengths = {tier.name: encodings[tier.encoding_key]["attention_mask"].sum(dim=1).numpy() for tier in cascade.tiers}
    charged = {name: np.full(count, 16) for name in lengths}  # one length, as counting takes its time
    costs = network_costs(cascade.tiers, charged)
    decide, macs = costs.stage_macs(cascade.stages, charged)
    label = np.where(np.random.default_rng(0).random(count) < 0.8, logits[:, -1].argmax(-1), 1)
    table = StageTable(
        split=np.repeat(["calibration", "test"], count // 2),
        sample_id=np.arange(count),
        label=label,
        stages=cascade.stages,
        predictions=logits.argmax(axis=-1),
        decide_macs=decide,
        macs=macs,
        macs_reference=costs.alone("super", charged["super"]),
        outputs=logits,
        lengths=lengths,
        metrics=("accuracy",),
        label_names=tuple(DATA),
        settings={"seed": 0},
    ).with_scores(["entropy"], seed=0)
    test = table.of_split("test")
    swept = curve(test, "entropy")
    assert len(swept) > 30 and swept.shares[0].tolist() == [1, 0, 0, 0] and swept.shares[-1].tolist() == [0, 0, 0, 1]
    own = {key: {k: v[count // 2 :] for k, v in encoding.items()} for key, encoding in encodings.items()}
    for point in (0, len(swept) // 3, 2 * len(swept) // 3, len(swept) - 1):
        thresholds = thresholds_at(swept, point)

        def go_on(stage: int, rows: Tensor, outputs: Tensor, limits: Any = thresholds) -> Tensor:
            return routing.compute("entropy", outputs) < limits[stage]

        outputs, stage = cascade.run(own, go_on)
        expected = replay(test.scores["entropy"], thresholds)
        assert stage.tolist() == expected.tolist()
        rows = np.arange(len(stage))
        np.testing.assert_allclose(outputs.numpy(), test.outputs[rows, expected], atol=1e-5)
        assert test.macs[rows, expected].mean() == pytest.approx(swept.macs[point])
        assert (outputs.argmax(-1).numpy() == test.label).mean() == pytest.approx(swept.quality["accuracy"][point])
    assert "slender.layer2" in build_report(table, SweepSettings(bootstrap=100), costs=costs).text()
