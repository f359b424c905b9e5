"""The exported file: its schema, its way back, and one error that names what is wrong with a broken one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd_hpo.config.pairs import NoPairs
from kd_hpo.errors import ExportError, StudyError
from kd_hpo.study.matrices.apply import applied_config, matrix_of_rank
from kd_hpo.study.matrices.export import SCHEMA, Export, export_study, load_export
from kd_hpo.study.store.folder import State, StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.trial.result import TOTAL, TrialResult
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import record, result_of

HELD = ((0.25, 0.25), (0.0, 0.25), (0.25, 0.0))

REGENERATE = """.venv/bin/python -c '
import json
from kd_hpo.study.matrices.export import SCHEMA, Export
SCHEMA.write_text(json.dumps(Export.model_json_schema(), indent=1, sort_keys=True) + "\\n")'"""


def add_trial(folder: StudyFolder, trial: str, result: TrialResult, state: State = "completed") -> None:
    spec = TrialSpec(id=trial, kind="search", method="learned", seed=3, settings={"kd.weight": 1.5})
    folder.write_status(TrialStatus(spec=spec, state=state))
    folder.write_records(trial, list(result.records))
    (folder.trial(trial) / "result.json").write_text(result.model_dump_json())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study of four trials, of which two have learned weights to the end."""
    study = digits_study(tmp_path_factory.mktemp("runs"))
    folder = StudyFolder.of(study)
    corner = ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    add_trial(folder, "trial-000", result_of([record(1, 0.8), record(2, 0.6)]))
    add_trial(folder, "trial-001", result_of([record(1, 0.5), record(2, 0.7, corner)]))
    add_trial(folder, "trial-002", result_of([record(1, 0.9)]), state="stopped")
    add_trial(folder, "ce-s0", result_of([record(1, 0.99, ())], digits_trial(weighting=NoPairs())))
    folder.write_run_id("trial-001", "run")
    folder.write_test_scores("trial-001", TestScores(last=0.4, best=0.5))
    path = folder.root / "out" / "lambda.json"
    export_study(study, folder, path, top=5)
    return path


def test_the_mean_over_held_epochs_is_exported_beside_the_last_matrix_and_applied(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder, corner = StudyFolder.of(study), ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    add_trial(folder, "trial-000", result_of([record(1, 0.5), record(2, 0.7, corner)]).replace(held_mean=HELD))
    (entry,) = export_study(study, folder, tmp_path / "lambda.json", top=1).matrices
    assert (entry.weights, entry.held_mean) == (corner, HELD)
    assert applied_config(entry, []).weighting.matrix == HELD  # type: ignore[union-attr]


def test_best_by_last_epoch_comes_first_and_the_way_back_is_whole(exported: Path) -> None:
    export = load_export(exported)
    assert [(entry.rank, entry.trial) for entry in export.matrices] == [(1, "trial-001"), (2, "trial-000")]
    best, second = export.matrices
    assert best.weights == best.held_mean == ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    assert [layer.name for layer in best.teacher_layers] == ["conv1", "conv2", "fc"]
    assert (best.mlflow_run_id, best.test, best.outer_settings) == ("run", TestScores(last=0.4, best=0.5), {"kd.weight": 1.5})
    assert (second.mlflow_run_id, second.test) == (None, None)
    assert second.metrics["val/accuracy"] == 0.6 and second.metrics["best/val/accuracy"] == 0.8
    variance = {"kind": "learned", "start": 0.7, "floor": 1e-3}
    assert best.pair_loss == {"name": "gaussian", "regressor": "linear", "variance": variance, "strength": 3.0}
    assert best.config == digits_trial()
    assert Export.model_validate_json(export.model_dump_json()) == export


def test_top_is_the_number_of_matrices(exported: Path, tmp_path: Path) -> None:
    root = exported.parent.parent
    study = digits_study(root.parent)
    assert [entry.trial for entry in export_study(study, StudyFolder(root), tmp_path / "one.json", top=1).matrices] == [
        "trial-001"
    ]


def test_study_that_learned_nothing_has_nothing_to_export(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    add_trial(StudyFolder.of(study), "trial-000", result_of([record(1, 0.9)]), state="stopped")
    with pytest.raises(
        StudyError, match=r"no completed trial of study 'small' has learned pair weights; see `kd-hpo resume small"
    ):
        export_study(study, StudyFolder.of(study), tmp_path / "out.json", top=1)
    assert not (tmp_path / "out.json").exists()


def test_schema_on_disk_is_the_model(exported: Path) -> None:
    expected = json.loads(json.dumps(Export.model_json_schema()))
    assert json.loads(SCHEMA.read_text()) == expected, f"the schema file is not that of the model; write it again:\n{REGENERATE}"


def test_export_is_valid_under_the_schema(exported: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    content = json.loads(exported.read_text(), parse_constant=pytest.fail)
    jsonschema.validate(content, schema)
    content["matrices"][0]["weights"][0][0] = -0.5
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_applied_trial_has_the_held_mean_and_the_layers(exported: Path) -> None:
    entry = matrix_of_rank(load_export(exported), 1)
    config = applied_config(entry, ("training.epochs=7",))
    assert config.training.epochs == 7
    assert config.weighting.model_dump() == {"kind": "fixed", "matrix": entry.held_mean}
    assert config.pairs.strength == entry.config.pairs.strength
    with pytest.raises(ExportError, match="the export has no matrix of rank 3; it has 1, 2"):
        matrix_of_rank(load_export(exported), 3)


def test_a_strength_that_was_learned_is_applied(exported: Path) -> None:
    entry = matrix_of_rank(load_export(exported), 1)
    learned = entry.replace(metrics=entry.metrics | {TOTAL: 0.4})
    assert applied_config(learned, ()).pairs.strength == pytest.approx(0.4 * entry.config.pairs.strength)


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
        (changed("schema_version", 2), r"schema_version.*1"),
        (changed("kind", "other"), r"kind.*kd_hpo export"),
        (changed("matrices", []), r"matrices.*at least 1"),
        (changed("matrices.0.weights.0.0", -0.5), r"matrices\.0\.weights\.0\.0.*greater than or equal to 0"),
        (changed("matrices.1.held_mean.1", [0.5]), r"matrices\.1.*held_mean is not 3 rows \(teacher layers\) of 2"),
        (changed("matrices.0.scales", [[1.0, 1.0]]), r"matrices\.0.*scales is not 3 rows"),
        (changed("matrices.0.weights.0.1", 0.25), r"matrices\.0.*weights sums to 0\.25; weights on the simplex sum to 1"),
        (changed("matrices.0.teacher", None), r"matrices\.0\.teacher.*required"),
        (changed("matrices.0.config.training.epochs", None), r"matrices\.0\.config\.training\.epochs.*required"),
        (changed("matrices.0.unknown", 3), r"matrices\.0\.unknown.*not permitted"),
        (changed("matrices.0.weights.0.0", "x"), r"matrices\.0\.weights\.0\.0.*valid number"),
    ],
    ids=["version", "kind", "empty", "negative", "ragged", "shape", "sum", "missing", "deep", "unknown", "type"],
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
