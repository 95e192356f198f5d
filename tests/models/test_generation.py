"""Row by row what `generate` of transformers answers, in batches of any size, with finished rows out of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, MarianConfig, MarianMTModel

from dial.models import generation
from dial.models.generation import Generated, Generation, generate
from dial.stages.scores import ANSWER_SCORES
from tests.models.writers import VOCABULARY, sources, tiny_t5

LIMIT = 20
CLOSE = 1e-4  # of log-probabilities in float32, by which two batch layouts may choose differently


def often_ending(model):
    """The same, but that the end of an answer is likelier."""
    model.final_logits_bias[0, model.config.eos_token_id] = 6.0
    return model


def bart(**settings: object) -> BartForConditionalGeneration:
    config = BartConfig(
        **{
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
            "init_std": 0.5,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
            "decoder_start_token_id": 1,
            "forced_eos_token_id": 1,
            **settings,
        }
    )
    torch.manual_seed(0)
    return often_ending(BartForConditionalGeneration(config).eval())


def marian() -> MarianMTModel:
    config = MarianConfig(**bart().config.to_dict() | {"decoder_start_token_id": 0, "model_type": "marian"})
    torch.manual_seed(3)
    model = often_ending(MarianMTModel(config).eval())
    model.generation_config.bad_words_ids = [[0], [7]]
    model.generation_config.no_repeat_ngram_size = 2
    return model


MODELS = {
    "ungated": lambda: tiny_t5(1),
    "gated": lambda: tiny_t5(1, gated=True),
    "bart": bart,
    "marian": marian,
}


def own(model, ids: Tensor, mask: Tensor, beams: int, scores: bool = False, limit: int = LIMIT) -> Generated:
    with torch.no_grad():
        states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    return generate(model, states, mask, Generation(beams, limit), scores)


def pieces(generated: Generated) -> list[list[int]]:
    return [row[:n] for row, n in zip(generated.tokens.tolist(), generated.lengths.tolist(), strict=True)]


def reference(model, ids: Tensor, mask: Tensor, beams: int, limit: int = LIMIT) -> list[list[int]]:
    """What transformers answers to each row, up to and with its end."""
    found = model.generate(
        input_ids=ids, attention_mask=mask, num_beams=beams, max_new_tokens=limit, do_sample=False, length_penalty=1.0
    )
    end = model.config.eos_token_id
    rows = [row[1:] for row in found.tolist()]
    return [row[: row.index(end) + 1] if end in row else row[:limit] for row in rows]


def undecided(model, ids: Tensor, mask: Tensor, first: list[int], second: list[int]) -> bool:
    """Whether the best two log-probabilities lie together where two answers to a row first differ."""
    same = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    start = torch.tensor([[model.config.decoder_start_token_id, *first[:same]]])
    with torch.no_grad():
        logits = model(input_ids=ids[None], attention_mask=mask[None], decoder_input_ids=start).logits[0, -1]
    best = logits.log_softmax(-1).topk(2).values
    return bool(best[0] - best[1] < CLOSE)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("kind", MODELS)
def test_answers_are_those_of_transformers(kind: str, beams: int) -> None:
    model = MODELS[kind]()
    ids, mask = sources(64)
    for size in (1, 7, 64):
        rows = slice(0, min(64, 3 * size))
        found, wanted = [], []
        for part in range(0, rows.stop, size):
            batch = slice(part, part + size)
            found += pieces(own(model, ids[batch], mask[batch], beams))
            wanted += reference(model, ids[batch], mask[batch], beams)
        other = [i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b]
        close = [i for i in other if undecided(model, ids[i], mask[i], found[i], wanted[i])]
        assert other == close and len(close) <= 2  # the rows that may differ are counted
    assert len({len(row) for row in found}) > 1  # else nothing would have left the batch


@pytest.mark.parametrize("beams", [1, 3])
def test_the_share_at_which_rows_leave_does_not_matter(monkeypatch: pytest.MonkeyPatch, beams: int) -> None:
    model = tiny_t5(1)
    ids, mask = sources(32)
    found = []
    for share in (0.0, 0.125, 2.0):
        monkeypatch.setattr(generation, "DROP", share)
        answers = own(model, ids, mask, beams)
        found.append((pieces(answers), answers.steps.tolist()))
    assert found[0] == found[1] == found[2]
    assert found[0][1] == [own(model, ids[i : i + 1], mask[i : i + 1], beams).steps.item() for i in range(32)]


@pytest.mark.parametrize("early_stopping", [True, "never"])
def test_the_model_s_own_settings_count(early_stopping) -> None:
    model = tiny_t5(2)
    model.generation_config.early_stopping = early_stopping
    ids, mask = sources(24)
    found = pieces(own(model, ids, mask, 4))
    assert found == reference(model, ids, mask, 4)


def test_a_finished_row_is_not_computed_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_t5(1)
    ids, mask = sources(32)
    sizes: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, given: sizes.append(len(given["decoder_input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(generation, "DROP", 0.0)
    found = own(model, ids, mask, 1)
    assert sizes == [int((found.lengths >= step).sum()) for step in range(1, int(found.lengths.max()) + 1)]
    assert torch.equal(found.steps, found.lengths)


@pytest.mark.parametrize("beams", [1, 4])
def test_scores_follow_from_the_logits_of_the_answer(beams: int) -> None:
    model = tiny_t5(2)
    ids, mask = sources(9)
    found = own(model, ids, mask, beams, scores=True)
    assert set(found.scores) == set(ANSWER_SCORES)
    for i, row in enumerate(pieces(found)):
        with torch.no_grad():
            logits = model(
                input_ids=ids[i : i + 1],
                attention_mask=mask[i : i + 1],
                decoder_input_ids=torch.tensor([[0, *row[:-1]]]),
            ).logits[0]
        log_p = logits.double().log_softmax(-1)
        steps = {
            "energy": logits.double().exp().sum(-1).log(),
            "softmax": log_p.exp().max(-1).values,
            "entropy": (log_p.exp() * log_p).sum(-1),
        }
        chosen = [log_p[step, token].item() for step, token in enumerate(row)]
        assert found.scores["answer_log_probability"][i].item() == pytest.approx(np.mean(chosen), abs=1e-4)
        for name, values in steps.items():
            assert found.scores[f"decoder_{name}"][i].item() == pytest.approx(values.mean().item(), rel=1e-4, abs=1e-4)
            low = np.quantile(values.numpy(), generation.UNSURE)
            assert found.scores[f"decoder_{name}_low"][i].item() == pytest.approx(low, rel=1e-4, abs=1e-4)


def test_answers_that_the_limit_ended_are_told() -> None:
    model = tiny_t5(1)
    ids, mask = sources(32)
    found = own(model, ids, mask, 1, limit=5)
    ended = [row[-1] == model.config.eos_token_id for row in pieces(found)]
    assert [not end for end in ended] == found.limited.tolist() and 0 < sum(ended) < 32
    assert int(found.lengths.max()) == 5


@pytest.mark.parametrize("beams", [1, 3])
def test_an_end_that_is_forced_at_the_limit_is_none(beams: int) -> None:
    model = bart()
    ids, mask = sources(32)
    found = own(model, ids, mask, beams, limit=5)
    assert all(row[-1] == model.config.eos_token_id for row in pieces(found))
    assert found.limited.tolist() == [len(row) == 5 for row in pieces(found)] and 0 < int(found.limited.sum()) < 32


@pytest.mark.parametrize("beams", [1, 3])
def test_logits_that_are_not_finite_name_the_model(beams: int) -> None:
    model = tiny_t5(1)
    ids, mask = sources(4)
    with torch.no_grad():
        model.lm_head.weight[5, 0] = torch.nan
        states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    with pytest.raises(ValueError, match=r"`swift` must have a decoder whose logits are finite, but they are not"):
        generate(model, states, mask, Generation(beams, LIMIT), name="swift")


@pytest.mark.parametrize("beams", [1, 3])
def test_scores_of_sure_answers_do_not_tie(beams: int) -> None:
    model = tiny_t5(1)
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    ids, mask = sources(16)
    found = own(model, ids, mask, beams, scores=True, limit=1)
    largest, log_p = found.scores["decoder_softmax"], found.scores["answer_log_probability"]
    assert ((largest < 1) & (largest.float() == 1)).sum() > 1  # these would tie in float32
    assert ((log_p < 0) & (log_p > -1e-7)).sum() > 1


def test_a_batch_without_padding_needs_no_mask() -> None:
    model = tiny_t5(2)
    ids = torch.randint(3, VOCABULARY, (4, 6))
    with torch.no_grad():
        states = model.get_encoder()(input_ids=ids).last_hidden_state
    found = generate(model, states, None, Generation(1, LIMIT))
    assert pieces(found) == reference(model, ids, torch.ones_like(ids), 1)


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="`beams` must be a whole number from 1 up, but got 0"):
        Generation(beams=0)
    with pytest.raises(ValueError, match="`max_new_tokens` must be a whole number from 1 up, but got True"):
        Generation(max_new_tokens=True)


@pytest.mark.parametrize("beams", [1, 4])
def test_ranks_that_share_a_model_s_weights_take_as_many_steps(monkeypatch: pytest.MonkeyPatch, beams: int) -> None:
    model = tiny_t5(1)
    ids, mask = sources(48)
    steps = [int(own(model, ids[i : i + 1], mask[i : i + 1], beams).steps) for i in range(48)]
    row = int(np.argmin(steps))
    short, more = slice(row, row + 1), steps[row] + 4
    assert more < LIMIT
    alone = own(model, ids[short], mask[short], beams)
    calls, asked = [], []
    monkeypatch.setattr(generation, "is_sharded", lambda _: True)
    monkeypatch.setattr(generation, "everybody", lambda done, _: (asked.append(done), done and len(asked) == more)[1])
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    found = own(model, ids[short], mask[short], beams)
    assert len(calls) == more == len(asked)  # as long as another rank goes on
    assert pieces(found) == pieces(alone) and torch.equal(found.steps, alone.steps)
    calls.clear()
    monkeypatch.setattr(generation, "everybody", lambda *_: False)
    assert pieces(own(model, ids[short], mask[short], beams)) == pieces(alone)
    assert len(calls) == LIMIT  # the limit is the same on all ranks
