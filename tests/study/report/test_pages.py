import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from kd_hpo.study.report.pages import MatrixHistory, matrix_image, matrix_page, scatter_page

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "\"'><b onclick=x>",
    "$data ${title} $",
    "a\nb\x00\ud800",
    "λ → é",
]


class Tags(HTMLParser):
    """Every tag of a page with its attributes, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.attributes: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes += [name for name, _ in attrs]


def history(teachers: int, students: int, epochs: int = 3) -> MatrixHistory:
    weights = np.random.default_rng(0).dirichlet(np.ones(teachers * students), epochs).reshape(epochs, teachers, students)
    return MatrixHistory(
        tuple(f"teacher.{t}" for t in range(teachers)),
        tuple(f"student.{s}" for s in range(students)),
        tuple(range(0, 10 * epochs, 10)),
        tuple(tuple(tuple(row) for row in matrix) for matrix in weights.tolist()),
    )


def data_of(page: str) -> dict[str, list]:
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert "<" not in block  # nothing in it can end the block, or open a comment
    return json.loads(block, parse_constant=pytest.fail)


def trial(number: int, state: str = "completed", accuracy: float | None = 0.5, **settings: object) -> dict[str, object]:
    return {"trial": number, "state": state, "accuracy": accuracy, **settings}


def marks_of(page: str) -> list[tuple[str, str, float, float, str]]:
    """(state, trial, x, y, tooltip) of every mark, in the order of the page."""
    mark = r'<g class="(\w+)" data-trial="([^"]*)" transform="translate\(([-\d.]+),([-\d.]+)\)"><title>(.*?)</title>'
    return [(s, n, float(x), float(y), unescape(told)) for s, n, x, y, told in re.findall(mark, page)]


@pytest.mark.parametrize(("teachers", "students", "epochs"), [(1, 1, 1), (2, 3, 4), (12, 10, 1), (12, 10, 30)])
def test_matrix_page_carries_every_weight_name_and_epoch(teachers: int, students: int, epochs: int) -> None:
    given = history(teachers, students, epochs)
    data = data_of(matrix_page("trial 7", given))
    assert data["teacher"] == list(given.teacher_layers)
    assert data["student"] == list(given.student_layers)
    assert data["epochs"] == list(given.epochs)
    np.testing.assert_allclose(data["matrices"], given.matrices, rtol=5e-6)  # six significant digits


def test_weight_that_is_not_finite_is_null_in_the_page_and_grey_in_the_picture() -> None:
    given = MatrixHistory(("t",), ("a", "b", "c"), (1,), ((((float("nan"), float("inf"), 0.5)),),))
    assert data_of(matrix_page("", given))["matrices"] == [[[None, None, 0.5]]]
    picture = matrix_image("", ("t",), ("a", "b", "c"), given.matrices[0], vmax=1.0)
    assert (picture == 160).all(2).sum() > 2 * 5000  # two cells


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_stays_text(name: str) -> None:
    plain = [
        matrix_page("t", MatrixHistory(("n",), ("n",), (0,), (((1.0,),),))),
        scatter_page("t", [trial(0, n="v")], ["n"]),
    ]
    hostile = [
        matrix_page(name, MatrixHistory((name,), (name,), (0,), (((1.0,),),))),
        scatter_page(name, [trial(0, **{name: name})], [name]),
    ]
    for expected, page in zip(map(Tags, plain), hostile, strict=True):
        page.encode()  # no lone surrogate is left
        assert Tags(page).found == expected.found
        assert Tags(page).attributes == expected.attributes
    data = data_of(hostile[0])
    assert data["teacher"] == data["student"] == [name]
    if name.isprintable():
        assert name in unescape(hostile[0].split("<h1>")[1].split("</h1>")[0])
        assert name in unescape(hostile[1].split("<figcaption>")[1])
    assert matrix_image(name, [name], [name], [[1.0]], vmax=1).shape == (400, 480, 3)


def test_pages_ask_for_nothing_outside_and_are_the_same_twice() -> None:
    for render in (
        lambda: matrix_page("trial", history(3, 2)),
        lambda: scatter_page("study", [trial(0, lr=0.1), trial(1, "stopped", 0.2, lr=0.5)], ["lr"]),
    ):
        page = render()
        assert page == render()
        assert re.findall(r"(?:https?:)?//\w[^\s'\"]*", page.replace("http://www.w3.org/2000/svg", "")) == []
        assert not {"link", "iframe", "img", "object", "embed"} & set(Tags(page).found)
        assert not {"src", "href", "action"} & set(Tags(page).attributes)
        assert not re.search(r"localStorage|sessionStorage|document\.cookie|fetch\(|@import|url\(", page)


def test_template_is_small() -> None:
    assert len(matrix_page("", history(1, 1, 1))) < 16_000


@pytest.mark.parametrize(
    ("epochs", "matrices"),
    [((), ()), ((1, 2), (((1.0, 2.0),),)), ((1,), (((1.0,),),)), ((1,), (((1.0, 2.0), (1.0, 2.0)),))],
    ids=["no epoch", "epoch without matrix", "short row", "row too many"],
)
def test_history_refuses_shapes_that_disagree(epochs: tuple[int, ...], matrices: tuple) -> None:
    with pytest.raises(ValueError, match="MatrixHistory got"):
        MatrixHistory(("t",), ("a", "b"), epochs, matrices)


@pytest.mark.parametrize(("teachers", "students"), [(1, 1), (4, 4), (12, 10), (30, 40)])
def test_picture_has_one_size_and_repeats(teachers: int, students: int) -> None:
    given = history(teachers, students)
    first, again = (
        matrix_image("epoch 3", given.teacher_layers, given.student_layers, np.array(given.matrices[0]), vmax=0.3)
        for _ in range(2)
    )
    assert first.shape == (400, 480, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)


def test_picture_colours_follow_the_weight_on_a_fixed_scale() -> None:
    def cells(weights: list[float], vmax: float = 1.0) -> list[tuple[int, ...]]:
        """The colour near the left edge of each cell of a (4, 1) matrix, clear of the number in its middle."""
        picture = matrix_image("", "abcd", "x", [[weight] for weight in weights], vmax=vmax)
        return [tuple(picture[y, 60].tolist()) for y in (110, 190, 270, 350)]

    shown = cells([0.0, 0.2, 0.5, 1.0])
    lightness = [sum(colour) for colour in shown]
    assert lightness == sorted(set(lightness))  # more weight is lighter
    assert shown[0] == (0x44, 0x01, 0x54)
    assert shown[3] == (0xFD, 0xE7, 0x25)
    assert cells([0.5, 0.5, 0.1, 0.2])[:2] == [shown[2]] * 2  # whatever the rest of the epoch is
    assert cells([0.0, 0.1, 0.25, 3.0], vmax=0.5) == shown  # above vmax: the last colour


def test_picture_prints_weights_up_to_100_pairs() -> None:
    def differ(teachers: int, students: int) -> bool:
        """Whether two weights of one colour can be told apart."""
        names = (["t"] * teachers, ["s"] * students)
        low, high = (matrix_image("", *names, np.full((teachers, students), weight), vmax=0.1) for weight in (0.2, 0.3))
        return not np.array_equal(low, high)

    assert differ(10, 10)
    assert not differ(11, 10)


@pytest.mark.parametrize(("matrix", "vmax"), [([[1.0]], 1.0), ([[1.0, 0.0]], 0.0), ([[1.0, 0.0]], float("nan"))])
def test_picture_refuses_what_it_cannot_draw(matrix: list[list[float]], vmax: float) -> None:
    with pytest.raises(ValueError, match="matrix_image got"):
        matrix_image("", ["t"], ["a", "b"], matrix, vmax=vmax)


def test_scatter_places_trials_on_log_axis_and_tells_their_numbers() -> None:
    page = scatter_page(
        "s", [trial(i, accuracy=a, lr=lr) for i, a, lr in [(0, 0.2, 0.001), (1, 0.9, 0.01), (2, 0.5, 0.1)]], ["lr"]
    )
    marks = marks_of(page)
    assert "log axis" in page
    assert marks[2][2] - marks[1][2] == pytest.approx(marks[1][2] - marks[0][2], abs=0.2)  # even decades
    assert marks[1][3] < marks[2][3] < marks[0][3]  # y grows downwards
    assert marks[1][4] == "trial 1 (completed): lr = 0.01, accuracy 0.9"
    assert "best completed: trial 1, accuracy 0.9" in page


@pytest.mark.parametrize("values", [(0.0, 1.0, 100.0), (-1.0, 5.0, 50.0), (1.0, 2.0, 9.0)], ids=["zero", "negative", "narrow"])
def test_scatter_axis_is_linear_otherwise(values: tuple[float, ...]) -> None:
    page = scatter_page("s", [trial(i, x=value) for i, value in enumerate(values)], ["x"])
    x = [mark[2] for mark in marks_of(page)]
    assert "log axis" not in page
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx((values[1] - values[0]) / (values[2] - values[0]), abs=0.01)


def test_scatter_tells_states_apart_by_marker_and_shows_failures_without_accuracy() -> None:
    trials = [
        trial(0, lr=1.0),
        trial(1, "stopped", 0.9, lr=2.0),
        trial(2, "failed", None, lr=3.0),
        trial(3, "failed", float("nan"), lr=3.0),
    ]
    page = scatter_page("s", trials, ["lr"])
    markers = re.findall(r'<li class="(?:completed|stopped|failed)"><svg[^>]*>(<[^>]*>)', page)
    assert len(set(markers)) == 3
    assert [page.count(f"</title>{marker}") for marker in markers] == [1, 1, 2]
    failures = [mark for mark in marks_of(page) if mark[0] == "failed"]
    assert len(failures) == 2
    assert all("no accuracy" in mark[4] and mark[3] > 165 for mark in failures)  # below the axis
    assert "best completed: trial 0" in page  # the stopped trial is higher, and does not count


def test_scatter_gives_words_a_slot_and_leaves_out_trials_without_the_setting() -> None:
    trials = [trial(0, kind="one"), trial(1, kind="two"), trial(2, kind="one"), trial(3), trial(4, flag=True, kind="two")]
    page = scatter_page("s", trials, ["kind", "flag", "absent"])
    by_slot = {kind: [mark[2] for mark in marks_of(page) if f"kind = {kind}" in mark[4]] for kind in ("one", "two")}
    assert len(by_slot["one"]) == len(by_slot["two"]) == 2
    assert max(by_slot["one"]) < 165 < min(by_slot["two"])  # the middle of the axis
    assert "1 without a value" in page
    assert [mark[4] for mark in marks_of(page) if "flag" in mark[4]] == ["trial 4 (completed): flag = True, accuracy 0.5"]
    assert "5 without a value" in page


def test_scatter_of_nothing_of_one_and_of_an_unknown_state() -> None:
    assert "No trial has ended yet" in scatter_page("s", [], ["lr"])
    assert marks_of(scatter_page("s", [trial(0)], [])) == []
    assert len(marks_of(scatter_page("s", [trial(0, accuracy=0.0, lr=0)], ["lr"]))) == 1
    with pytest.raises(ValueError, match=r"pruned.*completed, stopped, failed"):
        scatter_page("s", [trial(0, "pruned")], [])
