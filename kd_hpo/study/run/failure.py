"""An error that nobody foresaw, in a trial of a user's own code or of kd_hpo: told in a line, and kept whole in a file."""

import sysconfig
import traceback
from pathlib import Path

import kd_hpo
from kd_hpo.config.wording import one_line
from kd_hpo.errors import without_secrets
from kd_hpo.files import Write, write_atomically

TRACEBACK = "traceback.txt"
_LIBRARIES = (Path(kd_hpo.__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))
_MOST_CHARACTERS = 300


def kept_failure(error: Exception, folder: Path, write: Write = write_atomically) -> str:
    """Type, text and place of the error on one line, which names the file in `folder` that now holds the traceback."""
    file = folder / TRACEBACK
    write(file, without_secrets("".join(traceback.format_exception(error))))
    said = one_line(without_secrets(f"{type(error).__name__}: {error}").rstrip(": "))[:_MOST_CHARACTERS]
    return f"{said} ({place_of(error)}); the whole traceback is in {file}"


def place_of(error: Exception) -> str:
    """The place `FILE:LINE, in FUNCTION` of the innermost call in a user's own code, or of the innermost where none is."""
    calls = traceback.extract_tb(error.__traceback__)
    own = [call for call in calls if not any(Path(call.filename).is_relative_to(library) for library in _LIBRARIES)]
    call = (own or calls)[-1]
    return f"{call.filename}:{call.lineno}, in {call.name}"
