"""The code of one's own that a study names, as far as the nodes of a cluster have to be given it."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from kd_hpo.callables import modules_named, own_code
from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError

LARGEST_FILE = 2**20
"""Bytes; what is larger is no code."""
LARGEST_CODE = 50 * 2**20
"""Bytes of all files; Ray keeps them in the memory of its head."""
_PRIVATE = {".pem", ".key", ".p12", ".pfx", ".db", ".sqlite", ".sqlite3"}


@dataclass(frozen=True)
class UserCode:
    """What goes to a cluster from the folder that one starts in; nothing else leaves this machine.

    It is the packages and modules that a study names, those that they import, and the files that its settings name.
    """

    root: Path
    files: tuple[Path, ...]
    left_out: tuple[Path, ...]
    """Files that are too large to be code."""

    def __str__(self) -> str:
        size = sum(file.stat().st_size for file in self.files)
        words = f"{len(self.files)} files, {size / 1e3:.0f} kB, of {self.root} go to every node as code"
        if not self.left_out:
            return words
        names = ", ".join(str(file.relative_to(self.root)) for file in self.left_out[:3])
        return f"{words}; over {LARGEST_FILE / 2**20:g} MB and left here: {names}{', ...' if self.left_out[3:] else ''}"

    def copy_to(self, folder: Path) -> None:
        for file in self.files:
            there = folder / file.relative_to(self.root)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, there)


def user_code(study: StudyConfig, root: Path) -> UserCode | None:
    """Finds what the nodes lack of what the study imports from the folder `root`; None where it imports nothing from there.

    Of a package all of its folder goes, but for hidden files, keys and databases. Raises StudyError for more than code.
    """
    names = [name for name in user_modules(study) if PathFinder.find_spec(name.partition(".")[0], [str(root)])]
    if not names:
        return None
    tops = {file.relative_to(root).parts[0] for file in own_code(names).values() if file.is_relative_to(root)}
    named = {*tops, *_files_named(study, root)}
    files, left_out, size = list[Path](), list[Path](), 0
    for file in sorted({file for name in named for file in _files(root / name)}):
        bytes_ = file.stat().st_size
        if bytes_ > LARGEST_FILE:
            left_out.append(file)
            continue
        files.append(file)
        size += bytes_
        if size > LARGEST_CODE:
            raise StudyError(
                f"the study imports code of its own from {root}, and the small files of {', '.join(sorted(tops))} are more than "
                f"{LARGEST_CODE / 2**20:g} MB, which every node would be given; keep the code in a package of code alone"
            )
    return UserCode(root, tuple(files), tuple(left_out))


def user_modules(study: StudyConfig) -> list[str]:
    """The module of every `package.module:callable` that the study names."""
    return modules_named(_of_trials(study))


def _of_trials(study: StudyConfig) -> dict[str, Any]:
    return study.model_dump(mode="json", exclude={"tracking": {"uri"}, "resources": True, "runs": True, "name": True})


def _files_named(study: StudyConfig, root: Path) -> Iterator[str]:
    """Files of the folder that the settings name by their paths from there, as the arguments of a callable do."""
    for text in _texts(_of_trials(study)):
        if "\0" not in text and not Path(text).is_absolute() and ".." not in Path(text).parts and (root / text).is_file():
            yield text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield from filter(_may_go, [place])
    for folder, names, files in os.walk(place):
        here = Path(folder)
        names[:] = sorted(name for name in names if _may_hold_code(here / name))
        yield from (here / name for name in sorted(files) if _may_go(here / name) and (here / name).is_file())


def _may_hold_code(folder: Path) -> bool:
    return folder.name[0] != "." and folder.name not in ("__pycache__", "secrets") and not (folder / "pyvenv.cfg").exists()


def _may_go(file: Path) -> bool:
    """Hidden files, keys and databases stay here."""
    return file.name[0] != "." and not file.name.startswith("id_") and file.suffix not in _PRIVATE
