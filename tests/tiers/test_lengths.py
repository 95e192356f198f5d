"""Tiers that drop tokens: what a spec may say, what is refused, and that rows are answered alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from dial.inference.routes import can_be_routed
from dial.inference.run import _load as load_tested
from dial.models.lengths import Lengths
from dial.models.token_dropping import TokenDropping
from dial.tiers.fronts import Individual, read_search, write_search
from dial.tiers.kept_tokens import kept_tokens
from dial.tiers.loading import load_tier
from dial.tiers.tier import weights_digest
from dial.tiers.tokens import Tokeniser
from tests.models.families import classifier
from tests.models.test_token_dropping import reference
from tests.tiers import small

NAMES = ["negative", "positive"]
TEXTS = ["the film was not good", "dull", "a great cast and a very fine plot but it was so poor", "fine plot"]


@pytest.fixture
def folder(make_tiny_bert: Callable[..., Path]) -> Path:
    return make_tiny_bert(layers=3, labels=NAMES, initializer_range=0.5)


def load(spec: Any) -> Any:
    return load_tier(spec, "tiers[0]", NAMES, "tiers[0]").eval()


def test_a_tier_answers_as_its_model_does_with_tokens_dropped(folder: Path) -> None:
    lengths = [0.8, 0.5, 0.2]
    tier = load({"path": str(folder), "lengths": lengths})
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokeniser = Tokeniser(tier)
    with torch.no_grad():
        together = tier(tokeniser.collate(tokeniser(TEXTS)))[:, 0]
        for row, text in enumerate(TEXTS):
            inputs = tier.tokenizer(text, return_tensors="pt")
            with TokenDropping(stock.bert)(stock.bert, Lengths.parse(lengths), None, tuple(inputs["input_ids"].shape)):
                torch.testing.assert_close(stock(**inputs).logits[0], together[row], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together, load(str(folder))(tokeniser.collate(tokeniser(TEXTS)))[:, 0], atol=1e-3)


def test_lengths_are_part_of_what_a_tier_is(folder: Path) -> None:
    whole, few, fewer = (load({"path": str(folder), "lengths": one}) for one in (None, [0.8, 0.5, 0.2], [8, 5, 2]))
    assert len({tier.fingerprint for tier in (whole, few, fewer)}) == 3
    assert few.describe()["lengths"] == [0.8, 0.5, 0.2] and "lengths" not in whole.describe()
    assert few.describe()["view"]["lengths"] == [0.8, 0.5, 0.2]
    assert can_be_routed(whole) and not can_be_routed(few) and few.segments() == []
    assert whole.reference_path() is None and few.reference_path() is not None


def front(folder: Path) -> None:
    found = [
        Individual(Lengths(values), macs, quality)
        for values, macs, quality in (
            ((0.5, 0.2, 0.1), 0.3, 0.7),
            ((0.6, 0.4, 0.2), 0.45, 0.8),
            ((0.5, 0.4, 0.4), 0.47, 0.75),  # beaten
            ((1.0, 0.9, 0.9), 0.9, 0.85),
        )
    ]
    write_search(folder, found, {"metric": "accuracy"}, 2)


def test_a_share_of_the_macs_takes_the_best_within_it(folder: Path) -> None:
    front(folder)
    for share, values in (
        (0.3, [0.5, 0.2, 0.1]),
        (0.5, [0.6, 0.4, 0.2]),
        (0.89, [0.6, 0.4, 0.2]),
        (1, [1.0, 0.9, 0.9]),
    ):
        tier = load({"path": str(folder), "lengths": share})
        assert tier.lengths.plain() == values and tier.describe()["lengths"] == values
    about, generations, found = read_search(folder) or ({}, 0, [])
    assert about == {"metric": "accuracy"} and generations == 2 and len(found) == 4


def test_a_front_of_other_weights_is_refused(folder: Path, make_tiny_bert: Callable[..., Path]) -> None:
    found = [Individual(Lengths((0.5, 0.2, 0.1)), 0.3, 0.7)]
    write_search(folder, found, {"weights": weights_digest(load(str(folder)).model)}, 0)
    view = {"path": str(folder), "lengths": 0.5}
    assert load(view).lengths == load({**view, "label_names": NAMES[::-1]}).lengths == found[0].lengths
    write_search(folder, found, {"weights": weights_digest(load({"path": str(folder), "layers": 2}).model)}, 0)
    with pytest.raises(ValueError, match=r"of other weights than those asked for .* run `dial lengths` on it") as error:
        load(view)
    assert str(error.value).startswith("`tiers[0]`: `lengths`") and "\n" not in str(error.value)
    (folder / "lengths.json").unlink()


def test_a_front_of_rows_of_another_length_is_refused(folder: Path) -> None:
    found = [Individual(Lengths((0.5, 0.2, 0.1)), 0.3, 0.7)]
    write_search(folder, found, {"max_length": 32}, 0)
    assert load({"path": str(folder), "lengths": 0.5}).lengths == found[0].lengths
    assert load({"path": str(folder), "lengths": [0.5, 0.2, 0.1], "max_length": 16}).max_length == 16
    with pytest.raises(ValueError, match=r"rows of at most 32 tokens, .* but `max_length` is 16; leave one") as error:
        load({"path": str(folder), "lengths": 0.5, "max_length": 16})
    assert str(error.value).startswith("`tiers[0]`: `lengths`") and "\n" not in str(error.value)
    (folder / "lengths.json").unlink()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no lengths.json; run `dial lengths` on it"),
        ({}, "is not what `dial lengths` leaves"),
        ({"schema": 2}, "is not what `dial lengths` leaves .schema 2"),
        ("[1]", "lengths.json"),
    ],
)
def test_no_front(folder: Path, content: Any, words: str) -> None:
    file = folder / "lengths.json"
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=words) as error:
        load({"path": str(folder), "lengths": 0.5})
    assert "tiers[0]" in str(error.value) and "\n" not in str(error.value)
    file.unlink(missing_ok=True)


def test_a_tested_tier_stays_what_it_was_when_the_search_goes_on(folder: Path, tmp_path: Path) -> None:
    front(folder)
    about = load({"path": str(folder), "lengths": 0.5}).describe()
    sweep: Any = SimpleNamespace(run=tmp_path, label_names=NAMES)
    write_search(folder, [Individual(Lengths((0.5, 0.5, 0.5)), 0.4, 0.9)], {"metric": "accuracy"}, 9)
    assert load({"path": str(folder), "lengths": 0.5}).lengths.plain() == [0.5, 0.5, 0.5]
    for _ in range(2):
        tier = load_tested(sweep, "tiers[0]", about, None)
        assert tier.lengths is not None and tier.lengths.plain() == [0.6, 0.4, 0.2]
        assert tier.fingerprint == about["fingerprint"]
        (folder / "lengths.json").unlink(missing_ok=True)


def test_nothing_so_cheap_on_the_front(folder: Path) -> None:
    front(folder)
    with pytest.raises(ValueError, match=r"`lengths` must be at least 0.3, the cheapest that was found .* got 0.2"):
        load({"path": str(folder), "lengths": 0.2})
    (folder / "lengths.json").unlink()


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([0.5, 0.6, 0.7], "must not rise from layer to layer"),
        ([0.5, 0.4], "one number for each of the 3 layers, but got 2"),
        ([300, 20, 10], "must not be longer than the input of at most 32 tokens"),
        ([1.5, 0.5, 0.5], "shares of a row's tokens above 0 up to 1"),
        (1.5, "a share of the MACs above 0 up to 1"),
        ([1, 1, 1], r"more than one token behind the first layer, but got \[1, 1, 1\].*; write 1.0 for all"),
    ],
)
def test_bad_lengths_are_refused_in_one_line(folder: Path, lengths: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        load({"path": str(folder), "lengths": lengths})
    assert str(error.value).startswith("`tiers[0]`: `lengths`") and "\n" not in str(error.value)


def test_no_other_backend(folder: Path) -> None:
    with pytest.raises(ValueError, match="backend"):
        load({"path": str(folder), "lengths": [0.5] * 3, "backend": "openvino"})
    assert load({"path": str(folder), "lengths": [0.5] * 3, "backend": "auto"}).computed_by == "torch"


def test_an_architecture_whose_positions_do_not_allow_it(tmp_path: Path, tiny_tokenizer: Any) -> None:
    model = classifier("modernbert", num_labels=2)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^`tiers\[0\]` must be an encoder whose layers allow tokens to be dropped"):
        load({"path": str(tmp_path), "label_names": NAMES, "lengths": [0.5] * 3})


def test_the_tokens_that_stay_by_the_loop(folder: Path) -> None:
    tier, text = load({"path": str(folder), "lengths": [0.8, 0.8, 0.3]}), TEXTS[2]
    found = kept_tokens(tier, text)
    stock = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    ids = tier.tokenizer(text, return_tensors="pt")["input_ids"][0]
    with torch.no_grad():
        _, left = reference(stock, ids, tier.lengths)
    assert [row.nonzero()[0].tolist() for row in found.kept] == left
    assert found.tokens == tier.tokenizer.convert_ids_to_tokens(ids.tolist())
    assert np.isnan(found.received[1]).all() and np.isnan(found.received[2]).tolist() == (~found.kept[1]).tolist()
    assert kept_tokens(load(str(folder)), text).kept.all()


def test_lower_precision(folder: Path) -> None:
    """In bf16 a token here and there ranks otherwise; of most texts the answer moves far less than by dropping."""
    view, texts = {"path": str(folder), "lengths": [0.8, 0.5, 0.3]}, [*TEXTS, *filter(None, small.texts(20, seed=3))]
    exact, rounded, whole = load(view), load({**view, "dtype": "bfloat16"}), load(str(folder))
    tokeniser = Tokeniser(exact)
    batch = tokeniser.collate(tokeniser(texts))
    with torch.no_grad():
        answers, of_bf16, of_all = (tier(batch)[:, 0] for tier in (exact, rounded, whole))
    by_rounding, by_dropping = ((answers - others).abs().amax(dim=1).median() for others in (of_bf16, of_all))
    assert 0 < 4 * by_rounding < by_dropping


def test_what_a_backend_computes_drops_no_tokens(folder: Path) -> None:
    """A backend would keep them all, while costs and fingerprint said otherwise."""
    tier, lengths = load(str(folder)), Lengths((0.8, 0.5, 0.2))
    part: Any = lambda inputs: torch.zeros(len(inputs["input_ids"]), 2)  # noqa: E731
    part.name = "openvino float32"
    tier.compute_with([part])
    message = r"`backend` must be torch where tokens are dropped, but tiers\[0\] is computed by openvino float32; give"
    with pytest.raises(ValueError, match=rf"`TIER`: {message}"):
        tier.drop_tokens(lengths, "TIER")
    with pytest.raises(ValueError, match=message), tier.at_lengths(lengths):
        pass
    tier.drop_tokens(None)
    assert tier.lengths is None
    tier.compute_with(None)
    tier.drop_tokens(lengths)
    assert tier.lengths is lengths
