"""Commands that work on learned matrices: export, apply."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

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
    form: Literal["held", "replayed", "learned", "without"] | None = None,
    test: Annotated[bool, Parameter(negative=())] = False,
    folder: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    set_: Overrides = (),
    runs: Runs = Path("runs"),
    trust_paths: Annotated[bool, Parameter(negative=())] = False,
    output: Output = AS_USUAL,
) -> Result:
    """Train students with an exported matrix, in every form that it can have, and keep the one that is best on val.

    Parameters
    ----------
    export_file
        A file that `kd-hpo export` wrote.
    rank
        Which of its matrices; 1 is the best.
    form
        The only form to train: the matrix held from the start, or replayed as it was recorded, on the train and outer splits
        together, or lambda learned anew from what it started from; or without pairs. The best of the first three on val if not
        given, and of all four where the study's answer was no pairs.
    test
        Open the test split for the student that is kept; the export file counts how often that was done.
    folder
        The folder for the students' weights; RUNS/applied/STUDY-RANK if not given.
    set_
        A setting of the trials to replace, as a.b=value, such as training.epochs=100; may be given several times. Where a form is
        to be chosen, those of `weighting` act on the one that is learned.
    runs
        The folder whose cache holds data and teachers. One that you may not write is read, and what it lacks is made in the
        folder of --output.
    trust_paths
        Open whatever folders and files the export names. Without it, those below the working folder, those that --set names and
        those that the study of its name in the runs folder reads.
    """
    from kd_hpo.study.environment import prepare_environment

    prepare_environment()
    from kd_hpo.study.matrices.apply import apply as apply_export
    from kd_hpo.study.status_line import status_line
    from kd_hpo.study.store.export_file import load_export

    goal = load_export(export_file).matrices[0].config.task.goal
    with status_line(output.progress, each_time=output.verbose) as progress:
        applied = apply_export(
            export_file,
            rank=rank,
            form=form,
            test=test,
            overrides=set_,
            folder=folder,
            runs=runs,
            trust_paths=trust_paths,
            progress=progress,
            report=lambda each, r: progress(
                f"training the student ({each}): epoch {r.epoch}, {goal.name} on val {r.metrics[goal.on('val')]:.4f}"
            ),
        )
    if not applied.same_teacher:
        output.progress.print(Text("note: the teacher's weights are not those that the matrix was learned with", style="yellow"))
    document = applied.document()
    return Result(document, (*_forms_in_words(document, named=form is not None), *_ends_in_words(document)))


def _forms_in_words(document: dict[str, Any], *, named: bool) -> Iterator[str]:
    """What was chosen, and what each form reached on val after its last epoch."""
    reached = {form: each["last"]["val"] for form, each in document["forms"].items() if "last" in each}
    others = [f"{form} {val:.4f}" for form, val in reached.items() if form != document["form"]]
    beside = f"; {', '.join(others)}" if others else ""
    how = "as named" if named else "chosen on val"
    yield f"{how}: {document['form']}, val {reached[document['form']]:.4f} after the last epoch{beside}"
    for form, each in document["forms"].items():
        if "failed" in each:
            yield f"{form} has failed: {each['failed']}"


def _ends_in_words(document: dict[str, Any]) -> Iterator[str]:
    for end, words in (("last", "after epoch {epoch}: val {val:.4f}"), ("best", "best by val, epoch {epoch}: val {val:.4f}")):
        test = document[end]["test"]
        yield words.format(**document[end]) + (f", test {test:.4f}" if test is not None else "")
    count, record = document["test_opened"], document["test_opened_in"]
    times = {0: "never", 1: "once"}.get(count, f"{count} times")
    if document["last"]["test"] is None:
        yield f"the test split stays closed; --test opens it (so far {times}, says {record})"
    else:
        yield f"the test split was opened {times} for this export, says {record}"
    yield f"the student's weights: {document['weights']}"
