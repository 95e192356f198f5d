"""Costs of generated answers against torch's counter over whole generations and against closed forms of T5."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

from dial.costs.counting import RowCosts, check_countable, network_costs
from dial.costs.encoder_decoder import fit_writing
from dial.costs.functions import CostFunction, ModelCosts, RowWork
from dial.costs.macs import count_macs, count_steps
from dial.models.encoder_decoder import ReadingPath, WritingPath
from dial.models.energy_head import HeadConfig, build_head
from dial.tiers.contract import TierContract
from dial.tiers.loading import load_tier
from tests.costs.counted import fused

SIZES = {"vocab_size": 50, "d_model": 16, "d_kv": 6, "d_ff": 20, "num_layers": 2, "num_heads": 3}
GRID = [(3, 1), (9, 2), (9, 7), (30, 1), (30, 12)]


class Writer(TierContract):
    """An encoder-decoder with what the costs ask of a tier."""

    writes = True

    def __init__(self, model: Any, name: str = "writer", head: nn.Module | None = None, beams: int = 1) -> None:
        super().__init__()
        self.name, self.model, self.head, self.beams = name, model.eval(), head, beams
        self.tokenizer, self.max_length, self.answers_later = None, 512, head is not None

    def example(self, length: int) -> dict[str, Tensor]:
        return {"input_ids": torch.full((1, length), 5), "attention_mask": torch.ones(1, length, dtype=torch.long)}

    def path(self, exit_index: int) -> nn.Module:
        return ReadingPath(self.model, self.head)

    def writing_path(self, pieces: int) -> WritingPath:
        return WritingPath(self.model, pieces, self.beams)


def t5(gated: bool = False, layers: int = 2, decoder_layers: int = 1, **settings: Any) -> T5ForConditionalGeneration:
    config = T5Config(
        **{**SIZES, "num_layers": layers, "num_decoder_layers": decoder_layers, **settings},
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()


def closed_form(config: Any, n: int, t: int, beams: int = 1) -> tuple[int, int]:
    """MACs of reading n tokens and of writing t pieces, from the sizes of a T5."""
    d, inner, ff = config.d_model, config.num_heads * config.d_kv, config.d_ff
    feed = (3 if config.feed_forward_proj.startswith("gated") else 2) * d * ff
    read = config.num_layers * (n * (4 * d * inner + feed) + 2 * n * n * inner)
    written = config.num_decoder_layers * n * 2 * d * inner  # keys and values of the source, once
    for step in range(1, t + 1):
        own = 4 * d * inner + 2 * step * inner  # projections; queries with keys and weights with values so far
        cross = 2 * d * inner + 2 * n * inner
        written += config.num_decoder_layers * (own + cross + feed) + d * config.vocab_size
    return read, written * beams


Cascade = tuple[Writer, Writer, ModelCosts]


def costs_of(tier: Writer, lengths: list[int]) -> ModelCosts:
    return network_costs([tier], {tier.name: np.array(lengths)})


@pytest.mark.parametrize(("gated", "beams"), [(False, 1), (True, 1), (True, 4)], ids=["v1.0", "v1.1", "v1.1-beams"])
def test_costs_of_t5_are_its_closed_form(gated: bool, beams: int) -> None:
    model = t5(gated)
    costs = costs_of(Writer(model, beams=beams), [3, 30])
    n, t = (np.array(column) for column in zip(*GRID, strict=True))
    expected = [closed_form(model.config, *each, beams) for each in GRID]
    function = costs.function("writer", 0)
    assert function.reading(n).tolist() == [read for read, _ in expected]
    assert function(n, t).tolist() == [read + written for read, written in expected]
    assert costs.decide == {}  # without a head nothing is decided before all is written


def generated_macs(model: Any, n: int, t: int, beams: int) -> float:
    """A whole generation of t pieces under torch's counter, by transformers' own loop."""
    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused}
    ids = torch.full((1, n), 5)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=beams,
            min_new_tokens=t,
            max_new_tokens=t,
            do_sample=False,
        )
    assert written.shape == (1, t + 1)
    return counter.get_total_flops() / 2


def bart(**settings: Any) -> Any:
    sizes = {"vocab_size": 50, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 24, "max_position_embeddings": 64}
    torch.manual_seed(0)
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": None}
    return BartForConditionalGeneration(BartConfig(**sizes, **special, **settings))


def marian() -> Any:
    sizes = {"vocab_size": 50, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 24, "max_position_embeddings": 64}
    config = MarianConfig(**sizes, pad_token_id=49, eos_token_id=0, decoder_start_token_id=49, forced_eos_token_id=None)
    return MarianMTModel(config)


@pytest.mark.parametrize(
    ("build", "beams"),
    [
        (t5, 1),
        (t5, 4),
        (lambda: t5(gated=True), 1),
        (lambda: t5(attn_implementation="eager"), 1),
        (bart, 4),
        (marian, 1),
    ],
    ids=["t5", "t5-beams", "t5-gated", "t5-eager", "bart-beams", "marian"],
)
def test_costs_equal_torch_s_counter_over_a_whole_generation(build: Any, beams: int) -> None:
    model = build().eval()
    function = costs_of(Writer(model, beams=beams), [5, 40]).function("writer", 0)
    for n, t in ((5, 1), (40, 3), (17, 11)):
        assert float(function([n], [t])[0]) == pytest.approx(generated_macs(model, n, t, beams), rel=1e-3)


HEADS = {
    "classes": (HeadConfig("classes", 16, 3), lambda n: 16 * 3),
    "vocabulary": (HeadConfig("vocabulary", 16, 50), lambda n: n * 16 * 50),
    "bottleneck": (HeadConfig("vocabulary", 16, 50, bottleneck=4), lambda n: n * (16 * 4 + 4 * 50)),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_charged_what_it_multiplies_and_decides_before_anything_is_written(kind: str) -> None:
    config, own = HEADS[kind]
    model = t5()
    costs = costs_of(Writer(model, head=build_head(config)), [3, 30])
    decide, answer = costs.function("writer", 0, "decide"), costs.function("writer", 0)
    for n, t in GRID:
        read, written = closed_form(model.config, n, t)
        assert float(decide([n])[0]) == read + own(n)
        assert float(answer([n], [t])[0]) == read + own(n) + written


@pytest.fixture(scope="module")
def cascade() -> tuple[Writer, Writer, ModelCosts]:
    swift = Writer(t5(layers=1, decoder_layers=1), "swift", build_head(HEADS["classes"][0]))
    large = Writer(t5(gated=True), "super")
    lengths = {"swift": np.array([4, 9, 12]), "super": np.array([5, 10, 12])}
    return swift, large, network_costs([swift, large], lengths)


def test_equation_16_charges_the_swift_s_decoder_where_the_swift_answers_only(
    cascade: Cascade,
) -> None:
    swift, large, costs = cascade
    stages = [SimpleNamespace(tier=name, index=0) for name in ("swift", "super")]
    lengths = {"swift": np.array([4, 9]), "super": np.array([5, 10])}
    generated = {"swift": np.array([2, 6]), "super": np.array([3, 5])}
    table = costs.columns(stages, lengths, {}, generated=generated)
    for row in range(2):
        read, written = closed_form(swift.model.config, int(lengths["swift"][row]), int(generated["swift"][row]))
        head = 16 * 3
        alone = sum(closed_form(large.model.config, int(lengths["super"][row]), int(generated["super"][row])))
        assert table["decide_macs"][row].tolist() == [read + head, read + head + alone]
        assert table["macs"][row].tolist() == [read + head + written, read + head + alone]
        assert table["macs_reference"][row] == alone
    with pytest.raises(ValueError, match="generated must tell the pieces that were written"):
        costs.columns(stages, lengths, {})


def test_single_rows_are_charged_their_own_pieces(cascade: Cascade) -> None:
    swift, large, costs = cascade
    rows = RowCosts([swift, large], costs, pieces={"super": 4.0})
    work = RowWork(np.array([4, 9]), generated=np.array([2, 6]))
    expected = [sum(closed_form(swift.model.config, n, t)) + 48 for n, t in ((4, 2), (9, 6))]
    assert rows.answer(0, np.zeros(2, dtype=int), work).tolist() == expected
    passing = rows.passing(0, RowWork(np.array([4]), generated=np.array([0])))
    assert passing.tolist() == [closed_form(swift.model.config, 4, 1)[0] + 48]
    reference = [sum(closed_form(large.model.config, n, 4)) for n in (4, 9)]  # as many pieces as it writes on average
    assert rows.alone(work).tolist() == reference
    own = [sum(closed_form(large.model.config, n, t)) for n, t in ((4, 2), (9, 6))]
    assert rows.alone(work, tier=1).tolist() == own
    with pytest.raises(ValueError, match="generated must tell"):
        RowCosts([swift, large], costs).alone(work)


def test_rows_of_which_nothing_is_written_pay_for_reading_only(
    cascade: Cascade,
) -> None:
    cost = CostFunction(coefficients=(1.0, 2.0, 0.0), writing=(5.0, 1.0, 10.0, 0.0, 0.0))
    assert cost([3, 3, 0], [0, 1, 1]).tolist() == [7, 7 + 5 + 3 + 10, 3 + 5 + 1 + 10]
    assert cost.by_length(4).tolist() == [3, 3, 5, 7]
    for known in (cost, CostFunction(counts={3: 7}, writing=cost.writing)):
        assert CostFunction.from_json(known.to_json()) == known


def test_what_is_no_such_polynomial_is_refused() -> None:
    def steps(cost: Callable[[int, int], int]) -> Callable[[int, int], list[int]]:
        return lambda n, t: [cost(n, step) for step in range(1, t + 1)]

    with pytest.raises(ValueError, match="take a model whose decoder attends to all tokens and keeps its keys"):
        fit_writing(steps(lambda n, step: 7 * n * step), 64)  # every step reads the source with all pieces so far
    with pytest.raises(ValueError, match="take a model whose decoder attends"):
        fit_writing(steps(lambda n, step: min(n, 20)), 64)


def test_steps_add_up_to_the_whole_and_the_first_prepares_the_source(cascade: Cascade) -> None:
    path = cascade[0].writing_path(3)
    first, second, third = count_steps(path, path.example(9))
    assert first + second + third == count_macs(path, path.example(9))
    one, two = (cascade[0].writing_path(pieces) for pieces in (1, 2))
    assert first == count_macs(one, one.example(9))
    assert second == count_macs(two, two.example(9)) - first
    assert first > third > second  # one more piece to attend to


def test_e_lang_s_printed_costs_are_not_of_one_convention() -> None:
    """All products of T5-11B are at most 16 times those of T5-large, at any lengths; the printed ratio is 20.5."""
    shapes = {
        "large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_heads": 16},
        "11b": {"d_model": 1024, "d_kv": 128, "d_ff": 65536, "num_heads": 128},
    }
    with torch.device("meta"):
        models = {
            name: t5(layers=1, decoder_layers=1, **{**shape, "vocab_size": 32128}) for name, shape in shapes.items()
        }
    large, largest = (costs_of(Writer(models[name]), [8, 512]).function("writer", 0) for name in ("large", "11b"))
    assert largest.coefficients is not None and large.coefficients is not None
    for one, other in zip(
        [*large.coefficients, *large.writing], [*largest.coefficients, *largest.writing], strict=True
    ):
        assert 0 <= other <= 16 * one
    from dial.costs.published import T5_AS_PRINTED

    assert T5_AS_PRINTED["t5-11b"] / T5_AS_PRINTED["t5-large"] > 20


def test_a_card_states_what_is_read_and_the_first_piece() -> None:
    model = t5()
    assert check_countable(Writer(model), "model", 9) == sum(closed_form(model.config, 9, 1))


@pytest.mark.parametrize("beams", [1, 3])
def test_what_a_tier_executes_for_rows_that_stop_at_different_lengths_is_what_they_are_charged(
    make_tiny_t5: Any, beams: int
) -> None:
    """Six rows under torch's counter: fewer than eight leave the batch as soon as they are finished."""
    folder = make_tiny_t5(seed=3, tie_word_embeddings=False, feed_forward_proj="gated-gelu", initializer_factor=4.0)
    tier: Any = load_tier({"path": str(folder), "beams": beams, "max_new_tokens": 12}, "writer", ["*"])
    with torch.no_grad():
        tier.model.lm_head.weight[tier.tokenizer.eos_token_id] *= 3  # some rows end early
    ids = torch.randint(3, 60, (6, 9), generator=torch.Generator().manual_seed(1))
    encoding = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused}
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        written = tier.write(encoding, torch.arange(6), tier.run(encoding, lambda *_: None))
    assert len(set(written.generated.tolist())) > 1, written.generated
    function = network_costs([tier], {"writer": np.array([9, 30])}).function("writer", 0)
    charged = function(np.full(6, 9), written.generated.numpy()).sum()
    assert counter.get_total_flops() / 2 == pytest.approx(charged, rel=1e-3)
