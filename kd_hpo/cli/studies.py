"""Commands that work on a whole study: run, compare, resume, teacher."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from kd_hpo.cli.console import Overrides, Runs, err, out, runs_option, study_name

if TYPE_CHECKING:
    from kd_hpo.config.study import StudyConfig
    from kd_hpo.study.summary import Summary


def run(study_file: Path, /, *, set_: Overrides = ()) -> None:
    """Run a study: teacher, search with learned lambda, comparison of methods, test, export.

    Parameters
    ----------
    study_file
        A YAML file, such as studies/digits.yaml.
    set_
        A setting of the file to replace, as a.b=value; may be given several times.
    """
    from kd_hpo.study.read import load_study

    run_and_tell(load_study(study_file, set_))


def compare(
    study_file: Path, /, *, methods: str | None = None, seeds: int | None = None, tune: int | None = None, set_: Overrides = ()
) -> None:
    """Compare methods, without a search before: the same splits, steps and seeds for all, then the test split and a table.

    Parameters
    ----------
    study_file
        A YAML file, such as studies/digits.yaml.
    methods
        Their names with commas between them, such as ce,kd,vid; those of the file if not given.
    seeds
        How many repetitions.
    tune
        Trials of a search of its own for each method, before; 0 takes the settings of the file.
    set_
        A setting of the file to replace, as a.b=value; may be given several times.
    """
    from kd_hpo.study.compare import NO_SEARCH, comparing
    from kd_hpo.study.read import load_study

    names = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    run_and_tell(comparing(load_study(study_file, (*set_, NO_SEARCH)), names, seeds=seeds, tune=tune))


def resume(study: str, /, *, runs: Runs = Path("runs")) -> None:
    """Continue a study that was interrupted; what has ended is not run again.

    Parameters
    ----------
    study
        Its name.
    runs
        The folder that holds it.
    """
    from kd_hpo.study.folder import StudyFolder

    run_and_tell(StudyFolder(runs.absolute() / study_name(study)).read_settings())


def teacher(study_file: Path, /, *, set_: Overrides = ()) -> None:
    """Train a study's teacher, unless the cache has it, and say how good it is and where its weights are.

    Parameters
    ----------
    study_file
        A YAML file, such as studies/digits.yaml.
    set_
        A setting of the file to replace, as a.b=value; may be given several times.
    """
    from kd_hpo.study.folder import StudyFolder
    from kd_hpo.study.read import load_study
    from kd_hpo.study.telling import telling
    from kd_hpo.trial.prepare import load_data, plan_before_training, prepare_teacher

    study = load_study(study_file, set_)
    cache = StudyFolder.of(study).cache
    with telling(out) as progress:
        batches, splits = load_data(study.trial(), cache, progress)
        plan_before_training(study.trial(), batches)  # layers that do not exist are told before
        trained = prepare_teacher(study.trial(), batches, splits, cache, progress)
    out.print(f"{study.teacher.network.name}: accuracy on val {trained.val.accuracy:.4f} ({len(splits.val)} images)")
    out.print(f"its weights: {trained.weights or 'as the network comes'}")
    given = "".join(f" --set {shlex.quote(override)}" for override in set_)
    out.print(f"every study with this teacher finds them there; next: kd-hpo run {study_file}{given}")


def run_and_tell(study: "StudyConfig") -> None:
    from kd_hpo.study.environment import prepare_environment

    prepare_environment()
    from kd_hpo.study.run import Interrupted, run_study

    try:
        summary = run_study(study, out)
    except (Interrupted, KeyboardInterrupt) as stopped:
        err.print(
            f"{str(stopped) or 'stopped'}. What had ended is kept; continue with: kd-hpo resume {study.name}{runs_option(study)}"
        )
        sys.exit(130)
    _tell_results(study, summary)


def _tell_results(study: "StudyConfig", summary: "Summary") -> None:
    from kd_hpo.study.folder import StudyFolder
    from kd_hpo.study.summary import render

    folder, option = StudyFolder.of(study), runs_option(study)
    out.print(Text(), render(summary, out.width), Text())
    exported = folder.export.is_file()  # a study of other methods has learned no matrix
    if exported:
        out.print(f"The best matrix, as JSON: {folder.export}")
    out.print(f"The comparison, a row a method: {folder.comparison('csv')}, with every seed in .json, as a picture in .png")
    out.print(f"Trials, weights, settings: {folder.root}")
    out.print(f"Every trial in MLflow: {summary.link}")
    out.print("\nNext:")
    out.print(f"  kd-hpo ui{option}    browse the trials and their matrices at the address above")
    if exported:
        out.print(f"  kd-hpo export {study.name} --top 3{option}    the three best matrices in one file")
        out.print(f"  kd-hpo apply {folder.export}{option}    train a student with the best matrix")
