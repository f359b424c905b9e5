"""What can be made of an exported matrix: a student of a trial in which lambda is held, replayed or learned anew."""

from collections.abc import Iterator, Mapping, Sequence
from shlex import quote
from typing import Any, Literal

from kd_hpo.config.read import validated
from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.weightings import FixedMatrix, Matrix, NoPairs, ReplayedMatrices
from kd_hpo.errors import ExportError
from kd_hpo.nets.features import LOGITS
from kd_hpo.study.store.export_file import Export, ExportedMatrix
from kd_hpo.trial.result import TOTAL

Form = Literal["held", "replayed", "learned", "without"]
"""held: the matrix, from the first step on; replayed: the matrix of each epoch in its turn, as it was recorded; learned: lambda
learned anew, from what it started from and with the settings that it was learned with; without: no pairs at all."""
FORMS: tuple[Form, ...] = ("held", "replayed", "learned")
"""Of two that are equally good on `val`, the earlier one is taken."""
UNSEEN = 1_000_000
"""What is added to the seed of the trial: no trial of a study has that seed. The trial was the best of several at its own, for
which chance is one reason, and who learns anew at that seed is as good once more whether or not it is any good."""


def matrix_of_rank(export: Export, rank: int) -> ExportedMatrix:
    for entry in export.matrices:
        if entry.rank == rank:
            return entry
    raise ExportError(f"the export has no matrix of rank {rank}; it has {', '.join(str(e.rank) for e in export.matrices)}")


def forms_of(entry: ExportedMatrix, form: Form | None = None, *, without: bool = False) -> tuple[Form, ...]:
    """Tells which forms the export holds what they need for; the named one alone, where one is named.

    without  whether no pairs at all are to be tried too, as where they are the study's answer
    Raises ExportError for one that is not to be had.
    """
    lacking: dict[Form, str] = {}
    if not entry.trajectory:
        lacking["replayed"] = "it holds no trajectory, as those that earlier versions wrote; write it again with `kd-hpo export`"
    if entry.config.weighting.learning is None:
        lacking["learned"] = "lambda was not learned in its trial"
        if len(set(entry.trajectory)) == 1:
            lacking["replayed"] = "its weights were held from the first epoch to the last"
    there = tuple(each for each in FORMS if each not in lacking)
    if form is None:
        return (*there, "without") if without else there
    if form not in (*FORMS, "without"):
        raise ExportError(f"there is no form {form!r}; there are {', '.join((*FORMS, 'without'))}")
    if form in lacking:
        raise ExportError(f"the export cannot be {form}: {lacking[form]}; it can be {' or '.join(there)}")
    return (form,)


def configs_of(
    entry: ExportedMatrix, overrides: Sequence[str], form: Form | None = None, *, without: bool = False
) -> dict[Form, TrialConfig]:
    """Makes the trial of each form that `forms_of` gives.

    Where one is to be chosen, settings of `weighting` are those of `learned`. Raises ConfigError or ExportError as
    `applied_config` does.
    """
    forms = forms_of(entry, form, without=without)
    of_lambda = [each for each in overrides if _path(each).partition(".")[0] == "weighting"]
    others = [each for each in overrides if each not in of_lambda]
    spared = of_lambda if len(forms) > 1 and "learned" in forms else []
    return {each: applied_config(entry, others if spared and each != "learned" else overrides, each) for each in forms}


def applied_config(entry: ExportedMatrix, overrides: Sequence[str], form: Form = "held") -> TrialConfig:
    """Makes the trial that a matrix was learned in anew: its layers, lambda as the form says, a seed of its own; then overrides.

    Raises ExportError where the file names code that no override names, ConfigError for settings that are not accepted.
    """
    data = entry.config.model_dump(mode="json")
    refuse_code(data, overrides)
    data["seed"] += UNSEEN
    if form == "held":
        data["weighting"] = FixedMatrix(matrix=entry.held_mean).model_dump(mode="json")
        data["pairs"]["strength"] *= entry.metrics.get(TOTAL, 1.0)  # where it was learned beside the matrix
    elif form == "without":
        data["weighting"] = NoPairs().model_dump(mode="json")
    elif form == "replayed":
        data["weighting"] = replayed(entry, entry.config.training.epochs).model_dump(mode="json")
    teaches = data["assistants"][-1] if data["assistants"] else data["teacher"]
    teaches["layers"] = [layer.name for layer in entry.teacher_layers if layer.name != LOGITS]
    data["student"]["layers"] = [layer.name for layer in entry.student_layers if layer.name != LOGITS]
    config = validated(TrialConfig, data, overrides, name="the export's configuration")
    if isinstance(config.weighting, ReplayedMatrices) and config.training.epochs != len(entry.trajectory):
        return config.replace(weighting=replayed(entry, config.training.epochs).model_dump())
    return config


def replayed(entry: ExportedMatrix, epochs: int) -> ReplayedMatrices:
    """Stretches the recorded trajectory to so many epochs: each has the matrix of the same share of the recorded trial."""
    recorded, totals = len(entry.trajectory), entry.totals or (1.0,) * len(entry.trajectory)
    start = entry.config.weighting.learning.start if entry.config.weighting.learning else None
    after = [round(recorded * epoch / epochs) for epoch in range(1, epochs + 1)]  # so many epochs of the record
    first = start or _equal(entry)
    return ReplayedMatrices(
        matrices=tuple(entry.trajectory[done - 1] if done else first for done in after),
        totals=tuple(totals[done - 1] if done else 1.0 for done in after),
        start=start,
    )


def _equal(entry: ExportedMatrix) -> Matrix:
    return tuple((1.0,) * len(row) for row in entry.held_mean)


def refuse_code(data: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Checks that the file names no code to import that the user has not named too: no file runs code by itself.

    Raises ExportError where it does.
    """
    given = [_path(override) for override in overrides]
    for path, reference in _named_code(data):
        if not any(path == start or path.startswith(f"{start}.") for start in given):
            raise ExportError(
                f"the export names code to run, {path} = {reference!r}, and a file may not run code by itself. "
                f"If you trust it, name it yourself: --set {quote(f'{path}={reference}')}"
            )


def _path(override: str) -> str:
    return override.partition("=")[0].strip()


def _named_code(data: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every `package.module:callable` in the settings, wherever one may stand, with its dotted path."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            here = f"{path}.{key}".lstrip(".")
            if isinstance(value, str) and (key == "callable" or (key == "name" and ":" in value)):
                yield here, value
            yield from _named_code(value, here)
    elif isinstance(data, Sequence) and not isinstance(data, str):
        for index, value in enumerate(data):
            yield from _named_code(value, f"{path}.{index}")
