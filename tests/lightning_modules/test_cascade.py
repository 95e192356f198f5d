"""Names, labels and refusals of a cascade."""

import pytest

from lightning_modules import Cascade

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
    with pytest.raises(ValueError, match=r"`tiers` must hold at least two tiers.*got 1.*class_path: Classifier"):
        Cascade([folder], label_names=NAMES)


def test_it_is_not_trained(folder) -> None:
    with pytest.raises(ValueError, match="is not trained: fit each tier with class_path: Classifier"):
        Cascade([folder] * 2, label_names=NAMES).setup("fit")


def test_tiers_that_contradict_each_other_are_refused(folder, make_tiny_bert) -> None:
    """The data's names say nothing, so each tier alone would be taken in the data's order."""
    other = str(make_tiny_bert(layers=1, labels=("positive", "negative")))
    with pytest.raises(ValueError, match="`tiers` must mean the same classes, but swift has negative, positive"):
        Cascade([folder, other], label_names=["0", "1"])
    Cascade([folder, folder], label_names=["0", "1"])


def test_thresholds_are_no_hyperparameters(folder) -> None:
    assert set(Cascade([folder] * 2, label_names=NAMES).hparams) == {"tiers", "names", "label_names", "metrics"}
