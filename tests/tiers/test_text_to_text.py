"""Tiers that write: what they are loaded from, what they refuse, and that they write what transformers would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dial.stages.scores import compute
from dial.tiers.loading import load_tier, save_tier
from dial.tiers.text_loading import build_text_tier, load_text_tier
from dial.tiers.text_to_text import Read, TextToTextTier
from dial.tiers.tier import View
from dial.tiers.tokens import Tokeniser
from tests.tiers.small import texts
from tests.tiers.writers import FREE, add_head, save_writer, writer

WORDS = ["good", "bad"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_writer(tmp_path_factory.mktemp("writer"))


def answers(tier: TextToTextTier, units: list[str]) -> list[str]:
    tokeniser = Tokeniser(tier)
    with torch.no_grad():
        return tier.write(tokeniser.collate(tokeniser(units)), torch.arange(len(units))).texts


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_those_of_transformers(folder, beams) -> None:
    tier = load_tier({"path": str(folder), "beams": beams, "max_new_tokens": 9}, "x", FREE)
    units = texts(20)
    found = answers(tier, units)
    for unit, text in zip(units, found, strict=True):
        ids = torch.tensor([Tokeniser(tier)([unit])[0].ids])
        tokens = tier.model.generate(input_ids=ids, num_beams=beams, max_new_tokens=9, do_sample=False)
        assert text == tier.tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert len(set(found)) > 3


def test_a_loaded_tier_is_in_evaluation_mode(folder) -> None:
    """As a whole: a teacher's pass puts back the mode that the tier, not its model, was in."""
    assert not any(module.training for module in load_tier(str(folder), "x", FREE).modules())


def test_rows_are_written_from_what_was_read(folder) -> None:
    tier = load_tier(str(folder), "x", FREE)
    tokeniser = Tokeniser(tier)
    encoding = tokeniser.collate(tokeniser(texts(12)))
    with torch.no_grad():
        state = tier.run(encoding, lambda *_: None)
        some = torch.tensor([7, 2, 5])
        tier.read = lambda _: pytest.fail("the encoder ran again")  # type: ignore[method-assign,assignment]
        found = tier.write(encoding, some, state)
    assert found.texts == [answers(load_tier(str(folder), "x", FREE), [texts(12)[i]])[0] for i in some]
    assert found.generated.shape == found.limited.shape == (3,)


def test_columns_that_no_row_needs_are_left_out() -> None:
    states, mask = torch.arange(24.0).view(2, 4, 3), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    taken = Read(states, mask).take(torch.tensor([0]))
    assert torch.equal(taken.states, states[:1, :2]) and torch.equal(taken.mask, mask[:1, :2])
    assert Read(states, None).take(torch.tensor([1])).mask is None


def test_what_was_read_in_several_batches_is_written_as_one(folder) -> None:
    tier: Any = load_tier({"path": str(folder), "max_new_tokens": 6}, "x", FREE)
    tokeniser, units = Tokeniser(tier), ["a film", "good good bad film that was long", "bad", "film bad film"]
    parts, alone = [], []
    with torch.no_grad():
        for batch in (units[:1], units[1:3], units[3:]):  # two of them without a mask
            encoding = tokeniser.collate(tokeniser(batch))
            parts.append(tier.read(encoding))
            alone += tier.write(encoding, torch.arange(len(batch))).texts
        joined = tier.join_states(parts)
        assert tier.width_of(joined) == max(tier.width_of(part) for part in parts) and len(joined.states) == 4
        assert tier.write({}, torch.arange(4), joined).texts == alone
        some = tier.take_states(joined, torch.tensor([3, 0]))
        assert tier.write({}, torch.arange(2), some).texts == [alone[3], alone[0]]
        whole = tier.join_states([parts[0], parts[0]])
    assert whole.mask is None and torch.equal(whole.states, parts[0].states.repeat(2, 1, 1))


def test_layers_cut_both_halves(folder) -> None:
    tier = load_tier({"path": str(folder), "layers": 1}, "x", FREE)
    assert len(tier.model.encoder.block) == len(tier.model.decoder.block) == 1
    whole = load_tier(str(folder), "x", FREE)
    first = tier.model.decoder.block[0].state_dict()
    assert all(torch.equal(value, whole.model.decoder.block[0].state_dict()[name]) for name, value in first.items())


