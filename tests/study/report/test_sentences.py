"""What tests and trends are called."""

import pytest

from kd_hpo.config.task import Classification
from kd_hpo.study.report.sentences import how_it_moved, how_well_known, of_test, of_trend
from kd_hpo.study.results.significance import Significance, Trend
from kd_hpo.study.results.standing import Learned
from kd_hpo.trial.result import LayerRecord, Rows
from tests.study.results.test_significance import NAN, method

GOAL = Classification.goal


@pytest.mark.parametrize(
    ("difference", "p", "corrected", "words"),
    [
        (0.1, 0.01, 0.03, "better"),
        (0.1, 0.03, 0.09, "better, but not after correction"),
        (-0.1, 0.01, 0.03, "worse"),
        (-0.1, 0.03, 0.09, "worse, but not after correction"),
        (0.1, 0.05, 0.05, "a tie"),
        (0.1, NAN, NAN, "not tested"),
    ],
)
def test_a_difference_is_called_what_its_test_allows(difference: float, p: float, corrected: float, words: str) -> None:
    assert of_test(Significance(method("kd", [0.5]), difference, p, corrected, GOAL)) == words


def test_a_trend_is_told_with_its_direction() -> None:
    assert of_trend(Trend("lr", 6, 1.0, 0.01), GOAL) == "accuracy rises with lr (rank correlation +1.00, 6 trials)"
    assert of_trend(Trend("lr", 6, -0.5, 0.01), GOAL).startswith("accuracy falls with lr (rank correlation -0.50")


@pytest.mark.parametrize(
    ("updates", "words"),
    [
        (None, "stands 0.25 from equal weights"),
        (0, "never updated"),
        (14, "updated 14 times a trial, and stands 0.25 from equal weights (0), of 0.50 for a single pair; fewer than 50"),
        (50, "updated 50 times a trial, and stands 0.25 from equal weights (0), of 0.50 for a single pair."),
    ],
)
def test_how_lambda_moved_is_told_with_what_that_is_worth(updates: int | None, words: str) -> None:
    one, rows = (LayerRecord(name="fc", shape=(1, 1, 1)),), ((0.75,), (0.25,))
    layers = (*one, *one), one
    assert words in how_it_moved(Learned("hetero", ("hetero-s0",), True, *layers, rows, rows, rows, (1,), (rows,), updates))


@pytest.mark.parametrize(
    ("t_values", "words"),
    [
        ((), ""),
        (((0.0,), (0.0,)), "none of the 2 pairs"),
        (((3.1,), (-1.9,)), "Of the 2 pairs 1 is known"),
        (((3.1,), (-2.1,)), "Of the 2 pairs 2 are known to help more (+) or less (-)"),
    ],
)
def test_which_weights_are_known_is_told(t_values: Rows, words: str) -> None:
    one, rows = (LayerRecord(name="fc", shape=(1, 1, 1)),), ((0.75,), (0.25,))
    layers = (*one, *one), one
    learned = Learned("hetero", ("hetero-s0",), True, *layers, rows, rows, rows, (1,), (rows,), 50, t_values)
    assert words in how_well_known(learned) and bool(how_well_known(learned)) == bool(words)
