"""How normalisation is written, and what is refused of it."""

import pytest
from pydantic import ValidationError

from kd_hpo.config.data import Digits
from kd_hpo.config.normalise import MeanAndStd
from tests.conftest import digits_trial


def test_one_number_or_one_a_channel() -> None:
    assert Digits.model_validate({"normalise": {"mean": 0.5, "std": [0.2, 0.3]}}).normalise == MeanAndStd(
        mean=0.5, std=(0.2, 0.3)
    )
    assert (Digits().normalise, digits_trial().teacher.normalise) == ("train", "data")


@pytest.mark.parametrize(
    "wrong", [{"mean": 127.5, "std": 0.5}, {"mean": 0.5, "std": [58.0, 57.0, 57.0]}, {"mean": -0.5, "std": 1}]
)
def test_numbers_of_bytes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="divide it by 255"):
        MeanAndStd.model_validate(wrong)
    with pytest.raises(ValidationError):
        Digits.model_validate({"normalise": "weights"})
    with pytest.raises(ValidationError, match="greater than 0"):
        MeanAndStd(mean=0, std=0)
