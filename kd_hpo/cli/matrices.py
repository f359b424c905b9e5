"""Commands that work on learned matrices: export, apply."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from kd_hpo.cli.console import Overrides, Runs, out, runs_option, study_name


def export(
    study: str,
    /,
    *,
    top: int = 1,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write the best learned matrices of a study to one JSON file.

    Parameters
    ----------
    study
        Its name.
    top
        How many matrices, best first.
    output
        The file; STUDY-lambda.json if not given.
    runs
        The folder that holds the study.
    """
    from kd_hpo.errors import ConfigError
    from kd_hpo.study.export import export_study
    from kd_hpo.study.folder import StudyFolder

    if top < 1:
        raise ConfigError(f"--top is {top}; give a number of matrices, 1 or more")
    folder = StudyFolder(runs.absolute() / study_name(study))
    path = output or Path(f"{study}-lambda.json")
    written = export_study(folder.read_settings(), folder, path, top=top)
    settings = folder.read_settings()
    out.print(f"{len(written.matrices)} matrices of study {study} in {path}")
    out.print(f"apply the best one: kd-hpo apply {path}{runs_option(settings)}")


def apply(
    export_file: Path,
    /,
    *,
    rank: int = 1,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    set_: Overrides = (),
    runs: Runs = Path("runs"),
) -> None:
    """Train a student with an exported matrix, held fixed, on the train and outer splits together.

    Parameters
    ----------
    export_file
        A file that `kd-hpo export` wrote.
    rank
        Which of its matrices; 1 is the best.
    output
        The folder for the student's weights; RUNS/applied/STUDY-RANK if not given.
    set_
        A setting of the trial to replace, as a.b=value, such as training.epochs=100; may be given several times.
    runs
        The folder whose cache holds data and teachers.
    """
    from kd_hpo.study.environment import prepare_environment

    prepare_environment()
    from kd_hpo.study.apply import apply_matrix
    from kd_hpo.study.export import load_export
    from kd_hpo.study.telling import telling

    exported = load_export(export_file)
    folder = (output or runs / "applied" / f"{exported.study}-{rank}").absolute()
    with telling(out) as progress:
        applied = apply_matrix(
            exported,
            rank=rank,
            overrides=set_,
            folder=folder,
            cache=runs.absolute() / "cache",
            progress=progress,
            report=lambda r: progress(f"training the student: epoch {r.epoch}, accuracy on val {r.metrics['val/accuracy']:.4f}"),
        )
    if not applied.same_teacher:
        out.print(Text("note: the teacher's weights are not those that the matrix was learned with", style="yellow"))
    last, best = applied.result.last, applied.result.best
    out.print(f"after epoch {last.epoch}: val {last.metrics['val/accuracy']:.4f}, test {applied.test.last:.4f}")
    out.print(f"best by val, epoch {best.epoch}: val {best.metrics['val/accuracy']:.4f}, test {applied.test.best:.4f}")
    out.print(f"the student's weights: {applied.weights}")
