"""Settings whose meaning is somebody else's: they reach a trial, and a study that goes on, as they were given."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kd_hpo.config.study import Method, StudyConfig
from kd_hpo.config.trial import Network
from tests.conftest import digits_study

DEEP: Any = 1
for _ in range(60):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("inf"), "finite numbers, and inf is none"),
        ([1, {"x": float("nan")}], "finite numbers, and nan is none"),
        ({1: 2}, "strings for keys, and 1 is none; write it in quotes"),
        ({"x": {None: 2}}, "strings for keys, and None is none"),
        (Path("x"), "not PosixPath"),
        (b"x", "not bytes"),
        ({1, 2}, "not set"),
        (DEEP, "nested 50 deep at most"),
    ],
)
def test_what_json_would_change_is_refused(value: Any, words: str) -> None:
    """JSON has no infinity: a trial would be given null in its place."""
    with pytest.raises(ValidationError, match=words):
        Network(name="plain_conv", arguments={"x": value})
    with pytest.raises(ValidationError, match=words):
        Method(name="mine", base="kd", set={"student.network.arguments.x": value})


def test_what_is_accepted_comes_back_as_it_is(tmp_path: Path) -> None:
    given = {"x": [1, 2.5, "a", None, True, {"b": (1, (2, 3))}], "big": 10**30, "small": 5e-324}
    study = digits_study(tmp_path, compare={"methods": [{"name": "mine", "base": "kd", "set": {"a.b": given}}]})
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study  # a list where a tuple was given


@pytest.mark.parametrize("field", ["runs", "teacher.weights", "data.path"])
def test_a_path_has_no_null_character(tmp_path: Path, field: str) -> None:
    study = digits_study(tmp_path).model_dump()
    study["data"] = {"kind": "image_folder", "path": "x"}
    *above, last = field.split(".")
    (study[above[0]] if above else study)[last] = "a\0b"
    with pytest.raises(ValidationError, match="no null character"):
        StudyConfig.model_validate(study)
