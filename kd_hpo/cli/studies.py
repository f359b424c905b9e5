"""Commands that work on a whole study: run, compare, resume, teacher."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kd_hpo.cli.console import AS_USUAL, Address, Output, Overrides, Result, Runs, StudyName, err, out, runs_option, study_name

if TYPE_CHECKING:
    from kd_hpo.config.study import StudyConfig
    from kd_hpo.study.store.folder import StudyFolder


def run(study_file: Path, /, *, address: Address = None, set_: Overrides = (), output: Output = AS_USUAL) -> Result:
    """Run a study: teacher, search with learned lambda, comparison of methods, test, export.

    Parameters
    ----------
    study_file
        A YAML file, such as studies/digits.yaml.
    set_
        A setting of the file to replace, as a.b=value; may be given several times.
    """
    from kd_hpo.study.design.study_file import load_study

    return run_and_tell(at_address(load_study(study_file, set_), address), output)


def compare(
    study_file: Path,
    /,
    *,
    methods: str | None = None,
    seeds: int | None = None,
    tune: int | None = None,
    address: Address = None,
    set_: Overrides = (),
    output: Output = AS_USUAL,
) -> Result:
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
    from kd_hpo.study.design.study_file import load_study
    from kd_hpo.study.run.compare import NO_SEARCH, comparing

    names = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    study = comparing(load_study(study_file, (*set_, NO_SEARCH)), names, seeds=seeds, tune=tune)
    return run_and_tell(at_address(study, address), output)


def resume(
    study: StudyName,
    /,
    *,
    address: Address = None,
    runs: Runs = Path("runs"),
    retry_failed: bool = False,
    set_: Overrides = (),
    output: Output = AS_USUAL,
) -> Result:
    """Continue a study that was interrupted; what has ended is not run again. Writes what MLflow lacks of it, too.

    Parameters
    ----------
    study
        Its name.
    runs
        The folder that holds it.
    retry_failed
        Run trials that failed again, from their start. What they left is kept in the study's folder, under set_aside.
    set_
        A setting to extend the study by, as a.b=value: methods and seeds of the comparison, repeats, resources; until the
        comparison begins, more trials of the search, and another budget. May be given several times.
    """
    from kd_hpo.study.store.folder import StudyFolder

    folder = StudyFolder(runs.absolute() / study_name(study))
    settings = folder.read_settings()
    if set_:
        from kd_hpo.study.design.study_file import extended

        settings = extended(folder, set_)
    return run_and_tell(at_address(settings, address), output, again=retry_failed)


def teacher(study_file: Path, /, *, set_: Overrides = (), output: Output = AS_USUAL) -> Result:
    """Train a study's teacher, unless the cache has it, and say how good it is and where its weights are.

    Parameters
    ----------
    study_file
        A YAML file, such as studies/digits.yaml.
    set_
        A setting of the file to replace, as a.b=value; may be given several times.
    """
    from kd_hpo.study.design.study_file import load_study
    from kd_hpo.study.status_line import status_line
    from kd_hpo.study.store.folder import StudyFolder
    from kd_hpo.trial.data import load_data
    from kd_hpo.trial.parts import plan_before_training, prepare_teacher

    study = load_study(study_file, set_)
    cache = StudyFolder.of(study).cache
    with status_line(output.progress, each_time=output.verbose) as progress:
        batches, splits = load_data(study.trial(), cache, progress)
        plan_before_training(study.trial(), batches, cache)  # layers that do not exist are told before
        trained = prepare_teacher(study.trial(), batches, splits, cache, progress)
    given = "".join(f" --set {shlex.quote(override)}" for override in set_)
    network, reached, images = study.teacher.network.name, trained.val.value, len(splits.val)
    return Result(
        {
            "network": network,
            "val": reached,
            "val_images": images,
            "metrics": dict(trained.val.metrics),
            "reads": str(trained.reads),
            "weights": trained.weights,
        },
        (
            f"{network}: {study.task.goal.name} on val {reached:.4f} ({images} images)",
            f"it reads {trained.reads}",
            f"its weights: {trained.weights or 'as the network comes'}",
        ),
        (f"every study with this teacher finds them there; next: kd-hpo run {shlex.quote(str(study_file))}{given}",),
    )


def at_address(study: "StudyConfig", address: str | None) -> "StudyConfig":
    if address is None:
        return study
    from kd_hpo.config.read import replace_path

    return replace_path(study, "resources.address", address)


def run_and_tell(study: "StudyConfig", output: Output, *, again: bool = False) -> Result:
    from kd_hpo.study.environment import prepare_environment

    prepare_environment()
    if study.resources.address.startswith("ray://"):
        from kd_hpo.study.cluster.client import run_on_head

        sys.exit(run_on_head(study, output.options, out))
    from kd_hpo.study.status_line import status_line

    with status_line(output.progress) as progress:
        progress("starting")  # what is imported now takes seconds
        from kd_hpo.study.report.summary import render, render_repeated
        from kd_hpo.study.results.findings import read_findings
        from kd_hpo.study.run.driver import run_study
        from kd_hpo.study.run.phase import Interrupted
        from kd_hpo.study.store.folder import StudyFolder
    try:
        summary = run_study(study, output.progress, verbose=output.verbose, again=again)
    except (Interrupted, KeyboardInterrupt) as stopped:
        err.print(
            f"{str(stopped) or 'stopped'}. What had ended is kept; continue with: kd-hpo resume {study.name}{runs_option(study)}"
        )
        sys.exit(130)
    folder = StudyFolder.of(study)
    exported = folder.export.is_file()  # a study of other methods has learned no matrix
    files = {suffix: folder.comparison(suffix) for suffix in ("csv", "json", "png")}
    files |= {"lambda": folder.export} if exported else {}
    if summary.repeated:
        files |= {f"repeats_{suffix}": folder.root / f"repeats.{suffix}" for suffix in ("csv", "json")}
    repeated = ("", render_repeated(summary.repeated, out.width)) if summary.repeated else ()
    return Result(
        read_findings(folder).document() | {"files": files, "mlflow": summary.link},
        ("", render(summary.comparison, summary.learned, out.width), *repeated),
        ("", *_where(study, folder, summary.link, exported=exported)),
    )


def _where(study: "StudyConfig", folder: "StudyFolder", link: str, *, exported: bool) -> list[str]:
    """Where all is that a study has made, and what to do with it."""
    option = runs_option(study)
    lines = [f"The best matrix, as JSON: {folder.export}"] if exported else []
    lines += [
        f"The comparison, a row a method: {folder.comparison('csv')}, with every seed in .json, as a picture in .png",
        f"Trials, weights, settings: {folder.root}",
        f"Every trial in MLflow: {link}",
        "",
        "Next:",
        f"  kd-hpo ui{option}    browse the trials and their matrices at the address above",
        f"  kd-hpo report {study.name}{option}    the findings of the study in one page to send to a colleague",
    ]
    if exported:
        lines.append(f"  kd-hpo export {study.name} --top 3{option}    the three best matrices in one file")
        lines.append(f"  kd-hpo apply {shlex.quote(str(folder.export))}{option}    train a student with the best matrix")
    return lines
