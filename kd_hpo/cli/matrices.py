"""Commands that work on learned matrices: export, apply."""

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from kd_hpo.cli.console import AS_USUAL, Output, Overrides, Result, Runs, StudyName, runs_option, study_name


def export(
    study: StudyName,
    /,
    *,
    top: int = 1,
    file: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    runs: Runs = Path("runs"),
    output: Output = AS_USUAL,
) -> Result:
    """Write the best learned matrices of a study to one JSON file.

    Parameters
    ----------
    study
        Its name.
    top
        How many matrices, best first by what the search went by.
    file
        The file; STUDY-lambda.json if not given.
    runs
        The folder that holds the study.
    """
    from kd_hpo.errors import ConfigError
    from kd_hpo.study.matrices.export import export_study
    from kd_hpo.study.store.folder import StudyFolder

    if top < 1:
        raise ConfigError(f"--top is {top}; give a number of matrices, 1 or more")
    folder = StudyFolder(runs.absolute() / study_name(study))
    path = file or Path(f"{study}-lambda.json")
    settings = folder.read_settings()
    written, metric = export_study(settings, folder, path, top=top), settings.task.goal.on("val")
    matrices = [{"rank": each.rank, "trial": each.trial, metric: each.metrics[metric]} for each in written.matrices]
    return Result(
        {"study": study, "file": path.absolute(), "matrices": matrices},
        (f"{len(matrices)} matrices of study {study} in {path}",),
        (f"apply the best one: kd-hpo apply {shlex.quote(str(path))}{runs_option(settings)}",),
    )


def apply(
    export_file: Path,
    /,
    *,
    rank: int = 1,
    folder: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    set_: Overrides = (),
    runs: Runs = Path("runs"),
    output: Output = AS_USUAL,
) -> Result:
    """Train a student with an exported matrix, held fixed, on the train and outer splits together.

    Parameters
    ----------
    export_file
        A file that `kd-hpo export` wrote.
    rank
        Which of its matrices; 1 is the best.
    folder
        The folder for the student's weights; RUNS/applied/STUDY-RANK if not given.
    set_
        A setting of the trial to replace, as a.b=value, such as training.epochs=100; may be given several times.
    runs
        The folder whose cache holds data and teachers.
    """
    from kd_hpo.study.environment import prepare_environment

    prepare_environment()
    from kd_hpo.study.matrices.apply import apply_matrix
    from kd_hpo.study.status_line import status_line
    from kd_hpo.study.store.export_file import load_export

    exported = load_export(export_file)
    goal = exported.matrices[0].config.task.goal
    metric = goal.on("val")
    with status_line(output.progress, each_time=output.verbose) as progress:
        applied = apply_matrix(
            exported,
            rank=rank,
            overrides=set_,
            folder=(folder or runs / "applied" / f"{exported.study}-{rank}").absolute(),
            cache=runs.absolute() / "cache",
            progress=progress,
            report=lambda r: progress(f"training the student: epoch {r.epoch}, {goal.name} on val {r.metrics[metric]:.4f}"),
        )
    if not applied.same_teacher:
        output.progress.print(Text("note: the teacher's weights are not those that the matrix was learned with", style="yellow"))
    last, best = applied.result.last, applied.result.best
    ends = {
        "last": {"epoch": last.epoch, "val": last.metrics[metric], "test": applied.test.last},
        "best": {"epoch": best.epoch, "val": best.metrics[metric], "test": applied.test.best},
    }
    return Result(
        ends | {"weights": applied.weights, "same_teacher": applied.same_teacher},
        (
            "after epoch {epoch}: val {val:.4f}, test {test:.4f}".format(**ends["last"]),
            "best by val, epoch {epoch}: val {val:.4f}, test {test:.4f}".format(**ends["best"]),
            f"the student's weights: {applied.weights}",
        ),
    )
