"""What a recipe may say, and what it means."""

import pytest
from pydantic import ValidationError

from kd_hpo.config.training import Points, Training, WarmUp, factor_of


def test_settings_that_are_not_given_leave_no_trace() -> None:
    """So that trials of before have their digests."""
    given = Training(epochs=3).model_dump(mode="json")
    assert set(given) == {"epochs", "batch_size", "optimizer", "lr_schedule"} and given["lr_schedule"] == "one_cycle"


@pytest.mark.parametrize(("schedule", "words"), [
    ({"kind": "multi_step", "milestones": [3, 9]}, "milestone 9"),
    ({"kind": "multi_step", "milestones": [2, 0.5], "warmup": 2}, "milestone 2"),
    ({"kind": "cosine", "warmup": 8}, "warmup of 8 epochs"),
    ({"kind": "torch", "name": "ReduceLROnPlateau"}, "ReduceLROnPlateau follows a metric"),
])  # fmt: skip
def test_a_schedule_that_does_not_fit_the_epochs_is_refused(schedule: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Training.model_validate({"epochs": 8, "lr_schedule": schedule})


def test_a_weight_rises_as_that_of_dkd_does() -> None:
    # mdistiller: min(epoch / warmup, 1), epochs counted from 1
    assert [factor_of(WarmUp(epochs=4), done, 240) for done in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [factor_of(WarmUp(epochs=0.25), done, 16) for done in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert factor_of(WarmUp(epochs=0.1), 0, 8) == 1  # shorter than an epoch
    assert factor_of(None, 0, 240) == 1


def test_a_weight_follows_lines_between_points() -> None:
    points = Points(points=((2, 1.0), (4, 3.0), (5, 0.0)))
    assert [points.factor(epoch, 6) for epoch in range(1, 7)] == [1, 1, 2, 3, 0, 0]
    with pytest.raises(ValidationError, match="should rise"):
        Points(points=((2, 1.0), (2, 3.0)))


def test_a_recipe_is_told_in_a_line() -> None:
    recipe = Training.model_validate(
        {"epochs": 8, "ema": {}, "label_smoothing": 0.1, "optimizer": {"kind": "timm", "name": "lamb"}}
    )
    assert recipe.words == (
        "8 epochs, batches of 128, lamb, labels smoothed by 0.1, scored and exported as the average of its weights"
    )
