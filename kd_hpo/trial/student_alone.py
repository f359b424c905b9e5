"""The student without its teacher, trained once and kept in the cache: what a given teacher has to be better than."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from kd_hpo.config.methods import METHODS
from kd_hpo.config.trial import TrialConfig
from kd_hpo.errors import ConfigError, Diverged, Note
from kd_hpo.files import cached, digest
from kd_hpo.trial.assistants import digest_of_training
from kd_hpo.trial.given_teacher import where_to_look
from kd_hpo.trial.loop import train_prepared
from kd_hpo.trial.parts import Prepared, Progress, build_student


def require_better_than_student(config: TrialConfig, prepared: Prepared, progress: Progress) -> None:
    """Trains the student of the trial alone, once for all that have the same, and compares its teacher with it on `val`.

    prepared  of a trial without pairs and assistants, as the one that trains the student alone is
    Raises ConfigError for a teacher that is no better. One whose student diverges alone is compared with nothing, which is told.
    """
    teacher, goal = prepared.teacher, config.task.goal
    alone = score_alone(METHODS["ce"].apply(config), prepared, progress)
    if alone.value is None:
        name = config.teacher.network.name
        progress(Note(f"the teacher {name} is not compared with its student, which alone fails: {alone.failure}"))
        return
    both = (
        f"on val ({len(prepared.splits.val)} images) the teacher {config.teacher.network.name} has {goal.name} "
        f"{teacher.val.value:.4f}, and its student trained alone {alone.value:.4f}"
    )
    if goal.worth(teacher.val.value) <= goal.worth(alone.value):
        raise ConfigError(
            f"{both}: one that is no better than its student has little to teach it. Look at how it reads images "
            f"({teacher.reads}; teacher.normalise), {where_to_look(prepared.batches)}"
        )
    progress(Note(both))


class Alone(NamedTuple):
    """What the student comes to without a teacher."""

    value: float | None
    """Of the metric that studies go by, on `val` after the last epoch; None where the training diverged."""
    failure: str = ""


def score_alone(config: TrialConfig, prepared: Prepared, progress: Progress) -> Alone:
    """What the student reaches on `val` after its last epoch, or how its training diverged; from the cache, or trained now.

    config  a trial on which no teacher acts
    """
    batches, splits, cache, goal = prepared.batches, prepared.splits, prepared.cache, config.task.goal
    training = digest_of_training(config, batches, splits, [build_student(config, batches, cache)])
    kept = cache / f"student-alone-{digest(training, goal.metric, splits.val.tobytes())}.json"
    words = "training the student alone, to compare the given teacher with it, which takes about one trial"

    def train(new: Path) -> None:
        progress(words)
        try:
            result = train_prepared(
                config,
                prepared,
                lambda record: progress(f"{words}: epoch {record.epoch} of {config.training.epochs}"),
                folder=kept.with_suffix(""),
            )
            reached = Alone(result.last.metrics[goal.on("val")])
        except Diverged as error:
            reached = Alone(None, str(error))
        new.write_text(json.dumps(reached))
        shutil.rmtree(kept.with_suffix(""), ignore_errors=True)

    return cached(kept, read=_read, make=train)


def _read(kept: Path) -> Alone | None:
    """None for what is missing or broken."""
    try:
        return Alone(*json.loads(kept.read_text()))
    except (OSError, ValueError, TypeError):
        return None
