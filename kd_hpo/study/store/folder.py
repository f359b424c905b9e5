"""The folder where a study keeps its files: it is the record of the study, which a tracker mirrors."""

import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, RootModel, ValidationError

from kd_hpo.config.json_source import SaidTwice, require_keys_once
from kd_hpo.config.read import read_settings
from kd_hpo.config.settings import Settings, WrittenAs
from kd_hpo.config.study import Name, StudyConfig
from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.weightings import Matrix
from kd_hpo.config.wording import cut, nearest, one_line
from kd_hpo.errors import StudyError
from kd_hpo.files import Write, is_held, only_one_process, write_atomically
from kd_hpo.study.store.tidy import refuse_links, remove_unfinished
from kd_hpo.study.store.trial_log import LOG
from kd_hpo.trial.result import RESULT, EpochRecord, LayerRecord, TrialResult

_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufffe\uffff]")
"""Characters that JSON takes as they are, and YAML refuses or takes for the end of a line."""

M = TypeVar("M", bound=BaseModel)
TrialId = Annotated[str, WrittenAs(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", "letters, digits, '.', '_' and '-'")]
"""A trial's folder, its name in a tracker and in filters there: no more than a study's name can it lead elsewhere."""
State = Literal["running", "completed", "stopped", "failed"]


class TrialSpec(Settings):
    """The plan of a trial of a study: which method, which outer settings, which seed."""

    id: TrialId
    """uniform-t007 in the search of a method; hetero-diagonal-s200000 in the race of its arms; uniform-s1 in the comparison."""
    kind: Literal["search", "race", "compare"]
    method: Name
    seed: int
    settings: dict[str, Any] = Field(default_factory=dict)
    """Dotted paths of the trial's configuration: what was searched."""
    start: Matrix | None = None
    """What lambda starts from, where the study carries it on from trial to trial."""


class TrialStatus(Settings):
    """How a trial stands; `message` says why it failed, or what it raised before it was to be started again."""

    spec: TrialSpec
    state: State
    message: str = ""
    duration_s: float = 0.0
    of_settings: bool = False
    """Whether it failed for what its settings are: they do not go together, or its loss did not stay finite."""


class TrialAbout(Settings):
    """What a trial runs with, written when an attempt at it starts: all that a tracker shows of it beside its epochs."""

    config: TrialConfig
    teacher_layers: tuple[LayerRecord, ...]
    student_layers: tuple[LayerRecord, ...]
    split_digests: dict[str, str]
    teacher_digest: str
    data_name: str
    data_digest: str
    versions: dict[str, str]
    worker: str
    """The process of the latest attempt, as host:pid."""


class TestScores(Settings):
    """The value of the task's metric on the test split, which was opened once for this trial."""

    __test__ = False
    last: float
    best: float
    """At the epoch of the best value on `val`."""


class TrackedRun(Settings):
    """The place where a tracker has a trial."""

    tracker: str
    """Its name, such as mlflow."""
    run: str
    """What it calls the run: an id that means nothing to another tracker."""


def _before_arms(settings: Path) -> bool:
    """Whether an earlier version wrote them, whose searches had no arms: what is written has all that a search may have."""
    try:
        written = json.loads(settings.read_bytes())
    except ValueError:  # a study file that somebody put there
        return False
    return isinstance(written, dict) and "arms" not in written.get("search", {"arms"})


class _Records(RootModel[list[EpochRecord]]):
    """records.json of a trial."""


class _Code(RootModel[dict[str, str]]):
    """code.json of a study."""


class _Times(RootModel[list[int]]):
    """times.json of a trial."""


@dataclass(frozen=True)
class StudyFolder:
    root: Path
    write: Write = field(default=write_atomically, compare=False)
    """How its files are written; an attempt at a trial writes its own by `Lease.write`."""

    @classmethod
    def of(cls, study: StudyConfig) -> "StudyFolder":
        return cls(study.runs / study.name)

    @property
    def settings(self) -> Path:
        return self.root / "study.yaml"

    @property
    def optuna(self) -> Path:
        return self.root / "optuna.log"

    @property
    def ray(self) -> Path:
        return self.root / "ray"

    @property
    def export(self) -> Path:
        return self.root / "lambda.json"

    def comparison(self, suffix: str) -> Path:
        """The file of the comparison as csv, json or png."""
        return self.root / f"comparison.{suffix}"

    @property
    def begun(self) -> bool:
        """Whether any trial was asked for."""
        return self.optuna.exists() or (self.root / "trials").exists()

    @property
    def cache(self) -> Path:
        return self.root.parent / "cache"

    def trial(self, trial_id: str) -> Path:
        return self.root / "trials" / trial_id

    def log(self, trial_id: str) -> Path:
        """The file of what a trial's process printed."""
        return self.trial(trial_id) / LOG

    def write_settings(self, study: StudyConfig) -> None:
        """Writes the settings as JSON, which is YAML with all strings quoted: any value is read back as it was."""
        text = study.model_dump_json(indent=2)
        self.write(self.settings, _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text))

    def read_settings(self) -> StudyConfig:
        """Reads the settings as they were, but for `runs`, since the folder may have moved.

        Raises StudyError where there is no study, and where a file of it is a symbolic link.
        """
        refuse_links(self.root)
        if not self.settings.is_file():
            there = sorted(p.parent.name for p in self.root.parent.glob("*/study.yaml"))
            near = nearest(self.root.name, there)
            known = f"; there are {', '.join(there)}" + (f"; did you mean {near}?" if near else ".") if there else "."
            raise StudyError(f"no study {self.root.name!r} in {self.root.parent}{known} Start one with `kd-hpo run STUDY.yaml`")
        study = read_settings(StudyConfig, self.settings).replace(runs=self.root.parent)
        if _before_arms(self.settings):
            return study.replace(search=study.search.replace(arms=()).model_dump())
        return study

    @property
    def code_file(self) -> Path:
        return self.root / "code.json"

    def code(self) -> dict[str, str]:
        """The digests of the user's own code, by module: of that which the study has run."""
        return self._written(self.code_file, _Code).root if self.code_file.is_file() else {}

    def write_code(self, digests: dict[str, str]) -> None:
        if digests != self.code():
            self.write(self.code_file, _Code(digests).model_dump_json(indent=1))

    def write_status(self, status: TrialStatus) -> None:
        self.write(self.trial(status.spec.id) / "status.json", status.model_dump_json(indent=1))

    def status(self, trial_id: str) -> TrialStatus | None:
        return self._status(self.trial(trial_id) / "status.json")

    def statuses(self) -> list[TrialStatus]:
        """The status of every trial that was started, by id."""
        found = map(self._status, sorted((self.root / "trials").glob("*/status.json")))
        return [status for status in found if status]

    def _status(self, path: Path) -> TrialStatus | None:
        status = self._written(path, TrialStatus) if path.is_file() else None
        if status and status.spec.id != path.parent.name:
            raise StudyError(f"{path} is of another trial, {status.spec.id}; put it back, or remove the folder of this trial")
        return status

    def result(self, trial_id: str) -> TrialResult:
        return self._written(self.trial(trial_id) / RESULT, TrialResult)

    def records(self, trial_id: str) -> list[EpochRecord]:
        """The epochs that a trial has reported, however it ended."""
        path = self.trial(trial_id) / "records.json"
        return self._written(path, _Records).root if path.is_file() else []

    def write_records(self, trial_id: str, records: list[EpochRecord]) -> None:
        """Writes the records of a trial, with the time of each that is new.

        Epochs that a continued trial tells again, as they stand, leave the files alone.
        """
        path, content = self.trial(trial_id) / "records.json", _Records(records).model_dump_json().encode()
        stands = path.read_bytes() if path.is_file() else b""
        if stands == content or stands.startswith(content[:-1] + b","):  # to read it as records would take longer with each epoch
            return
        times = self.times(trial_id)[: len(records)]
        now = max([time.time_ns() // 10**6, *times[-1:]])  # a clock that was set back turns no epoch's time back
        times += [now] * (len(records) - len(times))
        self.write(self.trial(trial_id) / "times.json", _Times(times).model_dump_json())
        self.write(path, content)

    def times(self, trial_id: str) -> list[int]:
        """The times at which the epochs were first reported, in milliseconds since 1970; perhaps one more than records."""
        path = self.trial(trial_id) / "times.json"
        return self._written(path, _Times).root if path.is_file() else []

    def write_about(self, trial_id: str, about: TrialAbout) -> None:
        self.write(self.trial(trial_id) / "about.json", about.model_dump_json())

    def about(self, trial_id: str) -> TrialAbout | None:
        """What the trial runs with; None where it failed before it could start."""
        path = self.trial(trial_id) / "about.json"
        return self._written(path, TrialAbout) if path.is_file() else None

    def changed(self, trial_id: str) -> tuple[int, ...]:
        """A tuple that is another one after any change of what the trial tells of itself."""
        files = (self.trial(trial_id) / name for name in ("status.json", "records.json", "about.json"))
        return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)

    def identity(self, trial_id: str | None = None) -> str:
        """The identity of the study, or of a trial in its present life, by which a tracker knows it, whatever its name."""
        path = (self.trial(trial_id) if trial_id else self.root) / "identity"
        if not path.is_file():
            self.write(path, uuid.uuid4().hex)
        return path.read_text()

    def set_aside(self, trial_id: str) -> None:
        """Moves what a failed trial left out of the way of a new attempt from its start."""
        if not self.trial(trial_id).exists():
            return
        kept = self.root / "set_aside"
        kept.mkdir(exist_ok=True)
        earlier = (int(folder.suffix[1:]) for folder in kept.glob(f"{trial_id}.*"))
        self.trial(trial_id).rename(kept / f"{trial_id}.{1 + max(earlier, default=0)}")

    def write_run_id(self, trial_id: str, tracker: str, run_id: str) -> None:
        if run_id != self.run_id(trial_id, tracker):
            content = TrackedRun(tracker=tracker, run=run_id).model_dump_json()
            self.write(self.trial(trial_id) / "tracked.json", content)

    def run_id(self, trial_id: str, tracker: str) -> str | None:
        """The trial's run in the tracker; None where tracking never reached it, or where another tracker has it."""
        path, earlier = (self.trial(trial_id) / name for name in ("tracked.json", "mlflow_run_id"))
        if path.is_file():
            tracked = self._written(path, TrackedRun)
        elif earlier.is_file():  # of a study that was begun when MLflow was the only tracker
            tracked = TrackedRun(tracker="mlflow", run=earlier.read_text(errors="replace"))
        else:
            return None
        return tracked.run if tracked.tracker == tracker else None

    def test_scores(self, trial_id: str) -> TestScores | None:
        path = self.trial(trial_id) / "test.json"
        return self._written(path, TestScores) if path.is_file() else None

    def _written(self, path: Path, model: type[M]) -> M:
        """What stands in a file of the study. Raises StudyError where it is missing, broken or something else."""
        try:
            content = path.read_bytes()
            require_keys_once(content)
            return model.model_validate_json(content)
        except OSError as error:
            raise StudyError(f"{path} cannot be read ({error.strerror}); {self._remedy(path)}") from error
        except SaidTwice as error:
            raise StudyError(f"{path} is broken ({cut(one_line(str(error)))}); {self._remedy(path)}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            said = cut(one_line(f"{where}: {first['msg']}"))
            raise StudyError(f"{path} is broken ({said}); {self._remedy(path)}") from error

    @property
    def resume(self) -> str:
        """The command that goes on with the study."""
        runs = self.root.parent
        return f"kd-hpo resume {self.root.name}" + ("" if runs == Path("runs").absolute() else f" --runs {quote(str(runs))}")

    def _remedy(self, path: Path) -> str:
        if path == self.code_file:
            return f"remove it, and go on: {self.resume}"
        return f"remove {path.parent}, and go on without what that trial was: {self.resume}"

    def write_test_scores(self, trial_id: str, scores: TestScores) -> None:
        self.write(self.trial(trial_id) / "test.json", scores.model_dump_json())

    def is_driven(self) -> bool:
        """Whether a process runs the study now."""
        return is_held(self.root / ".lock")

    @contextmanager
    def only_driver(self) -> Iterator[None]:
        """Holds the study while it is driven; the lock goes with the process that holds it.

        What killed processes have left unfinished goes. Raises StudyError while another process drives it, and where a file of
        it is a symbolic link.
        """
        refuse_links(self.root)
        with ExitStack() as held:
            try:
                held.enter_context(only_one_process(self.root / ".lock", wait=False))
            except TimeoutError as error:
                raise StudyError(f"study {self.root.name!r} is being run by another process; wait for it, or stop it") from error
            remove_unfinished(self.root)
            yield
