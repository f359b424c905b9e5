"""What a machine must have to run a study's trials, looked for on that machine. It loads neither Ray nor torch."""

import importlib.util
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from kd_hpo.config.load import places_read
from kd_hpo.config.study import StudyConfig
from kd_hpo.data.remote import listing
from kd_hpo.errors import DataError
from kd_hpo.files import write_atomically
from kd_hpo.study.cluster.user_code import user_modules
from kd_hpo.study.environment import prepare_environment

_TOKEN = "token"


@dataclass(frozen=True)
class Question:
    """The question to a machine about a study, whose folder it must see.

    `folder` lies in the study's own; only a machine with that very folder finds the token.
    """

    study_json: str
    folder: Path
    token: str
    version: str
    modules: tuple[str, ...]
    """Top-level ones of the study's own."""

    def answered(self, name: str) -> bool:
        return (self.folder / name).is_file()


@contextmanager
def question(study: StudyConfig, root: Path) -> Iterator[Question]:
    """Makes the question, to be asked while the context is open.

    Its end takes the token's folder in `root` away, and with it a `root` that was not there. `root` is the study's own folder.
    """
    folder = root / f".probe-{uuid.uuid4().hex}"
    modules = tuple(sorted({module.partition(".")[0] for module in user_modules(study)}))
    asked = Question(study.model_dump_json(), folder, uuid.uuid4().hex, version("kd_hpo"), modules)
    write_atomically(folder / _TOKEN, asked.token)
    try:
        yield asked
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            root.rmdir()  # a study that is refused has no folder


def answer(asked: Question, name: str) -> str:
    """Writes the token under `name` beside it, and says what this machine lacks; "" where it has everything."""
    prepare_environment()
    if (here := version("kd_hpo")) != asked.version:
        return f"has kd_hpo {here}, and the driver {asked.version}; install the same on all"
    study = StudyConfig.model_validate_json(asked.study_json)
    try:
        if (asked.folder / _TOKEN).read_text() != asked.token:
            return _not_shared(study, "another one lies there")
        write_atomically(asked.folder / name, asked.token)
    except OSError as error:
        return _not_shared(study, error.strerror or str(error))
    for dotted, place in places_read(study).items():
        if isinstance(place, Path) and not place.exists():
            return (
                f"does not see {place}, which trials read; put it on a path that every node has, or in storage: s3://BUCKET/KEY"
            )
        if isinstance(place, str):
            try:
                listing(place, folder=dotted.startswith("data."))
            except DataError as error:
                return f"cannot read what trials read: {error}"
    if missing := [module for module in asked.modules if not _importable(module)]:
        return f"has no module {missing[0]!r}; start kd-hpo from the folder that holds it, or install it on every node"
    return ""


def _not_shared(study: StudyConfig, why: str) -> str:
    return f"does not share the folder runs {study.runs} ({why}); put it where every node sees it: --set runs=/SHARED/PATH"


def _importable(module: str) -> bool:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # as import_callable does
    return importlib.util.find_spec(module) is not None
