import copy
from typing import Any

import pytest

from kd_hpo.config.paths import set_path, value_at
from kd_hpo.errors import ConfigError


def test_set_path_returns_a_copy() -> None:
    data: dict[Any, Any] = {"a": {"b": [1, [2, 3]], "c": None}, "d": 4, 5: {"x": 6}}
    before = copy.deepcopy(data)
    assert set_path(data, "a.b.1.0", 9) == before | {"a": {"b": [1, [9, 3]], "c": None}}
    assert set_path(data, "a.c.new", 9) == before | {"a": {"b": [1, [2, 3]], "c": {"new": 9}}}
    assert set_path(data, "n.e.w", 9) == before | {"n": {"e": {"w": 9}}}
    assert set_path(data, "5.x", 9) == before | {5: {"x": 9}}
    assert set_path({"t": (1, 2)}, "t.1", 9) == {"t": [1, 9]}
    assert data == before


def test_set_path_takes_the_longest_key_with_dots() -> None:
    data = {"a": {"b": 1}, "a.b": {"c": 2}}
    assert set_path(data, "a.b.c", 9) == {"a": {"b": 1}, "a.b": {"c": 9}}
    assert set_path(data, "a.x", 9) == {"a": {"b": 1, "x": 9}, "a.b": {"c": 2}}


@pytest.mark.parametrize(
    ("dotted", "message"),
    [
        ("a.2", "there is no a.2, as a holds 2 items; they count from 0"),
        ("a.-1", "there is no a.-1, as a holds 2 items; they count from 0"),
        ("a.0.x.y", "there is no a.0.x, as a.0 is 1; set a.0 itself"),
        ("a.", "'a.' is no path; write 1 to 50 names joined by single dots: key.key.key"),
        ("", "'' is no path; write 1 to 50 names joined by single dots: key.key.key"),
    ],
)
def test_set_path_refuses(dotted: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        set_path({"a": [1, 2]}, dotted, 9)
    assert str(caught.value) == message


def test_a_path_has_an_end() -> None:
    assert len(str(set_path({}, ".".join("a" * 50), 9))) == 50 * len("{'a': }") + 1
    with pytest.raises(ConfigError, match="is no path"):
        set_path({}, ".".join("a" * 51), 9)


def test_value_at_finds_what_set_path_sets() -> None:
    data: dict[Any, Any] = {"a": {"b": [1, (2, 3)], "c": None}, "a.b": {"c": 2}, 5: {"x": 6}}
    assert [value_at(data, path) for path in ("a.b.c", "5.x", "a.c")] == [2, 6, None]
    assert value_at({"a": [1, (2, 3)]}, "a.1.0") == 2
    for path in ("a.d", "a.c.x", "b", "5.x.y", "a.b.1"):
        assert value_at(data, path, "nothing") == "nothing"
