"""Names, labels and refusals of a cascade."""

import json
import shutil
import warnings
from types import SimpleNamespace

import pytest

from dial.models.lengths import Lengths
from dial.tiers.fronts import Individual, write_search
from dial.tiers.reading import CARD
from lightning_modules import Cascade
from tests.tiers.readers import STRIDE, save_reader

NAMES = ["negative", "positive"]


@pytest.fixture(scope="module")
def folder(make_tiny_bert) -> str:
    return str(make_tiny_bert(layers=1))


def test_names(folder) -> None:
    def names(*arguments, **settings):
        return [t.name for t in Cascade(*arguments, label_names=NAMES, **settings).network.tiers]

    assert names([folder] * 2) == ["swift", "super"]
    assert names([folder] * 3) == ["tier1", "tier2", "tier3"]
    assert names([folder] * 2, names=["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("given", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_bad_names(folder, given) -> None:
    with pytest.raises(ValueError, match="`names` must give each of the 2 tiers a name of its own"):
        Cascade([folder] * 2, names=given, label_names=NAMES)


def test_one_tier_is_no_cascade(folder) -> None:
    with pytest.raises(
        ValueError, match=r"`tiers` must hold at least two tiers.*got 1; test .* with the class_path that trained it"
    ):
        Cascade([folder], label_names=NAMES)


def test_it_is_not_trained(folder) -> None:
    with pytest.raises(ValueError, match=r"fit each tier by itself \(class_path: Classifier, Seq2Seq or SpanQA\)"):
        Cascade([folder] * 2, label_names=NAMES).setup("fit")


def test_tiers_that_contradict_each_other_are_refused(folder, make_tiny_bert) -> None:
    """The data's names say nothing, so each tier alone would be taken in the data's order."""
    other = str(make_tiny_bert(layers=1, labels=("positive", "negative")))
    with pytest.raises(ValueError, match="`tiers` must mean the same classes, but swift has negative, positive"):
        Cascade([folder, other], label_names=["0", "1"])
    Cascade([folder, folder], label_names=["0", "1"])


def test_shares_that_are_one_configuration_are_told(make_tiny_bert, tmp_path) -> None:
    tier = tmp_path / "tier"
    shutil.copytree(make_tiny_bert(layers=2), tier)
    found = [Individual(Lengths((0.5, 0.25)), 0.4, 0.8), Individual(Lengths((1.0, 1.0)), 1.0, 0.9)]
    write_search(tier, found, {}, 1)

    def told(*lengths: float) -> list[str]:
        specs = [{"path": str(tier), "lengths": share} for share in lengths]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Cascade(specs, label_names=NAMES)._warn_of_equal_lengths()
        return [str(one.message) for one in caught if "the same tier as" in str(one.message)]

    (line,) = told(0.5, 0.7)
    assert line.startswith("`super` is the same tier as `swift`") and "`lengths` 0.5 and 0.7" in line
    assert told(0.5, 1.0) == []


def test_thresholds_are_no_hyperparameters(folder) -> None:
    assert set(Cascade([folder] * 2, label_names=NAMES).hparams) == {"tiers", "names", "label_names", "metrics"}


def test_tiers_of_another_target_are_refused(make_tiny_t5) -> None:
    """A Swift that writes German before a Super that writes Romanian, and either for the other's data."""

    def tier(target: str) -> str:
        folder = make_tiny_t5()
        (folder / CARD).write_text(json.dumps({"label_names": ["*"], "target": target}))
        return str(folder)

    def tested(tiers: list[str], target: str | None) -> None:
        cascade = Cascade(tiers, label_names=["*"])
        cascade.trainer = SimpleNamespace(datamodule=SimpleNamespace(target=target))
        cascade.setup("test")

    german, romanian = tier("de"), tier("ro")
    message = r"`tiers` must write the same, but swift was trained to write 'de' and super to write 'ro'"
    with pytest.raises(ValueError, match=message):
        tested([german, romanian], None)
    message = r"`tiers` must write what the data holds, which is 'ro', but swift was trained to write 'de'"
    with pytest.raises(ValueError, match=message):
        tested([german, german], "ro")
    tested([german, german], "de")


def test_readers_of_spans_do_not_share_weights_among_ranks(tmp_path, monkeypatch) -> None:
    """They write, but do not generate: the strategy is refused before anything is asked of them."""
    readers_of = [str(save_reader(tmp_path / f"reader{layers}", layers=layers)) for layers in (1, 2)]
    module = Cascade(readers_of, label_names=["*"])
    monkeypatch.setattr(Cascade, "device_mesh", object())
    module._trainer = SimpleNamespace(strategy=None, state=SimpleNamespace(fn="test"))
    with pytest.raises(ValueError, match=r"`trainer.strategy` must not share weights in test of Cascade"):
        module.configure_model()


def test_a_tier_whose_questions_have_no_answer_otherwise_than_the_data_s_is_told(tmp_path, recwarn) -> None:
    def said(tier: bool, data: bool) -> list[str]:
        recwarn.clear()
        other = {"path": folder, "stride": STRIDE, "no_answer": data}
        cascade = Cascade([{"path": folder, "stride": STRIDE, "no_answer": tier}, other], label_names=["*"])
        cascade.trainer = SimpleNamespace(datamodule=SimpleNamespace(target=None, no_answer=data))
        cascade.setup("test")
        return [str(warning.message) for warning in recwarn if "no answer" in str(warning.message)]

    folder = str(save_reader(tmp_path))
    (never,), (always,) = said(False, True), said(True, False)
    assert "`swift` cannot say that a question has no answer, but the data has such questions" in never
    assert "`swift` may say that a question has no answer, but the data has no such questions" in always
    assert "no_answer: true}" in never and "no_answer: false}" in always
    assert said(True, True) == said(False, False) == []
