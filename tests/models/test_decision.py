"""From a logit to a probability to a decision, and what a loss is resolved to."""

import numpy as np
import pytest

from recsys.errors import InputError
from recsys.models.decision import Calibration, DecisionConfig, Promises, decide, resolve

PROMISES = Promises(lists=149, relevant=90, thresholds=((0.02, 0.001), (0.05, 0.03), (0.1, 0.04)))


def plain_decision(chances: np.ndarray, decision: DecisionConfig) -> np.ndarray:
    kept = np.zeros(chances.shape, dtype=bool)
    for row, values in enumerate(chances):
        order = sorted(np.flatnonzero(values >= 0).tolist(), key=lambda column: (-values[column], column))
        for column in order[: decision.top or len(order)]:
            kept[row, column] = decision.probability is None or values[column] >= decision.probability
    return kept


@pytest.mark.parametrize("top", [None, 1, 3, 50])
@pytest.mark.parametrize("probability", [None, 0.0, 0.5, 1.0])
def test_a_decision_keeps_the_best_or_the_probable_or_both(top, probability):
    chances = np.random.default_rng(0).integers(0, 5, (6, 8)) / 4
    chances[2, 3:] = -1
    decision = DecisionConfig(top=top, probability=probability)
    found = decide(chances, top=top, least=probability or 0.0)
    np.testing.assert_array_equal(found, plain_decision(chances, decision))


def test_each_list_may_have_a_probability_of_its_own():
    chances = np.array([[0.2, 0.4], [0.2, 0.4], [-1.0, -1.0]])
    found = decide(chances, top=None, least=np.array([[0.1], [0.3], [0.0]]))
    assert found.tolist() == [[True, True], [False, True], [False, False]]


def test_corners_are_joined_by_straight_lines_and_level_outside():
    calibration = Calibration(corners=((-4.0, 0.0), (-1.0, 0.1), (0.0, 0.1), (1.0, 0.5)))
    found = calibration.probability(np.array([-9.0, -2.5, -1.0, -0.5, 0.5, 7.0]))
    np.testing.assert_allclose(found, [0, 0.05, 0.1, 0.1, 0.3, 0.5], atol=1e-15)


def test_without_corners_the_probability_is_a_sigmoid_that_does_not_overflow():
    found = Calibration(scale=2.0, shift=-1.0).probability(np.array([0.0, 1e5, -1e5]))
    np.testing.assert_allclose(found, [1 / (1 + np.e), 1, 0])


@pytest.mark.parametrize(("loss", "probability"), [(0.02, 0.001), (0.05, 0.03), (0.07, 0.03), (0.1, 0.04), (0.9, 0.04)])
def test_a_loss_between_two_listed_ones_is_taken_as_the_lower(loss, probability):
    assert resolve(DecisionConfig(loss=loss), PROMISES).probability == probability


def test_a_decision_passes_all_that_is_set_and_resolving_twice_changes_nothing():
    once = resolve(DecisionConfig(top=3, probability=0.035, loss=0.05), PROMISES)
    assert once == DecisionConfig(top=3, probability=0.035, loss=0.05)
    assert resolve(resolve(DecisionConfig(loss=0.05), PROMISES), PROMISES).probability == 0.03
    assert resolve(DecisionConfig(top=3), None) == DecisionConfig(top=3)


def test_a_loss_that_no_list_has_bounded_is_refused():
    with pytest.raises(InputError, match=r"0\.01 is less than .* 90 relevant .* 149 held-out lists bound 0\.02"):
        resolve(DecisionConfig(loss=0.01), PROMISES)
    with pytest.raises(InputError, match="bound no loss at all"):
        resolve(DecisionConfig(loss=0.01), Promises(lists=1, relevant=0, thresholds=()))
    with pytest.raises(InputError, match="needs a pruner that knows"):
        resolve(DecisionConfig(loss=0.01), None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DecisionConfig(top=0), "at least 1"),
        (lambda: DecisionConfig(probability=1.5), "from 0 to 1"),
        (lambda: DecisionConfig(loss=0.0), "between 0 and 1"),
        (lambda: DecisionConfig(loss=1.0), "between 0 and 1"),
        (lambda: Calibration(scale=-1.0), "falls while the logit rises"),
        (lambda: Calibration(corners=((0.0, 0.2), (1.0, 0.1))), "falls while the logit rises"),
        (lambda: Calibration(corners=((0.0, 0.1), (0.0, 0.2))), "falls while the logit rises"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
