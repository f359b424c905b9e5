"""Commands that read what studies have left: list, show, report."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kd_hpo.cli.console import AS_USUAL, Output, Result, Runs, StudyName, out, runs_option, study_name


def list_(*, runs: Runs = Path("runs"), output: Output = AS_USUAL) -> Result:
    """List the studies of a folder: how far each has come, and how good its students are.

    Parameters
    ----------
    runs
        The folder that holds them.
    """
    from kd_hpo.errors import StudyError
    from kd_hpo.study.report.list_studies import list_studies, studies_table

    folder = runs.absolute()
    if not folder.is_dir():
        raise StudyError(f"there is no folder {folder}; give the one that holds the studies with --runs")
    listed = list_studies(folder)
    if not listed:
        return Result([], (f"no studies in {folder}; start one with: kd-hpo run STUDY.yaml",))
    return Result(listed, (studies_table(listed, out.width),))


def show(study: StudyName, /, *, runs: Runs = Path("runs"), output: Output = AS_USUAL) -> Result:
    """Show what a study has come to, also one that is not finished: its methods, and the matrix that it has learned.

    Parameters
    ----------
    study
        Its name.
    runs
        The folder that holds it.
    """
    from kd_hpo.study.report.summary import render_findings
    from kd_hpo.study.results.findings import read_findings
    from kd_hpo.study.store.folder import StudyFolder

    folder = StudyFolder(runs.absolute() / study_name(study))
    findings = read_findings(folder)
    option = runs_option(findings.study)
    following = [f"kd-hpo report {study}{option}" if findings.finished else f"kd-hpo resume {study}{option}"]
    return Result(findings.document(), (render_findings(findings, out.width),), ("", f"next: {following[0]}"))


def report(
    study: StudyName,
    /,
    *,
    file: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    runs: Runs = Path("runs"),
    output: Output = AS_USUAL,
) -> Result:
    """Write the findings of a study, in words and plots, to one file that can be sent to a colleague.

    Parameters
    ----------
    study
        Its name.
    file
        The file: .html for a page that needs no network, .md for a pull request; STUDY-report.html if not given.
    runs
        The folder that holds it.
    """
    from kd_hpo.study.report.report import write_report
    from kd_hpo.study.store.folder import StudyFolder

    folder = StudyFolder(runs.absolute() / study_name(study))
    path = file or Path(f"{study}-report.html")
    written = write_report(folder, path, datetime.now().astimezone())
    return Result(
        {"study": study, "report": path.absolute(), "state": written.standing.state}, (f"the report of study {study}: {path}",)
    )
