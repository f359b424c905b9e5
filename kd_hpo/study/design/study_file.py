"""Reads a study file: the settings, checked against the methods that there are, with exported matrices in their place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kd_hpo.config.load import read_study
from kd_hpo.config.methods import METHODS
from kd_hpo.config.read import replace_path
from kd_hpo.config.study import Method, StudyConfig
from kd_hpo.config.weightings import ExportedMatrix, FixedMatrix
from kd_hpo.config.wording import config_error
from kd_hpo.study.store.folder import StudyFolder


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The study of a YAML file after `a.b.c=value` overrides, as `kd-hpo run FILE --set a.b.c=value` reads it.

    A weighting of the kind `exported`, of the study or of a method's `set`, becomes the fixed matrix that its file holds.
    Raises ConfigError, one line for each mistake, and ExportError for a file that is no export.
    """
    study = read_study(Path(path), overrides, methods=METHODS)
    if isinstance(study.weighting, ExportedMatrix):
        study = replace_path(study, "weighting", fixed_matrix(study.weighting, study).model_dump())
    methods = [with_matrix(method, study) if isinstance(method, Method) else method for method in study.compare.methods]
    return replace_path(study, "compare.methods", methods) if methods != list(study.compare.methods) else study


def extended(folder: StudyFolder, overrides: Sequence[str]) -> StudyConfig:
    """The study of a folder with `a.b.c=value` overrides, for it to go on with; whether it may is for its driver to say.

    Raises ConfigError, one line for each mistake, and for another name or runs folder; StudyError where there is no study.
    """
    there = folder.read_settings()
    study = load_study(folder.settings, overrides).replace(runs=there.runs)
    given = [override.partition("=")[0].strip() for override in overrides]
    if wrong := [path for path in given if path in ("name", "runs")]:
        raise config_error(f"--set {wrong[0]}: a study goes on under its name, in its folder; leave it out")
    if not any(path == "search" or path.startswith("search.arms") for path in given):
        study = study.replace(search=study.search.replace(arms=there.search.arms).model_dump())  # an earlier version had none
    return study


def with_matrix(method: Method, study: StudyConfig) -> Method:
    """The method with the matrix in the place of an exported weighting. Raises ConfigError for a wrong one."""
    given: Any = method.set.get("weighting")
    if not isinstance(given, Mapping) or given.get("kind") != "exported":
        return method
    try:
        exported = ExportedMatrix.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise config_error(
            f"the weighting of method {method.name!r} is wrong at {'.'.join(map(str, first['loc']))}; "
            "give {kind: exported, path: FILE, rank: 1}"
        ) from error
    return method.replace(set=method.set | {"weighting": fixed_matrix(exported, study).model_dump()})


def fixed_matrix(exported: ExportedMatrix, study: StudyConfig) -> FixedMatrix:
    """The fixed matrix that an exported one stands for.

    Raises ConfigError where the file has no such rank, or matrices of other layers than the study names.
    """
    from kd_hpo.study.store.export_file import load_export

    try:
        export = load_export(exported.path.expanduser())
    except RuntimeError as error:
        raise config_error(f"{exported.path}: there is no such home; write the path in full") from error
    found = {matrix.rank: matrix for matrix in export.matrices}
    if exported.rank not in found:
        raise config_error(f"{exported.path} has no matrix of rank {exported.rank}; it has {', '.join(map(str, found))}")
    matrix = found[exported.rank]
    for whose, layers, records in (
        ("teacher", study.teacher.layers, matrix.teacher_layers),
        ("student", study.student.layers, matrix.student_layers),
    ):
        names = tuple(record.name for record in records)
        if layers != "auto" and not any("*" in layer for layer in layers) and tuple(layers) != names[: len(layers)]:
            raise config_error(
                f"{exported.path} is of the {whose} layers {', '.join(names)}, and the study has {', '.join(layers)}; "
                f"set {whose}.layers to those of the matrix"
            )
    return FixedMatrix(matrix=matrix.held_mean)
