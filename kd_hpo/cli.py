"""The kd-hpo command: parse, call, print, exit code. Heavy imports wait until a command needs them."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.text import Text

from kd_hpo.errors import KdHpoError

if TYPE_CHECKING:
    from kd_hpo.config.study import StudyConfig
    from kd_hpo.study.summary import Summary

app = App(name="kd-hpo", help="Learn which teacher layer should teach which student layer, and how much.")
out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)

Overrides = Annotated[tuple[str, ...], Parameter(name="--set", negative=())]
Runs = Annotated[Path, Parameter(env_var="KD_HPO_RUNS")]


@app.command
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


@app.command
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


@app.command
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

    run_and_tell(StudyFolder(runs.absolute() / _name(study)).read_settings())


@app.command
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


@app.command
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
    folder = StudyFolder(runs.absolute() / _name(study))
    path = output or Path(f"{study}-lambda.json")
    written = export_study(folder.read_settings(), folder, path, top=top)
    settings = folder.read_settings()
    out.print(f"{len(written.matrices)} matrices of study {study} in {path}")
    out.print(f"apply the best one: kd-hpo apply {path}{_runs_option(settings)}")


@app.command
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


@app.command
def layers(
    network: str,
    /,
    *,
    input_: Annotated[str, Parameter(name="--input")] = "3x32x32",
    classes: int = 10,
    arguments: str = "{}",
    depth: int | None = None,
    all_: Annotated[bool, Parameter(name="--all", negative=())] = False,
) -> None:
    """Show the layers of a network, and which ones `layers: auto` takes (*).

    FLOPs are those of one image from the start to the end of the layer.

    Parameters
    ----------
    network
        A name that `kd-hpo networks` lists, or package.module:callable.
    input_
        Channels x height x width of an image.
    classes
        How many logits.
    arguments
        The network's own, as a YAML mapping, such as '{depth: 20}'.
    depth
        How many names between dots a layer may have; if not given, as many as keep the table short.
    all_
        Show every layer.
    """
    from kd_hpo.study.show_layers import show_layers

    show_layers(network, input_, classes, arguments, depth, all_, out)


@app.command
def networks(pattern: str = "", /) -> None:
    """List the networks that a study can name, by where they come from.

    Parameters
    ----------
    pattern
        A part of a name, or a glob such as 'timm/resnet*'.
    """
    from kd_hpo.nets.network_list import networks_like

    for source, names in networks_like(pattern).items():
        told = names if pattern or len(names) <= 100 else [f"kd-hpo networks {source}/ lists them"]
        out.print(Text(f"{source}: {len(names)}", style="bold"))
        out.print(Text("\n".join(f"  {name}" for name in told)))


@app.command
def ui(*, runs: Runs = Path("runs"), port: int = 5000) -> None:
    """Open MLflow on the runs of this folder, on this machine only.

    Parameters
    ----------
    runs
        The folder that holds the studies.
    port
        Where to listen on 127.0.0.1.
    """
    from kd_hpo.errors import StudyError
    from kd_hpo.study.environment import prepare_environment, require_free_port

    database = runs.absolute() / "mlflow.db"
    if not database.is_file():
        raise StudyError(f"there is no {database}; run a study first, or give its folder with --runs")
    require_free_port(port)
    prepare_environment()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    out.print(f"MLflow on http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning (stop it with Ctrl-C)")
    sys.stdout.flush()
    server = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [*server, "--backend-store-uri", f"sqlite:///{database}"])


def run_and_tell(study: "StudyConfig") -> None:
    from kd_hpo.study.environment import prepare_environment

    prepare_environment()
    from kd_hpo.study.run import Interrupted, run_study

    try:
        summary = run_study(study, out)
    except (Interrupted, KeyboardInterrupt) as stopped:
        err.print(
            f"{str(stopped) or 'stopped'}. What had ended is kept; continue with: kd-hpo resume {study.name}{_runs_option(study)}"
        )
        sys.exit(130)
    _tell_results(study, summary)


def _tell_results(study: "StudyConfig", summary: "Summary") -> None:
    from kd_hpo.study.folder import StudyFolder
    from kd_hpo.study.summary import render

    folder, option = StudyFolder.of(study), _runs_option(study)
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


def _runs_option(study: "StudyConfig") -> str:
    return "" if study.runs == Path("runs").absolute() else f" --runs {study.runs}"


def _name(study: str) -> str:
    """A study's name cannot leave the runs folder. Raises ConfigError for one that could."""
    from pydantic import TypeAdapter, ValidationError

    from kd_hpo.config.study import Name
    from kd_hpo.errors import ConfigError

    try:
        return str(TypeAdapter(Name).validate_python(study))
    except ValidationError as error:
        raise ConfigError(f"{study!r} is no name of a study; names are letters, digits, '.', '_' and '-', 64 at most") from error


def main() -> None:
    """Exit codes: 0 done, 1 an error that the last line names, 2 a command that cannot be understood, 130 interrupted."""
    try:
        app(exit_on_error=False)
    except CycloptsError:
        sys.exit(2)
    except KdHpoError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename2 or error.filename}: {error.strerror}; give a place that can be read and written")


def _fail(words: str) -> None:
    err.print(Text(f"error: {words}", style="red"))
    sys.exit(1)
