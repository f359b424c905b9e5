"""The pictures of a study, and that words of users in them are only words."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from kd_hpo.config.task import Classification
from kd_hpo.study.report.plots import draw_comparison, settings_figure, svg
from kd_hpo.study.results.comparison import Comparison
from kd_hpo.trial.parts import Prepared
from tests.study.helpers import LEARNED
from tests.study.results.test_comparison import comparison, comparison_of, study, study_of

__all__ = ["comparison", "study"]


def point(number: int, state: str = "completed", accuracy: float | None = 0.5, **settings: object) -> dict[str, object]:
    return {"trial": f"t{number:03d}", "state": state, "score": accuracy, **settings}


def test_picture_is_drawn_whatever_failed(comparison: Comparison, tmp_path: Path, prepared: Prepared) -> None:
    draw_comparison(comparison, tmp_path / "all.png")
    few = comparison_of(study_of(tmp_path, LEARNED, seeds=1), prepared)
    draw_comparison(few, tmp_path / "none.png")
    for name in ("all.png", "none.png"):
        picture = imread(tmp_path / name)
        assert picture.shape[1] == 960 and len({tuple(pixel) for pixel in picture.reshape(-1, picture.shape[2])[::7]}) > 3


def marks(axes: object) -> dict[str, list[tuple[float, float]]]:
    """The places of the marks of a panel, by how their trials ended."""
    return {line.get_label(): [tuple(place) for place in line.get_xydata().tolist()] for line in axes.lines}  # type: ignore[attr-defined]


def test_trials_stand_at_their_setting_and_accuracy_by_state() -> None:
    points = [
        point(0, accuracy=0.2, lr=0.001),
        point(1, accuracy=0.8, lr=0.01),
        point(2, "stopped", 0.9, lr=0.1),
        point(3, "failed", None, lr=0.02),
        point(4, "failed", float("nan"), lr=0.02),
        point(5, "failed", 0.4, lr=0.03),
        point(6),
    ]
    (axes,) = settings_figure(points, Classification.goal).axes
    assert (axes.get_title(loc="left"), axes.get_xscale()) == ("lr", "log")
    assert marks(axes) == {
        "completed": [(0.001, 0.2), (0.01, 0.8)],
        "stopped": [(0.1, 0.9)],
        "failed": [(0.03, 0.4)],
        "best completed": [(0.01, 0.8)],
    }
    assert len({line.get_marker() for line in axes.lines[:3]}) == 3  # no colour stands alone


@pytest.mark.parametrize("values", [(0.0, 1.0, 100.0), (-1.0, 5.0, 50.0), (1.0, 2.0, 9.0)], ids=["zero", "negative", "narrow"])
def test_axis_is_linear_otherwise(values: tuple[float, ...]) -> None:
    (axes,) = settings_figure([point(i, x=value) for i, value in enumerate(values)], Classification.goal).axes
    assert axes.get_xscale() == "linear"


def test_words_and_booleans_have_a_place_each() -> None:
    points = [point(0, kind="two", flag=True), point(1, kind="one"), point(2, kind="two", flag=False)]
    kind, flag = settings_figure(points, Classification.goal).axes
    assert [label.get_text() for label in kind.get_xticklabels()] == ["one", "two"]
    assert [x for x, _ in marks(kind)["completed"]] == [1, 0, 1]
    assert [label.get_text() for label in flag.get_xticklabels()] == ["False", "True"]


def test_words_are_no_formulae_and_no_tags() -> None:
    words = ["$x^$", "$\\frac{1}{2}$", "<script>alert(1)</script>", "a\x1b\nb", "x" * 300]
    drawn = svg(settings_figure([point(i, kind=word) for i, word in enumerate(words)], Classification.goal))
    assert "<script" not in drawn and "\x1b" not in drawn and "x" * 50 not in drawn
    assert "$x^$" in drawn and "&gt;" in drawn


@pytest.mark.parametrize(
    "points", [[], [point(0)], [point(0, "failed", None, lr=0.1)]], ids=["none", "no setting", "no accuracy"]
)
def test_there_may_be_little_to_draw(points: list[dict[str, object]]) -> None:
    assert svg(settings_figure(points, Classification.goal)).startswith("<svg")


def test_of_very_many_settings_the_first_are_drawn_and_the_figure_says_so() -> None:
    cells = {f"cells.{i}": float(i) for i in range(30)}
    figure = settings_figure([point(0, **cells)], Classification.goal)
    assert len(figure.axes) == 24 and figure.get_supxlabel() == "the first 24 of 30 settings"


def test_a_figure_is_the_same_twice() -> None:
    points = [point(i, accuracy=a, lr=a) for i, a in enumerate(np.linspace(0.1, 0.9, 5).tolist())]
    assert svg(settings_figure(points, Classification.goal)) == svg(settings_figure(points, Classification.goal))
