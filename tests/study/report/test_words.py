"""How numbers are worded."""

import pytest

from kd_hpo.study.report.words import capital, duration, listed, number, p_value, shorten, with_spread

NAN = float("nan")


def test_numbers_and_what_does_not_exist() -> None:
    assert (number(0.12345, ".3f"), number(NAN, ".3f"), number(2, "+.1f")) == ("0.123", "-", "+2.0")
    assert (p_value(0.0004), p_value(0.0126), p_value(NAN)) == ("<.001", "0.013", "-")
    assert (with_spread(0.5, 0.0707), with_spread(0.5, NAN), with_spread(NAN, NAN)) == ("0.5000 ±.0707", "0.5000", "-")
    assert with_spread(12.0, 1.5, 1) == "12.0 ±1.5"


@pytest.mark.parametrize(("seconds", "words"), [(44.6, "45 s"), (65, "1 min 5 s"), (7620, "2 h 7 min"), (NAN, "-")])
def test_duration_is_told_in_units_that_fit_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_lists_and_long_names() -> None:
    assert (listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])) == ("a", "a and b", "a, b and c")
    assert (capital("kd reaches"), capital("")) == ("Kd reaches", "")
    assert (shorten("layer1.0.conv1", 14), shorten("layer1.0.conv1", 8)) == ("layer1.0.conv1", "la…conv1")
