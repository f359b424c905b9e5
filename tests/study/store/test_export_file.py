"""The file of exported matrices: its schema, and that nothing but an ExportError comes of a file that is none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd_hpo.errors import ExportError
from kd_hpo.study.store.export_file import SCHEMA, VERSION, json_schema, load_export

EARLIER = Path(__file__).with_name("export-1.json")
REGENERATE = """.venv/bin/python -c '
import json
from kd_hpo.study.store.export_file import SCHEMA, Export
SCHEMA.write_text(json.dumps(json_schema(), indent=1, sort_keys=True) + "\\n")'"""


def test_schema_on_disk_is_the_model(exported: Path) -> None:
    expected = json.loads(json.dumps(json_schema()))
    assert json.loads(SCHEMA.read_text()) == expected, f"the schema file is not that of the model; write it again:\n{REGENERATE}"


def test_export_is_valid_under_the_schema(exported: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    content = json.loads(exported.read_text(), parse_constant=pytest.fail)
    jsonschema.validate(content, schema)
    content["matrices"][0]["weights"][0][0] = -0.5
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_file_may_name_a_run_of_mlflow_or_none(exported: Path, tmp_path: Path) -> None:
    """Every file of before names it, perhaps as null."""
    assert [entry.mlflow_run_id for entry in load_export(exported).matrices] == ["run", None]
    content = json.loads(exported.read_text())
    for entry in content["matrices"]:
        del entry["mlflow_run_id"]
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert [entry.mlflow_run_id for entry in load_export(tmp_path / "other.json").matrices] == [None, None]


def test_file_that_the_first_version_wrote_is_read() -> None:
    """Written by that version: without a trajectory, without a count."""
    export = load_export(EARLIER)
    assert (export.schema_version, export.test_opened, export.matrices[0].trajectory) == (1, 0, ())
    assert export.matrices[0].held_mean == ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    jsonschema.validate(json.loads(EARLIER.read_text()), json.loads(SCHEMA.read_text()))


def test_file_that_the_second_version_wrote_is_read(exported: Path, tmp_path: Path) -> None:
    """It knew of no answer."""
    content = json.loads(exported.read_text()) | {"schema_version": 2}
    del content["answer"]
    (tmp_path / "second.json").write_text(json.dumps(content))
    assert load_export(tmp_path / "second.json").answer is None


def test_file_of_a_later_version_is_refused_in_one_line_that_says_so(exported: Path, tmp_path: Path) -> None:
    """Whatever else it may hold that is not known here."""
    content = json.loads(exported.read_text()) | {"schema_version": VERSION + 1, "kind": "kd_hpo export", "more": 1}
    content["matrices"][0]["more"] = {}
    (tmp_path / "later.json").write_text(json.dumps(content))
    match = rf"^.*later\.json is an export of schema version {VERSION + 1}, .* up to {VERSION}; install a newer one$"
    with pytest.raises(ExportError, match=match):
        load_export(tmp_path / "later.json")


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *above, last = path.split(".")
        node: Any = content
        for key in above:
            node = node[int(key)] if isinstance(node, list) else node[key]
        if value is None:
            del node[last]
        else:
            node[int(last) if isinstance(node, list) else last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("schema_version", 0), r"schema_version.*1, 2 or 3"),
        (changed("schema_version", "3"), r"schema_version.*1, 2 or 3"),
        (changed("kind", "other"), r"kind.*kd_hpo export"),
        (changed("matrices", []), r"matrices.*at least 1"),
        (changed("matrices.0.weights.0.0", -0.5), r"matrices\.0\.weights\.0\.0.*greater than or equal to 0"),
        (changed("matrices.1.held_mean.1", [0.5]), r"matrices\.1.*held_mean is not 3 rows \(teacher layers\) of 2"),
        (changed("matrices.0.scales", [[1.0, 1.0]]), r"matrices\.0.*scales is not 3 rows"),
        (changed("matrices.0.trajectory.1", [[1.0, 0.0]]), r"matrices\.0.*trajectory\.1 is not 3 rows"),
        (changed("matrices.0.trajectory.0.0.0", 0.75), r"matrices\.0.*trajectory\.0 sums to 1\.58"),
        (changed("matrices.0.totals", [1.0]), r"matrices\.0.*totals has 1 numbers for a trajectory of 2 epochs"),
        (changed("test_opened", -1), r"test_opened.*greater than or equal to 0"),
        (changed("matrices.0.weights.0.1", 0.25), r"matrices\.0.*weights sums to 0\.25; weights on the simplex sum to 1"),
        (changed("matrices.0.teacher", None), r"matrices\.0\.teacher.*required"),
        (changed("matrices.0.config.training.epochs", None), r"matrices\.0\.config\.training\.epochs.*required"),
        (changed("matrices.0.unknown", 3), r"matrices\.0\.unknown.*not permitted"),
        (changed("matrices.0.weights.0.0", "x"), r"matrices\.0\.weights\.0\.0.*valid number"),
    ],
    ids=[
        "version",
        "version in words",
        "kind",
        "empty",
        "negative",
        "ragged",
        "shape",
        "epoch",
        "epoch's sum",
        "totals",
        "count",
        "sum",
        "missing",
        "deep",
        "unknown",
        "type",
    ],
)
def test_broken_export_is_named_in_one_line(
    exported: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    content = json.loads(exported.read_text())
    change(content)
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content))
    with pytest.raises(
        ExportError, match=rf"^{broken} is not an export of kd_hpo: .*{words}.*write it again with `kd-hpo export`$"
    ):
        load_export(broken)


