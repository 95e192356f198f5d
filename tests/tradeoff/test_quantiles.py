import numpy as np
import pytest

from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.rules import replay, threshold_events


@pytest.mark.parametrize("ties", [False, True])
def test_level_is_the_share_below_and_half_of_the_share_at_a_score(ties: bool) -> None:
    scores = np.random.default_rng(0).normal(size=(60, 3))
    scores = np.round(scores, 1) if ties else scores
    quantiles, levels = Quantiles.fit_transform(scores)
    for stage in range(2):
        for row in range(60):
            below = sum(other < scores[row, stage] for other in scores[:, stage])
            equal = sum(other == scores[row, stage] for other in scores[:, stage])
            assert levels[row, stage] == pytest.approx((below + equal / 2) / 60)
    np.testing.assert_array_equal(quantiles.transform(scores), levels)
    assert (levels[:, 2] == 0).all()


def test_the_map_is_strictly_increasing_also_beyond_the_calibration_scores() -> None:
    quantiles = Quantiles.fit(np.random.default_rng(0).normal(size=(30, 2)))
    fresh = np.sort(np.random.default_rng(1).normal(size=1500) * 3)  # many below, between and above
    assert (np.diff(quantiles.transform(np.stack([fresh, fresh], axis=1))[:, 0]) > 0).all()
    shuffled = np.random.default_rng(2).permutation(1500)
    whole = quantiles.transform(np.stack([fresh, fresh], axis=1))
    np.testing.assert_array_equal(quantiles.transform(np.stack([fresh, fresh], axis=1)[shuffled]), whole[shuffled])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e6])
def test_thresholds_decide_as_the_shared_dial_does(ties: bool, scale: float) -> None:
    random = np.random.default_rng(3)
    calibration, test = random.normal(size=(2, 70, 4)) * [1, 5, 0.1, 1] + [0, 3, 100, 0]
    if ties:
        calibration, test = np.round(calibration), np.round(test)
    calibration, test = calibration * scale, test * scale
    quantiles, levels = Quantiles.fit_transform(calibration)
    for scores, moved in ((calibration, levels), (test, quantiles.transform(test))):
        events = threshold_events(moved)
        distinct = np.unique(events.dial)
        for dial in [-np.inf, *((distinct[1:] + distinct[:-1]) / 2), np.inf]:
            taken = replay(scores, quantiles.thresholds(float(dial)))
            assert (taken == events.stages(float(dial))).all()


def test_scores_that_differ_by_one_unit_in_the_last_place_stay_apart() -> None:
    base = 1.0 - np.arange(40) * 2.0**-53
    scores = np.stack([base, np.zeros(40)], axis=1)
    quantiles, levels = Quantiles.fit_transform(scores)
    distinct = np.unique(levels[:, 0])
    for dial in (distinct[1:] + distinct[:-1]) / 2:
        assert (replay(scores, quantiles.thresholds(dial)) == threshold_events(levels).stages(dial)).all()


def test_one_calibration_score_is_enough() -> None:
    quantiles = Quantiles.fit(np.array([[2.0, 0.0]]))
    assert quantiles.transform(np.array([[1.0, 0], [2.0, 0], [4.0, 0]]))[:, 0].tolist() == [-0.5, 0.5, 2.5]
    assert quantiles.thresholds(0.5).tolist() == [2.0]
    assert quantiles.thresholds(np.inf).tolist() == [np.inf]
    assert quantiles.thresholds(-np.inf).tolist() == [-np.inf]


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one calibration row, but got none"):
        Quantiles.fit(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="but got a score that is not"):
        Quantiles.fit(np.array([[np.inf, 0.0]]))
