"""An error that nobody foresaw, in a trial of a user's own code or of kd_hpo: told in a line, and whole in the trial's log."""

import sys
import sysconfig
import traceback
from pathlib import Path

import kd_hpo
from kd_hpo.config.wording import one_line
from kd_hpo.errors import without_secrets
from kd_hpo.study.store.folder import StudyFolder, TrialStatus

_LIBRARIES = (Path(kd_hpo.__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))
_MOST_CHARACTERS = 300


def log_traceback(error: Exception) -> None:
    """Prints the whole traceback to standard error, which a trial's log gets, without credentials."""
    print(without_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)


def failure_of(error: Exception, log: Path) -> str:
    """Type, text and place of the error on one line, which names the log that has its traceback."""
    said = one_line(without_secrets(f"{type(error).__name__}: {error}").rstrip(": "))[:_MOST_CHARACTERS]
    return f"{said} ({place_of(error)}); the whole traceback is in {log}"


def failure_line(folder: StudyFolder, status: TrialStatus) -> str:
    """Tells that and why a trial has failed, and where its log is, unless the reason says so or there is none."""
    log = folder.log(status.spec.id)
    where = f"; its log is {log}" if log.is_file() and str(log) not in status.message else ""
    return f"{status.spec.id} failed: {status.message}{where}"


def place_of(error: Exception) -> str:
    """The place `FILE:LINE, in FUNCTION` of the innermost call in a user's own code, or of the innermost where none is."""
    calls = traceback.extract_tb(error.__traceback__)
    own = [call for call in calls if not any(Path(call.filename).is_relative_to(library) for library in _LIBRARIES)]
    call = (own or calls)[-1]
    return f"{call.filename}:{call.lineno}, in {call.name}"
