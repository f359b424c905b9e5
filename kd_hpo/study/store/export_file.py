"""The file of exported matrices, read with every mistake named: `kd-hpo export` writes it, and `kd-hpo apply` takes it."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, ValidationError, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import TaggedUnionSchema

from kd_hpo.config.json_source import SaidTwice, require_keys_once
from kd_hpo.config.search import ArmName
from kd_hpo.config.settings import Settings
from kd_hpo.config.study import Name
from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.wording import one_line
from kd_hpo.errors import ExportError
from kd_hpo.study.store.folder import TestScores
from kd_hpo.trial.result import LayerRecord, Rows

Matrix = Annotated[tuple[Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)], ...], Field(min_length=1)]
SCHEMA = Path(__file__).with_name("export.schema.json")
VERSION: Final = 3
"""Of what is written. 1 had no trajectory and no count, 2 no answer of arms; both are read."""
_TOLERANCE = 1e-3
MAX_BYTES = 2**26
"""Of a file: thousands of matrices of networks with a hundred layers each."""


class ExportedTeacher(Settings):
    network: str
    weights_sha256: str
    val_accuracy: float
    """The value of the task's metric on `val`, of whichever task."""


class ExportedMatrix(Settings):
    """One trial's learned weights, and all that is needed to know where they come from and to use them."""

    rank: int
    """1 is the best of the study after the last epoch, by what its search goes by: the task's metric, its loss, or agreement."""
    trial: str
    method: str
    seed: int
    weights: Matrix
    """lambda (T, S) at the end of the trial, sum 1: rows are teacher layers, columns student layers."""
    held_mean: Matrix
    """Its mean over the epochs in which it was held still."""
    trajectory: tuple[Matrix, ...] = ()
    """lambda (T, S) at the end of each epoch of the trial; empty in exports of schema version 1. What it started from, where that
    was no uniform matrix, is `config.weighting.start`."""
    totals: tuple[PositiveFloat, ...] = ()
    """What the strength of the pairs was multiplied by in each epoch, where it was learned beside lambda; empty stands for 1."""
    updates: int | None = None
    """How often lambda was updated in the trial; null in exports of earlier versions."""
    from_uniform: float | None = None
    """How far `held_mean` is from equal weights: half the sum of the differences, 0 for uniform, near 1 for one pair of many."""
    t_values: Rows = ()
    """(T, S): how many standard errors each pair's help stood above the middle one's at the end, 0 where nothing is known; empty
    where lambda did not move on evidence, and in exports of earlier versions."""
    scales: Matrix
    """(T, S): what each pair's gradient was last multiplied by, beside the total strength and lambda."""
    teacher_layers: tuple[LayerRecord, ...]
    student_layers: tuple[LayerRecord, ...]
    teacher: ExportedTeacher
    student: str
    pair_loss: dict[str, Any]
    outer_settings: dict[str, Any]
    """The searched settings, by their dotted path."""
    metrics: dict[str, float]
    """After the last epoch; `best/val/...` is the task's metric of the best epoch, as `best/val/accuracy`."""
    test: TestScores | None
    split_digests: dict[str, str]
    data_digest: str
    mlflow_run_id: str | None = None
    """The trial's run, where MLflow tracks the study."""
    versions: dict[str, str]
    config: TrialConfig

    @model_validator(mode="after")
    def _fits(self) -> "ExportedMatrix":
        shape = len(self.teacher_layers), len(self.student_layers)
        on_simplex = {"weights": self.weights, "held_mean": self.held_mean}
        on_simplex |= {f"trajectory.{epoch}": matrix for epoch, matrix in enumerate(self.trajectory)}
        others = {"scales": self.scales} | ({"t_values": self.t_values} if self.t_values else {})
        for name, matrix in {**on_simplex, **others}.items():
            if (len(matrix), *{len(row) for row in matrix}) != shape:
                raise ValueError(f"{name} is not {shape[0]} rows (teacher layers) of {shape[1]} (student layers)")
        for name, matrix in on_simplex.items():
            total = sum(map(sum, matrix))
            if abs(total - 1) > _TOLERANCE:
                raise ValueError(f"{name} sums to {total:.6g}; weights on the simplex sum to 1")
        if self.totals and len(self.totals) != len(self.trajectory):
            raise ValueError(f"totals has {len(self.totals)} numbers for a trajectory of {len(self.trajectory)} epochs")
        return self


class ExportedAnswer(Settings):
    """The arm that the study's search has come to: its trials' matrices are the first of the file, where it has pairs."""

    arm: ArmName
    learns: bool
    """Whether lambda moves in it; where it does not, the arm is a control, and its matrix is held."""
    seeds: int
    """Of the race of the arms; 0 where there was none."""
    ahead: float | None
    """The best arm that learns lambda less the best control, of the task's metric on `val`, over these seeds: what there was to
    find; null where it is not known."""
    error: float | None
    """Its standard error; null of fewer than two seeds."""
    learning: ArmName | None
    control: ArmName | None


class Export(Settings):
    """The best matrices of a study, best first: learned ones, and those that its answer holds."""

    kind: Literal["kd_hpo export"] = "kd_hpo export"
    schema_version: Literal[1, 2, 3] = VERSION
    study: Name
    created: str
    test_opened: NonNegativeInt = 0
    """How often `kd-hpo apply --test` has opened the test split for a student of this file."""
    answer: ExportedAnswer | None = None
    """Null where the search had no arms, and in exports of earlier versions."""
    matrices: Annotated[tuple[ExportedMatrix, ...], Field(min_length=1)]


class _AnyOfKinds(GenerateJsonSchema):
    """Where a kind may go without saying, more than one may fit: then the default is meant."""

    def tagged_union_schema(self, schema: TaggedUnionSchema) -> JsonSchemaValue:
        found = super().tagged_union_schema(schema)
        return {"anyOf" if name == "oneOf" else name: value for name, value in found.items()}


def json_schema() -> dict[str, Any]:
    """Gives the JSON schema of exports, which SCHEMA has."""
    return Export.model_json_schema(schema_generator=_AnyOfKinds)


def load_export(path: Path) -> Export:
    """Reads and checks a file that `kd-hpo export` wrote: the best matrices (T, S) of a study, best first.

    Nothing of the file is run. Raises ExportError that says what is wrong and where.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportError(f"{path} cannot be read ({reason}); give a file that `kd-hpo export` wrote") from error
    if len(content) > MAX_BYTES:
        raise ExportError(f"{path} has more than {MAX_BYTES} bytes, the most that an export may have; export fewer matrices")
    try:
        require_keys_once(content)
        return Export.model_validate_json(content)
    except SaidTwice as error:
        raise ExportError(one_line(f"{path} is not an export of kd_hpo: {error}; write it again with `kd-hpo export`")) from error
    except ValidationError as error:
        if newer := _newer_version(error):
            raise ExportError(
                f"{path} is an export of schema version {newer}, and this kd_hpo reads those up to {VERSION}; install a newer one"
            ) from error
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ExportError(
            one_line(f"{path} is not an export of kd_hpo: {where}: {first['msg']}{more}; write it again with `kd-hpo export`")
        ) from error


def _newer_version(error: ValidationError) -> int | None:
    """The schema version of a file that a later kd_hpo wrote; None where that is not what is wrong."""
    given = [each["input"] for each in error.errors(include_url=False) if each["loc"] == ("schema_version",)]
    return next((version for version in given if type(version) is int and version > VERSION), None)
