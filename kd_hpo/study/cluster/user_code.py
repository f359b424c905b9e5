"""The code of one's own that a study names, as far as the nodes of a cluster have to be given it."""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError

LARGEST_FILE = 2**20
"""Bytes; what is larger is no code."""
LARGEST_CODE = 50 * 2**20
"""Bytes of all files; Ray keeps them in the memory of its head."""
_PRIVATE = {".pem", ".key", ".p12", ".pfx", ".db", ".sqlite", ".sqlite3"}
_REFERENCE = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class UserCode:
    """The small files of the folder that one starts in: what a study imports from there may import or read others."""

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
    """What the nodes lack of what the study imports from the folder `root`; None where it imports nothing from there.

    Hidden folders, virtual environments, the study's runs and its images stay. Raises StudyError where the rest is no code by
    its size.
    """
    if not any(PathFinder.find_spec(module, [str(root)]) for module in user_modules(study)):
        return None
    files, left_out, size = list[Path](), list[Path](), 0
    for file in _files(root, _not_code(study)):
        bytes_ = file.stat().st_size
        if bytes_ > LARGEST_FILE:
            left_out.append(file)
            continue
        files.append(file)
        size += bytes_
        if size > LARGEST_CODE:
            raise StudyError(
                f"the study imports code of its own from {root}, and the small files there are more than "
                f"{LARGEST_CODE / 2**20:g} MB, which every node would be given; start kd-hpo in a folder of the code alone"
            )
    return UserCode(root, tuple(files), tuple(left_out))


def user_modules(study: StudyConfig) -> list[str]:
    """The packages or modules of every `package.module:callable` that the study names, by their first name."""
    trial = study.model_dump(mode="json", exclude={"tracking", "resources", "runs", "name"})
    return sorted({found[1] for text in _texts(trial) if (found := _REFERENCE.fullmatch(text))} - {"kd_hpo"})


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _not_code(study: StudyConfig) -> set[Path]:
    return {study.runs, Path(sys.prefix), *(place for place in study.data.places().values() if isinstance(place, Path))}


def _files(root: Path, not_code: set[Path]) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        here = Path(folder)
        names[:] = sorted(name for name in names if _may_hold_code(here / name) and here / name not in not_code)
        yield from (here / name for name in sorted(files) if _may_be_code(here / name) and (here / name).is_file())


def _may_hold_code(folder: Path) -> bool:
    return folder.name[0] != "." and folder.name not in ("__pycache__", "secrets") and not (folder / "pyvenv.cfg").exists()


def _may_be_code(file: Path) -> bool:
    """Hidden files, keys and databases stay here."""
    return file.name[0] != "." and not file.name.startswith("id_") and file.suffix not in _PRIVATE
