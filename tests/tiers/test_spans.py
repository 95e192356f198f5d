"""Tiers that answer by spans: what they are loaded from, what they refuse, what they answer, and what that costs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    MPNetConfig,
    MPNetForQuestionAnswering,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from datamodules.windows import OUTSIDE
from dial.costs.counting import RowCosts, network_costs, padded_lengths
from dial.costs.functions import CostFunction, ModelCosts, RowWork
from dial.costs.macs import count_macs
from dial.models.lengths import Lengths
from dial.tiers.loading import load_tier, save_tier
from dial.tiers.spans import SpanTier
from tests.tiers.readers import FREE, SPECIAL, STRIDE, WINDOW, WORDS, questions, reader, save_reader, tokenizer

UNITS = questions(24, seed=2)
SMALL = {"vocab_size": len(SPECIAL) + len(WORDS) + 2, "max_position_embeddings": 64, "initializer_range": 0.5}
LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
KINDS: dict[str, Any] = {
    "roberta": lambda: RobertaForQuestionAnswering(RobertaConfig(**SMALL, **LAYERS, pad_token_id=0)),
    "mpnet": lambda: MPNetForQuestionAnswering(MPNetConfig(**SMALL, **LAYERS, pad_token_id=0)),
    "distilbert": lambda: DistilBertForQuestionAnswering(DistilBertConfig(**SMALL, **DISTIL, pad_token_id=0)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_reader(tmp_path_factory.mktemp("reader"), layers=2)


def encoded(tier: SpanTier, units: list[Any]) -> dict[str, torch.Tensor]:
    tokeniser = tier.tokeniser()
    return tokeniser.collate(tokeniser(units))


def written(tier: SpanTier, units: list[Any]):
    with torch.no_grad():
        return tier.write(encoded(tier, units), torch.arange(len(units)))


def best_by_hand(tier: SpanTier, question: str, context: str) -> str:
    """The text that transformers' own encoding, the model, and a loop over pairs of tokens give."""
    windows = tier.tokenizer(
        question, context, truncation="only_second", max_length=tier.max_length, stride=tier.stride,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors=None,
    )  # fmt: skip
    best: tuple[float, str] = (-np.inf, "")
    for index, ids in enumerate(windows["input_ids"]):
        given = {"input_ids": torch.tensor([ids])}
        if "token_type_ids" in windows:
            given["token_type_ids"] = torch.tensor([windows["token_type_ids"][index]])
        with torch.no_grad():
            outputs = tier.model(**given)
        places = windows["offset_mapping"][index]
        inside = [t for t, of in enumerate(windows.sequence_ids(index)) if of == 1]
        for i, j in itertools.product(inside, inside):
            if i <= j < i + tier.max_answer_tokens:
                value = float(outputs.start_logits[0, i] + outputs.end_logits[0, j])
                best = max(best, (value, context[places[i][0] : places[j][1]].strip()))
    return best[1]


