import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from kd_hpo.study.report.matrix import MatrixHistory, drawn_cells, matrix_image, matrix_in_markdown, matrix_page

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
    expected = Tags(matrix_page("t", MatrixHistory(("n",), ("n",), (0,), (((1.0,),),))))
    page = matrix_page(name, MatrixHistory((name,), (name,), (0,), (((1.0,),),)))
    page.encode()  # no lone surrogate is left
    assert Tags(page).found == expected.found
    assert Tags(page).attributes == expected.attributes
    data = data_of(page)
    assert data["teacher"] == data["student"] == [name]
    if name.isprintable():
        assert name in unescape(page.split("<h1>")[1].split("</h1>")[0])
    assert matrix_image(name, [name], [name], [[1.0]], vmax=1).shape == (400, 480, 3)


def test_page_asks_for_nothing_outside_and_is_the_same_twice() -> None:
    page = matrix_page("trial", history(3, 2))
    assert page == matrix_page("trial", history(3, 2))
    assert re.findall(r"(?:https?:)?//\w[^\s'\"]*", page.replace("http://www.w3.org/2000/svg", "")) == []
    assert not {"link", "iframe", "img", "object", "embed"} & set(Tags(page).found)
    assert not {"src", "href", "action"} & set(Tags(page).attributes)
    assert not re.search(r"localStorage|sessionStorage|document\.cookie|fetch\(|@import|url\(", page)


def test_table_has_a_row_a_teacher_layer_and_names_that_end_no_cell() -> None:
    lines = matrix_in_markdown(["conv|1", "fc"], ["a", "b"], ((0.25, 0.0), (0.5, 0.25))).splitlines()
    assert lines[0] == "| teacher \\ student | `a` | `b` |" and lines[1] == "|---|---|---|"
    assert lines[2:] == ["| `conv¦1` | 0.250 | 0.000 |", "| `fc` | 0.500 | 0.250 |"]


def test_cells_have_three_digits_the_scales_colours_and_an_ink_that_is_read_on_them() -> None:
    cells = drawn_cells([[0.0, 0.5, 1.0], [2.0, float("nan"), 0.1234]], 1.0)
    assert cells.texts == [["0.000", "0.500", "1.000"], ["2.000", "nan", "0.123"]]
    assert cells.papers[0, 0].tolist() == [0x44, 0x01, 0x54] and cells.papers[0, 2].tolist() == [0xFD, 0xE7, 0x25]
    assert cells.papers[1, 0].tolist() == cells.papers[0, 2].tolist() and cells.papers[1, 1].tolist() == [160] * 3
    assert cells.inks[0][0] == "white" and cells.inks[0][2] == "black"
    assert cells.printed and not drawn_cells(np.zeros((11, 10)), 1.0).printed


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
