"""How often the test split was opened for an exported file: a number that is looked at again and again is a test no more."""

import errno
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import NonNegativeInt, ValidationError

from kd_hpo.config.json_source import SaidTwice, require_keys_once
from kd_hpo.config.settings import Settings
from kd_hpo.errors import ExportError
from kd_hpo.files import only_one_process, write_atomically
from kd_hpo.study.store.export_file import VERSION, Export, load_export

_MAY_NOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Openings:
    count: int
    record: Path
    """Where the next one is counted: the export file itself; where that cannot be written, a file of the runs folder."""


class _Record(Settings):
    """What stands in the runs folder of a file that cannot be written."""

    study: str
    created: str
    test_opened: NonNegativeInt


def openings(file: Path, records: Path) -> Openings:
    """What the file counts, and what `records` counts of it where it could not be written. Changes nothing."""
    export = load_export(file)
    apart = _apart(export, records)
    return Openings(export.test_opened + _read(apart), file if _is_writable(file) else apart)


def count_opening(file: Path, records: Path) -> Openings:
    """Adds one, in the export file itself; where that cannot be written, beside others in the folder `records`.

    The file is replaced whole and keeps its rights, and one that an earlier version wrote is then of this one. Whoever opens it
    elsewhere at the same time is counted too.
    """
    file = file.resolve()  # what a link leads to
    if _is_writable(file):
        try:
            with only_one_process(file.with_name(f".{file.name}.lock")):
                export, rights = load_export(file), file.stat().st_mode
                counted = export.replace(schema_version=VERSION, test_opened=export.test_opened + 1)
                write_atomically(file, counted.model_dump_json(indent=1))
                file.chmod(rights & 0o7777)
            return openings(file, records)
        except OSError as error:
            if error.errno not in _MAY_NOT_WRITE:
                raise
    export = load_export(file)
    apart = _apart(export, records)
    with only_one_process(records / ".lock"):
        count = 1 + _read(apart)
        write_atomically(apart, _Record(study=export.study, created=export.created, test_opened=count).model_dump_json(indent=1))
    return Openings(export.test_opened + count, apart)


def _is_writable(file: Path) -> bool:
    """Also to one who may write everything, a file without any right to write is meant to stay as it is."""
    return bool(file.stat().st_mode & 0o222) and os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


def _apart(export: Export, records: Path) -> Path:
    """Named by what the file holds, wherever it lies."""
    content = export.replace(schema_version=VERSION, test_opened=0).model_dump_json()
    return records / f"{export.study}-{sha256(content.encode()).hexdigest()[:16]}.json"


def _read(record: Path) -> int:
    if not record.is_file():
        return 0
    try:
        content = record.read_bytes()
        require_keys_once(content)
        return _Record.model_validate_json(content).test_opened
    except (ValidationError, SaidTwice) as error:
        raise ExportError(f"{record} is broken; how often test was opened is not known. Remove it to count anew") from error
