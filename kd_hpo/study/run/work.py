"""What a study computes beside its trials: in this process, or on a node of its cluster that has a trial's resources."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import nn

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.weightings import NoPairs
from kd_hpo.study.cluster.connection import LOCAL
from kd_hpo.study.cluster.on_a_node import on_a_node
from kd_hpo.study.cluster.start import go_to_start
from kd_hpo.study.design.trials import method_trials
from kd_hpo.study.environment import prepare_environment
from kd_hpo.study.results.best import learned_trials
from kd_hpo.study.results.final_scores import SharedScores, open_test_split, shared_scores, trained_student
from kd_hpo.study.run.checks import check_pairs, check_teacher, few_updates
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.study.tracking.best_student import export_best_student
from kd_hpo.trial.data import load_data
from kd_hpo.trial.loop import LAST_WEIGHTS
from kd_hpo.trial.parts import Prepared, Progress
from kd_hpo.trial.prepare import prepare, shared_settings

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class Looked:
    """What the data and untrained networks tell of a study."""

    teacher: tuple[str, ...]
    student: tuple[str, ...]
    """Layers of the study's own pairs."""
    few_updates: tuple[str, ...]
    """A line for each method whose lambda hardly has the steps to learn."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.teacher), len(self.student)


class Work:
    """The steps that read images or run networks. What goes in and comes out is plain: a step may run in another process.

    Each is told first where its words go.
    """

    def __init__(self, study: StudyConfig) -> None:
        self.study, self.folder = study, StudyFolder.of(study)
        self._prepared: Prepared | None = None

    def look(self, tell: Progress) -> Looked:
        """Checks methods and pairs against data and networks. Raises DataError, ConfigError or FeatureMismatch."""
        batches, splits = load_data(self.study.trial(), self.folder.cache, tell)
        plan = check_pairs(self.study, batches, splits, tell)
        teacher, student = (tuple(layer.name for layer in layers) for layers in (plan.teacher, plan.student))
        return Looked(teacher, student, tuple(few_updates(self.study, splits)))

    def make_ready(self, tell: Progress, *, new: bool, trials: bool) -> None:
        """Makes the teacher, and the features that trials read, while nothing else runs; not those of assistants.

        new     the study has not begun: a given teacher has to be better than its student
        trials  whether any is left to run
        """
        prepared = self.prepared(tell)
        if new:
            check_teacher(self.study, prepared, tell)
        if not trials:
            return
        wanted = {shared_settings(config).model_dump_json(): config for config in method_trials(self.study).values()}
        for config in wanted.values():
            if not config.assistants and config.weighting.paired:
                prepare(config, self.folder.cache, tell)

    def score_on_test(self, tell: Progress) -> SharedScores:
        """Opens the test split: for the trials of the comparison into their folders, and for the teacher."""
        open_test_split(self.study, self.folder, self.prepared(tell), tell)
        return shared_scores(self.prepared(tell))

    def export_best_student(self, tell: Progress) -> None:
        """Writes the best student as a model. Raises StudyError where torch cannot trace it."""
        export_best_student(self.study, self.folder, self.prepared(tell))

    def best_student(self, tell: Progress) -> nn.Module | None:
        """Gives the student of the best trial that learned lambda, as it was after its last epoch; None where none did."""
        for spec, result in learned_trials(self.study, self.folder):
            return trained_student(result.config, self.folder.trial(spec.id) / LAST_WEIGHTS, self.prepared(tell))
        return None

    def prepared(self, tell: Progress) -> Prepared:
        """Gives data and teacher, without pairs; made once, or read from the cache."""
        if self._prepared is None:
            plain = self.study.trial().replace(assistants=(), weighting=NoPairs().model_dump())
            self._prepared = prepare(plain, self.folder.cache, tell)
        return self._prepared


class Compute(Protocol):
    """Runs a step where a study computes, and gives what it gives."""

    def __call__(
        self, step: Callable[Concatenate[Work, Progress, P], T], tell: Progress, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...


def computing(study: StudyConfig) -> Compute:
    """Gives what runs the steps: in this process, where the study's trials run on this machine; else on a node, one after one."""
    if study.resources.address == LOCAL:
        return _Here(Work(study))
    return _OnANode(study)


@dataclass(frozen=True)
class _Here:
    work: Work

    def __call__(self, step: Callable[Concatenate[Work, Progress, P], T], tell: Progress, *args: P.args, **kwargs: P.kwargs) -> T:
        return step(self.work, tell, *args, **kwargs)


@dataclass(frozen=True)
class _OnANode:
    study: StudyConfig

    def __call__(self, step: Callable[Concatenate[Work, Progress, P], T], tell: Progress, *args: P.args, **kwargs: P.kwargs) -> T:
        def there(tell: Progress) -> T:
            _settle(study)
            return step(Work(study), tell, *args, **kwargs)

        study = self.study
        return on_a_node(study, there, tell)


def _settle(study: StudyConfig) -> None:
    """Makes a process of a node what that of a trial is."""
    prepare_environment()
    go_to_start()
    torch.set_num_threads(max(1, int(study.resources.cpus_per_trial)))
