"""The command logs: what the process of a trial has printed, as it stands or as it comes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.text import Text

from kd_hpo.cli.console import AS_USUAL, Output, Result, Runs, StudyName, out, study_name

if TYPE_CHECKING:
    from kd_hpo.study.store.folder import StudyFolder


def logs(
    study: StudyName,
    trial: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
    lines: Annotated[int, Parameter(validator=Number(gte=1))] = 200,
    runs: Runs = Path("runs"),
    output: Output = AS_USUAL,
) -> Result:
    """Show what the process of a trial has printed: its words, what libraries warn of, the whole traceback where it failed.

    Parameters
    ----------
    study
        Its name.
    trial
        The trial's name, such as hetero-t003.
    follow
        Go on with what is added, until the trial has ended, or its study runs no more.
    lines
        How many of the last lines.
    runs
        The folder that holds the study.
    """
    from kd_hpo.study.store.folder import StudyFolder
    from kd_hpo.study.store.trial_log import follow as followed
    from kd_hpo.study.store.trial_log import last_lines, read_log

    folder = StudyFolder(runs.absolute() / study_name(study))
    folder.read_settings()
    file = _log_of(folder, trial)
    if follow:
        for added in followed(file, lines, lambda: _has_ended(folder, trial)):
            if not output.json:
                out.print(Text(added), end="")
    text = last_lines(read_log(file), lines)
    status = folder.status(trial)
    state = status.state if status else "running"
    return Result(
        {"study": study, "trial": trial, "state": state, "log": file, "text": text},
        (Text(text.removesuffix("\n")),) if not follow else (),
        (f"{trial}: {state}; all that is kept of its log is {file}",),
    )


def _log_of(folder: "StudyFolder", trial: str) -> Path:
    """The log of a trial. Raises StudyError where there is no such trial, with the nearest name, or where it has no log."""
    from kd_hpo.config.wording import brief, nearest
    from kd_hpo.errors import StudyError

    there = sorted(path.name for path in (folder.root / "trials").glob("[!.]*") if path.is_dir())
    if trial not in there:
        near = nearest(trial, there)
        hint = (
            f"did you mean {near}?"
            if near
            else f"it has {len(there)}, from {there[0]} to {there[-1]}"
            if there
            else "it has none"
        )
        raise StudyError(f"study {folder.root.name!r} has no trial {brief(trial)}; {hint}")
    if not (file := folder.log(trial)).exists() and not file.is_symlink():
        raise StudyError(
            f"trial {trial} of study {folder.root.name!r} has no log: its process never started, or an earlier version ran it"
        )
    return file


def _has_ended(folder: "StudyFolder", trial: str) -> bool:
    status = folder.status(trial)
    return (status is not None and status.state != "running") or not folder.is_driven()
