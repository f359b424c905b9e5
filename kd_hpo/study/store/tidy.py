"""What does not belong into a study's folder: links, which lead elsewhere, and what killed processes have left half made."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from kd_hpo.errors import StudyError

_OPTUNAS_LOCK = "optuna.log.lock"
"""Optuna's own lock is a link by that name, which nobody opens."""
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}")
_OF_A_STEP = re.compile(r"\.(probe|best_student)[-.].+")
"""Folders that a step of the driver makes and takes away."""
_OF_OTHERS = {"ray", "best_student"}
"""Folders of Ray's and MLflow's, each made anew under a name of its own."""


def refuse_links(root: Path) -> None:
    """Checks that no file or folder in a study's folder is a symbolic link. Raises StudyError for the first that is.

    What it leads to would be read as the study's, or overwritten. The study's folder itself may be one.
    """
    for entry in _entries(root):
        if entry.is_symlink() and not (entry.name == _OPTUNAS_LOCK and Path(entry.path).parent == root):
            raise StudyError(
                f"{entry.path} is a symbolic link to {_target(entry)}, and no file of a study is opened through one, since what "
                "it leads to would be read or overwritten; put the file itself there, or remove the link"
            )


def remove_unfinished(root: Path) -> None:
    """Removes what killed processes have left unfinished: `.NAME.<hex>` of write_atomically, but for those that one still writes.

    For the study's driver alone.
    """
    for entry in list(_entries(root)):
        path = Path(entry.path)
        if _OF_A_STEP.fullmatch(entry.name) and path.parent == root and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(path, ignore_errors=True)
        elif _UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False) and not _is_being_written(path):
            path.unlink(missing_ok=True)


def _is_being_written(path: Path) -> bool:
    """Whether a process holds it, as `write_atomically` does while it writes."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """All below a folder, those of folders that are no links among them; nothing where there is no folder."""
    try:
        with os.scandir(folder) as found:
            here = list(found)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in here:
        yield entry
        if entry.is_dir(follow_symlinks=False) and entry.name not in _OF_OTHERS:
            yield from _entries(Path(entry.path))


def _target(entry: "os.DirEntry[str]") -> str:
    try:
        return str(Path(entry.path).readlink())
    except OSError:
        return "somewhere else"
