"""Settings whose meaning is somebody else's: they reach a trial, and a study that goes on, as they were given."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kd_hpo.config.study import Method, StudyConfig
from kd_hpo.config.trial import Network
from kd_hpo.errors import ConfigError
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.store.folder import StudyFolder
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
        ([{"x" * 151: 1}], "keys of 150 characters at most"),
    ],
)
def test_what_json_would_change_is_refused(value: Any, words: str) -> None:
    """JSON has no infinity: a trial would be given null in its place."""
    with pytest.raises(ValidationError, match=words):
        Network(name="plain_conv", arguments={"x": value})
    with pytest.raises(ValidationError, match=words):
        Method(name="mine", base="kd", set={"student.network.arguments.x": value})


def test_a_key_is_as_long_as_yaml_takes_it(tmp_path: Path) -> None:
    """However JSON writes it: a study that is kept is read again as YAML."""
    for key in ("x" * 150, "\x01" * 150, "\u2028" * 150):
        network = {"name": "plain_conv", "arguments": {key: {key: 1}}}
        study = digits_study(tmp_path, student={"network": network, "layers": ("conv1",)})
        folder = StudyFolder.of(study)
        folder.write_settings(study)
        assert folder.read_settings() == study
    with pytest.raises(ValidationError, match="150 characters long at most"):
        Network(name="plain_conv", arguments={"x" * 151: 1})
    with pytest.raises(ConfigError, match=r"^--set .*: the key search\.space\.x+ is 'x+.*'; it should be 150 characters"):
        load_study(Path("studies/digits.yaml"), [f"search.space.{'x' * 151}={{kind: uniform, low: 0, high: 1}}"])


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