def test_answers_are_the_best_spans_of_all_windows(folder: Path) -> None:
    tier: Any = load_tier({"path": str(folder), "stride": STRIDE, "max_answer_tokens": 5}, "x", FREE)
    found = written(tier, UNITS)
    assert found.texts == [best_by_hand(tier, *unit) for unit in UNITS]
    assert [unit[1][s:e] for unit, (s, e) in zip(UNITS, found.spans.tolist(), strict=True)] == found.texts
    assert len(set(found.texts)) > 15 and ((found.probability > 0) & (found.probability < 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_other_encoders_answer_alike_alone_and_in_a_batch(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    KINDS[kind]().save_pretrained(tmp_path)
    tokenizer(types=False).save_pretrained(tmp_path)
    tier: Any = load_tier({"path": str(tmp_path), "stride": STRIDE, "max_answer_tokens": 5}, "x", FREE)
    together = written(tier, UNITS)
    alone = [written(tier, [unit]) for unit in UNITS]
    assert together.texts == [each.texts[0] for each in alone]
    np.testing.assert_allclose(together.probability, [each.probability[0] for each in alone], rtol=1e-4)
    assert len(set(together.texts)) > 10


def test_layers_are_cut_and_folders_keep_how_they_read(folder: Path, tmp_path: Path) -> None:
    tier: Any = load_tier({"path": str(folder), "layers": 1, "stride": 4, "max_answer_tokens": 3}, "x", FREE)
    assert len(tier.model.bert.encoder.layer) == 1
    save_tier(tmp_path / "tier", tier, tier.kept_settings | {"no_answer": True})
    again: Any = load_tier(str(tmp_path / "tier"), "y", FREE)
    assert (again.stride, again.max_answer_tokens, again.no_answer, again.max_length) == (4, 3, True, WINDOW)
    assert again.encoding_key == tier.encoding_key and again.fingerprint != tier.fingerprint
    told: Any = load_tier({"path": str(tmp_path / "tier"), "no_answer": False}, "y", FREE)
    assert told.fingerprint == tier.fingerprint
    assert (
        load_tier({**told.describe()["view"], "path": str(tmp_path / "tier")}, "z", FREE).fingerprint
        == told.fingerprint
    )


def test_tokens_are_dropped_and_put_back_where_the_head_reads_them(folder: Path) -> None:
    whole: Any = load_tier({"path": str(folder), "stride": STRIDE}, "x", FREE)
    few: Any = load_tier({"path": str(folder), "stride": STRIDE, "lengths": [0.6, 0.3]}, "x", FREE)
    found = written(few, UNITS)
    assert all(unit[1][s:e] == text for unit, (s, e), text in zip(UNITS, found.spans, found.texts, strict=True))
    assert found.texts != written(whole, UNITS).texts and few.fingerprint != whole.fingerprint
    assert found.texts == [written(few, [unit]).texts[0] for unit in UNITS]
    lengths = np.array([len(row.ids) for row in few.tokeniser()(UNITS)])
    costs = network_costs([few], {"x": lengths}, {"x": lengths})
    counts = {n: count_macs(few.path(0), few.example(n)) for n in range(1, WINDOW + 1)}
    expected = [sum(counts[size] for size in row.sizes.tolist()) for row in few.tokeniser()(UNITS)]
    assert costs.answer["x"][0](lengths).tolist() == expected
    assert (costs.alone("x", lengths) > expected).all()  # of all tokens
    few.drop_tokens(None)
    assert written(few, UNITS).texts == written(whole, UNITS).texts
    with pytest.raises(ValueError, match=r"`width` must be left out for a tier of spans, but got 0.5; take `layers`"):
        load_tier({"path": str(folder), "width": 0.5}, "x", FREE)


def test_several_answers_are_given_best_first(folder: Path) -> None:
    tier: Any = load_tier({"path": str(folder), "stride": STRIDE, "no_answer": True}, "x", FREE)
    with torch.no_grad():
        answers = tier.n_best(encoded(tier, UNITS), 4)
    best = written(tier, UNITS)
    for unit, some, text in zip(UNITS, answers, best.texts, strict=True):
        assert some[0]["text"] == text and len({tuple(each["span"]) for each in some}) == len(some) <= 4
        for each in some:
            start, end = each["span"]
            assert each["text"] == ("" if start < 0 else unit[1][start:end])
    assert any(len(some) == 4 for some in answers)
    with torch.no_grad():
        single = tier.n_best(encoded(tier, UNITS), 1)
    assert single == [some[:1] for some in answers]


def test_spaces_around_a_span_are_no_part_of_it() -> None:
    tier = reader("x")
    encoding = encoded(tier, [("who", "the  king")])
    places = encoding["starts"] != OUTSIDE
    encoding["ends"][places] += torch.tensor([2, 0])  # as tokens of some tokenizers have the spaces behind them
    for row in tier.n_best(encoding, 9)[0]:
        start, end = row["span"]
        assert row["text"] == "the  king"[start:end] == row["text"].strip()


def test_a_cost_is_the_sum_over_windows() -> None:
    tiers = [reader("swift"), reader("super", layers=2)]
    rows = tiers[0].tokeniser()(UNITS)
    lengths = np.array([len(row.ids) for row in rows])
    known = {tier.name: lengths for tier in tiers}
    costs = network_costs(tiers, known, {name: padded_lengths(lengths, WINDOW) for name in known})
    for tier in tiers:
        counts = {n: count_macs(tier.path(0), tier.example(n)) for n in range(1, WINDOW + 1)}
        expected = [sum(counts[size] for size in row.sizes.tolist()) for row in rows]
        assert costs.answer[tier.name][0](lengths).tolist() == expected
        again = ModelCosts.from_json(json.loads(json.dumps(costs.to_json())))
        assert again.answer[tier.name][0](lengths).tolist() == expected
        single = RowCosts(tiers, costs)
        index = tiers.index(tier)
        assert single.answer(index, np.zeros(len(rows), int), RowWork(lengths)).tolist() == expected
    assert single.alone(RowWork(lengths)).tolist() == expected  # of the super, however many windows


def test_a_cost_that_is_no_quadratic_adds_up_as_well() -> None:
    counts = {n: n**3 for n in range(1, 9)}
    cost = CostFunction(counts=counts, window=8)
    assert cost([3, 8, 9, 21]).tolist() == [27, 512, 513, 2 * 512 + 125]
    assert cost.by_length(22)[[3, 8, 9, 21]].tolist() == [27, 512, 513, 2 * 512 + 125]


def test_padding_of_a_batch_is_that_of_its_windows() -> None:
    tier = reader("x")
    encoding = encoded(tier, UNITS)
    expected = torch.bincount(encoding["row"]) * encoding["input_ids"].shape[1]
    lengths = np.array([len(row.ids) for row in tier.tokeniser()(UNITS)])
    assert padded_lengths(lengths, WINDOW).tolist() == expected.tolist()
    found = tier.reading(encoding)
    assert found.lengths.tolist() == lengths.tolist() and found.padded.tolist() == expected.tolist()


def test_lower_precision_is_of_the_encoder_and_not_of_the_head(folder: Path) -> None:
    low: Any = load_tier({"path": str(folder), "dtype": "bfloat16", "stride": STRIDE}, "x", FREE)
    assert low.model.qa_outputs.weight.dtype is torch.float32
    assert next(low.model.bert.parameters()).dtype is torch.bfloat16
    chances = written(low, UNITS).probability
    assert len(set(chances.tolist())) == len(chances)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dropped_tokens_come_back_in_the_precision_of_the_head(folder: Path, dtype: str) -> None:
    view = {"path": str(folder), "stride": STRIDE, "lengths": [0.8] * LAYERS["num_hidden_layers"]}
    tiers: Any = [load_tier({**view, "dtype": name}, "x", FREE).eval() for name in (dtype, "float32")]
    low, full = tiers
    read = encoded(full, UNITS)
    found, expected = (tier.token_logits(read)[read["starts"] != OUTSIDE] for tier in (low, full))
    assert found.dtype is torch.float32 and len(found.unique()) > 0.9 * found.numel()
    assert (found - expected).abs().median() < 0.05 * expected.std()


def test_what_is_no_tier_of_spans_is_refused(
    folder: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(view: Any, names: list[str] = FREE) -> None:
        load_tier(view, "x", names, "tiers[0]")

    BertModel(BertConfig(**SMALL, **LAYERS)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    for path, names in ((str(tmp_path), FREE), (str(tiny_bert), ["negative", "positive"])):
        with pytest.raises(ValueError, match=r"`tiers\[0\]` must answer by spans to have `stride`"):
            load({"path": path, "stride": 4}, names)
    for names, what in ((["negative", "positive"], "one of the data's labels"), ([], "a number")):
        with pytest.raises(
            ValueError, match=rf"`tiers\[0\]` must answer with {what}, but .* by spans .* data of questions"
        ):
            load({"path": str(folder), "stride": 4}, names)
        assert load_tier(str(folder), "x", names, "tiers[0]", head=False).task.columns == max(1, len(names))
    with pytest.raises(ValueError, match=r"`tiers\[0\]`: `stride` must leave room .* give at most 19"):
        load({"path": str(folder), "stride": 20})
    with pytest.raises(ValueError, match=r"for a question, but got 1; raise `max_length` to at least 6"):
        load({"path": str(folder), "max_length": 5})
    for names, got in ((["start", "end"], "start, end"), ([], "an empty list")):
        with pytest.raises(ValueError, match=rf"`tiers\[0\]` must have no `label_names` where .* but got {got}; leave"):
            load({"path": str(folder), "label_names": names})
    monkeypatch.setattr("dial.tiers.backends.names.missing_package", lambda backend: None)  # refused with it, too
    with pytest.raises(ValueError, match=r"`tiers\[0\]`: `backend` must be torch for a tier of spans"):
        load({"path": str(folder), "backend": "openvino"})
    with pytest.raises(ValueError, match="`no_answer` must be true or false"):
        load({"path": str(folder), "no_answer": "yes"})
    with pytest.raises(ValueError, match=r"`tiers\[0\]` must be an encoder-decoder that writes to have `beams`"):
        load({"path": str(folder), "beams": 2})
    tensors = {key: value for key, value in reader("x").model.state_dict().items() if "qa_outputs.bias" not in key}
    reader("x").model.save_pretrained(tmp_path, state_dict=tensors)
    with pytest.raises(ValueError, match=r"`tiers\[0\]`: the weights in .* lack qa_outputs.bias; the file is damaged"):
        load(str(tmp_path))


def test_logits_that_are_not_finite_are_refused() -> None:
    tier = reader("swift")
    with torch.no_grad():
        tier.model.qa_outputs.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="`swift` must give finite logits"):
        written(tier, UNITS)


def test_a_fingerprint_that_is_known_is_taken_as_it_is() -> None:
    tier = reader("swift")
    known = tier.fingerprint
    assert reader("swift", max_answer_tokens=4).fingerprint != known
    tier.known_fingerprint = "0123456789ab"
    assert tier.fingerprint == "0123456789ab"


def test_a_stride_that_nobody_gave_leaves_room_in_shorter_windows(folder: Path, tmp_path: Path) -> None:
    tier: Any = load_tier({"path": str(folder), "stride": 12}, "x", FREE)
    save_tier(tmp_path / "tier", tier, tier.kept_settings)
    assert load_tier({"path": str(tmp_path / "tier"), "max_length": 18}, "x", FREE).stride == 12
    assert load_tier({"path": str(tmp_path / "tier"), "max_length": 15}, "x", FREE).stride == 5
    with pytest.raises(ValueError, match=r"`tiers\[0\]`: `stride` must leave room"):
        load_tier({"path": str(tmp_path / "tier"), "max_length": 15, "stride": 12}, "x", FREE, "tiers[0]")


@pytest.mark.parametrize("lengths", [None, Lengths((0.7, 0.4))])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_many_windows_are_trained_in_parts_with_the_same_gradients(monkeypatch, lengths, dropout) -> None:
    """A step takes as many windows at once as there are rows, or half as many more."""
    tier = reader("reader", layers=2)
    long = [(question, " ".join([context] * 3)) for question, context in UNITS[:5]]
    encoding = encoded(tier, long)
    windows, seen = len(encoding["row"]), list[int]()
    assert windows > 12
    tier.model.train()
    for module in tier.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    tier.model.register_forward_pre_hook(lambda _, args, given: seen.append(len(given["input_ids"])), with_kwargs=True)

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        tier.model.zero_grad()
        with tier.at_lengths(lengths):
            logits = tier.token_logits(encoding)
        with tier.at_lengths(Lengths((0.2, 0.1))):  # what is computed again keeps the lengths that it had
            (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        return [logits.detach(), *(parameter.grad.clone() for parameter in tier.model.parameters())]

    parts = gradients()
    assert max(seen) <= 5 and sum(seen) == 2 * windows  # there, and again on the way back
    seen.clear()
    if dropout:  # the same parts, kept whole: masks that are drawn again are the same
        monkeypatch.setattr("dial.tiers.spans.checkpoint", lambda function, *args, use_reentrant: function(*args))
    else:
        monkeypatch.setattr("dial.tiers.spans.WINDOWS_A_ROW", windows)
    whole = gradients()
    assert sum(seen) == windows and len(seen) == (1 if not dropout else -(-windows // 5))
    for mine, other in zip(parts, whole, strict=True):
        assert torch.allclose(mine, other, atol=2e-3 * max(1.0, other.abs().max().item()))
    seen.clear()
    with torch.no_grad():
        tier.token_logits(encoding)
    assert seen == [windows]