@pytest.mark.parametrize("names", [FREE, WORDS])
def test_a_tier_survives_its_folder(folder, tmp_path, names) -> None:
    tier = load_tier({"path": str(folder), "layers": 1, "max_new_tokens": 5}, "x", names)
    save_tier(tmp_path / "tier", tier, {"label_names": names})
    again = load_tier(str(tmp_path / "tier"), "x", names)
    assert again.generation.max_new_tokens == 5  # as it was trained
    assert again.fingerprint == tier.fingerprint and answers(again, texts(9)) == answers(tier, texts(9))
    other = load_tier({"path": str(folder), "layers": 1, "max_new_tokens": 5, "beams": 2}, "x", names)
    assert other.fingerprint != tier.fingerprint


@pytest.mark.parametrize("kind", ["classes", "vocabulary"])
def test_a_head_decides_and_nothing_is_written(kind) -> None:
    tier = writer("x", WORDS if kind == "classes" else FREE, head=kind)
    tier.model.get_decoder().register_forward_pre_hook(lambda *_: pytest.fail("the decoder ran"))
    tokeniser = Tokeniser(tier)
    encoding = tokeniser.collate(tokeniser(texts(6)))
    with torch.no_grad():
        outputs, scores = tier.decide(encoding)
        states = tier.model.encoder(**encoding).last_hidden_state
        expected = tier.head.energy(states, encoding["attention_mask"])
    assert outputs.shape == (6, 1, 2 if kind == "classes" else 1)
    assert torch.allclose(scores["energy"][:, 0], expected) and set(scores) == set(tier.model_scores)


def test_a_head_of_classes_is_computed_once_a_batch() -> None:
    tier = writer("swift", WORDS, head="classes")
    calls = []
    tier.head.output.register_forward_hook(lambda *given: calls.append(given))
    tokeniser = Tokeniser(tier)
    logits, scores = tier.decide(tokeniser.collate(tokeniser(["good", "a bad film"])))
    assert len(calls) == 1
    for name, score in scores.items():
        assert torch.equal(score[:, 0], compute(name, logits[:, 0], 1.0))


@pytest.mark.parametrize("key", [{"head": "x"}, {"beams": 2}, {"max_new_tokens": 5}])
def test_keys_of_writers_are_refused_on_other_tiers(tiny_bert, key) -> None:
    with pytest.raises(ValueError, match=rf"`swift` must be an encoder-decoder that .* `{next(iter(key))}`"):
        load_tier({"path": str(tiny_bert), **key}, "x", ["negative", "positive"], "swift")


def test_a_head_beside_the_model_belongs_to_it_whole(tmp_path, caplog) -> None:
    folder = save_writer(tmp_path / "tier")
    add_head(folder, WORDS)
    assert load_tier(str(folder), "x", WORDS).model_scores
    assert load_tier({"path": str(folder), "layers": 2}, "x", WORDS).head is not None  # cuts nothing
    assert not caplog.records
    assert load_tier({"path": str(folder), "layers": 1}, "x", WORDS, "swift").head is None  # another encoder
    assert "swift: the energy head in" in caplog.text and "not trained on the first 1 layers" in caplog.text
    with pytest.raises(ValueError, match=r"`tiers\[0\].head` must be trained on this tier's encoder"):
        load_tier({"path": str(folder), "layers": 1, "head": str(folder)}, "x", WORDS, "tiers[0]")