@pytest.mark.parametrize("content", [b"", b"no json", b"[]", b"null", b"\xff\xfe", b'{"kind": "kd_hpo export"}', None])
def test_what_is_no_export_is_told_in_one_line(exported: Path, tmp_path: Path, content: bytes | None) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(exported.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ExportError, match=rf"^{broken} is not an export of kd_hpo: .+$"):
        load_export(broken)


def test_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.json cannot be read \(No such file or directory\)"):
        load_export(tmp_path / "none.json")
    with pytest.raises(ExportError, match=r"cannot be read \(Is a directory\)"):
        load_export(tmp_path)


def loads_or_tells(path: Path) -> None:
    try:
        assert load_export(path).matrices
    except ExportError as error:
        assert "\n" not in str(error)


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(content=st.binary(max_size=200))
def test_any_bytes_give_an_export_error_only(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fuzz.json").write_bytes(content)
    loads_or_tells(tmp_path / "fuzz.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@FUZZ
@given(data=st.data(), value=JSON)
def test_any_change_of_an_export_gives_an_export_error_only(
    exported: Path, tmp_path: Path, data: st.DataObject, value: Any
) -> None:
    """A walk down to some place of the file, where any JSON then stands."""
    content = json.loads(exported.read_text())
    node: Any = content
    while True:
        key = data.draw(st.sampled_from(range(len(node)) if isinstance(node, list) else sorted(node)))
        if not node[key] or not isinstance(node[key], dict | list) or data.draw(st.integers(0, 5)) == 0:
            break
        node = node[key]
    node[key] = value
    (tmp_path / "fuzz.json").write_text(json.dumps(content))
    loads_or_tells(tmp_path / "fuzz.json")


@FUZZ
@given(at=st.floats(0, 1), cut=st.integers(0, 40), put=st.binary(max_size=5))
def test_any_damage_gives_an_export_error_only(exported: Path, tmp_path: Path, at: float, cut: int, put: bytes) -> None:
    content = exported.read_bytes()
    start = int(at * len(content))
    (tmp_path / "fuzz.json").write_bytes(content[:start] + put + content[start + cut :])
    loads_or_tells(tmp_path / "fuzz.json")


def test_a_key_that_stands_twice_is_refused(exported: Path, tmp_path: Path) -> None:
    """Of the two, another reader may take the other one."""
    twice = exported.read_text().replace('"rank": 1,', '"rank": 1, "rank": 1,', 1)
    (tmp_path / "twice.json").write_text(twice)
    with pytest.raises(ExportError, match="the key 'rank' stands twice"):
        load_export(tmp_path / "twice.json")
