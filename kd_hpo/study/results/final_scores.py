"""The one place that opens the test split: nothing else reads its images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.trial import TrialConfig
from kd_hpo.nets.weights import load_weights
from kd_hpo.study.design.trials import trial_config
from kd_hpo.study.store.folder import StudyFolder, TestScores
from kd_hpo.trial.evaluate import score
from kd_hpo.trial.loop import BEST_WEIGHTS, LAST_WEIGHTS
from kd_hpo.trial.parts import Prepared, build


@dataclass(frozen=True)
class SharedScores:
    """What all methods of a comparison share: how good the teacher is, and which images it was measured on."""

    teacher: Mapping[str, float]
    """The value of the task's metric on `val` and on `test`."""
    splits: Mapping[str, tuple[int, str]]
    """The number of images of each split, and their digest."""


def shared_scores(prepared: Prepared) -> SharedScores:
    """Scores the teacher on `test`."""
    teacher, splits = prepared.teacher, prepared.splits
    return SharedScores(
        teacher={"val": teacher.val.value, "test": score_on_test(teacher.network, prepared)},
        splits={name: (splits.sizes[name], splits.digests[name]) for name in ("train", "outer", "val", "test")},
    )


def open_test_split(study: StudyConfig, folder: StudyFolder, prepared: Prepared, progress: Callable[[str], None]) -> None:
    """Scores each completed trial of the comparison on `test`, once, and writes what it has reached into its folder."""
    done = [status for status in folder.statuses() if status.spec.kind == "compare" and status.state == "completed"]
    waiting = [status for status in done if not folder.test_scores(status.spec.id)]
    for number, status in enumerate(waiting, 1):
        progress(f"opening the test split: trial {number} of {len(waiting)}")
        scores = student_on_test(trial_config(study, status.spec), folder.trial(status.spec.id), prepared)
        folder.write_test_scores(status.spec.id, scores)


def student_on_test(config: TrialConfig, folder: Path, prepared: Prepared) -> TestScores:
    """Scores the student of a trial with the weights in its folder: of the last epoch, and of the best one by `val`.

    Raises ConfigError where they do not fit the student.
    """

    def reached(weights: str) -> float:
        return score_on_test(trained_student(config, folder / weights, prepared), prepared)

    return TestScores(last=reached(LAST_WEIGHTS), best=reached(BEST_WEIGHTS))


def trained_student(config: TrialConfig, weights: Path, prepared: Prepared) -> nn.Module:
    """Builds the student of a trial with weights that it has written. Raises ConfigError where they do not fit."""
    network = build(config.student.network, prepared.batches, prepared.task, seed=config.seed)
    load_weights(network, weights)
    return network


def score_on_test(network: nn.Module, prepared: Prepared) -> float:
    """Scores a network by the metric of the task's goal: of classification, the share whose class the largest logit names."""
    return score(network, prepared.task, prepared.batches, prepared.splits.test).value