def test_models_that_do_not_write_are_refused_in_one_line(tiny_bert, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"`path` must be an encoder-decoder .* holds BertForSequence") as caught:
        load_tier(str(tiny_bert), "x", FREE)
    assert "\n" not in str(caught.value)
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt/config.json").write_text(json.dumps(config))
    (tmp_path / "gpt/model.safetensors").write_bytes(b"")
    (tmp_path / "gpt/tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"decides before its decoder writes, but .* holds GPT2LM.*span.yaml"):
        load_tier(str(tmp_path / "gpt"), "x", FREE)
    (tmp_path / "gpt/config.json").write_text(json.dumps({**config, "architectures": ["GPT2ForQuestionAnswering"]}))
    with pytest.raises(ValueError, match=r"`path` must be an encoder-decoder .* holds GPT2ForQuestionA.*span.yaml"):
        load_text_tier(View(str(tmp_path / "gpt")), "x", FREE, train=True)


def test_a_tier_that_was_trained_to_write_other_words_is_refused(folder, tmp_path) -> None:
    tier = load_tier(str(folder), "x", WORDS)
    save_tier(tmp_path / "tier", tier, {"label_names": WORDS})
    with pytest.raises(ValueError, match=r"must write the data's label words yes, no, but .* label words good, bad"):
        load_tier(str(tmp_path / "tier"), "x", ["yes", "no"])
    with pytest.raises(ValueError, match="must write the data's free text, but"):
        load_tier(str(tmp_path / "tier"), "x", FREE)


def test_label_words_that_the_tokenizer_cannot_spell_are_refused(folder) -> None:
    load_tier(str(folder), "swift", ["good", "bad"])
    with pytest.raises(ValueError, match=r"`label_names` must be words that the tokenizer can spell, but of '<=50K'"):
        load_tier(str(folder), "swift", ["<=50K", "good"])


def test_a_search_that_looks_at_the_source_is_refused(tmp_path) -> None:
    folder = save_writer(tmp_path / "tier")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "encoder_no_repeat_ngram_size": 3}))
    with pytest.raises(ValueError, match=r"`swift` must be generated from without `encoder_no_repeat_ngram_size`"):
        load_tier(str(folder), "x", FREE, "swift")


def test_weights_of_an_encoder_alone_are_refused(folder, tmp_path) -> None:
    model = load_tier(str(folder), "x", FREE).model
    model.save_pretrained(
        tmp_path, state_dict={k: v for k, v in model.state_dict().items() if not k.startswith("decoder")}
    )
    Tokeniser(load_tier(str(folder), "x", FREE)).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the weights in .* lack parameters, first decoder\."):
        load_tier(str(tmp_path), "x", FREE)


@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_a_model_from_a_configuration_writes_with_a_tokenizer_of_its_own(kind) -> None:
    sizes = {
        "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        "bart": dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
        | dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
        | {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64},
    }
    config = {"model_type": kind, "vocab_size": 60, **sizes.get(kind, sizes["bart"])}
    tier = build_text_tier(config, "characters", FREE, 32, max_new_tokens=6)
    tier.fit_tokenizer(lambda: iter(texts(30)))
    tier.eval()
    assert len(answers(tier, texts(5))) == 5
    ids = torch.tensor([[5, 1, -100], [6, 7, 1]])
    tokeniser = Tokeniser(tier)
    assert tier.forced(tokeniser.collate(tokeniser(["a film", "good"])), ids).shape == (2, 3, 60)


def test_configurations_are_checked() -> None:
    with pytest.raises(ValueError, match="`config` must have a `model_type` such as t5"):
        build_text_tier({"d_model": 16}, "pieces", FREE, 32)
    with pytest.raises(ValueError, match="`config` must be an encoder-decoder"):
        build_text_tier({"model_type": "bert"}, "pieces", FREE, 32)
    with pytest.raises(ValueError, match=r"`config` of t5 allows .*, but got d_modl"):
        build_text_tier({"model_type": "t5", "d_modl": 16}, "pieces", FREE, 32)


def test_sources_are_read_in_their_form() -> None:
    tier = writer("swift", FREE)
    plain = Tokeniser(tier)
    tier.source_form = "b {1} a {0}"
    assert Tokeniser(tier)([("good", "bad")])[0].ids == plain(["b bad a good"])[0].ids
    with pytest.raises(ValueError, match=r"`swift` reads pairs of texts, as 'b \{1\} a \{0\}', but got a single one"):
        Tokeniser(tier)(["good"])
    tier.source_form = "to {{}}: {0}"
    assert Tokeniser(tier)(["good"])[0].ids == plain(["to {}: good"])[0].ids
    with pytest.raises(ValueError, match=r"`swift` reads single texts, as 'to .*', but got a pair; name one column"):
        Tokeniser(tier)([("good", "bad")])
