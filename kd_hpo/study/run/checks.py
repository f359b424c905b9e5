"""What is refused before a study begins: a name that is taken, methods and pairs that do not fit."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from shlex import quote
from typing import Any

from kd_hpo.callables import modules_named, own_code
from kd_hpo.config.load import beyond, method_names, probes, with_settings
from kd_hpo.config.paths import value_at
from kd_hpo.config.study import StudyConfig
from kd_hpo.config.weightings import Uniform
from kd_hpo.core.plan import PairPlan
from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.splits import Splits
from kd_hpo.errors import ConfigError, StudyError, about
from kd_hpo.study.design.trials import as_in_file, method_of, method_trials, own_space
from kd_hpo.study.results.pairs import FEW_UPDATES
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.trial.check import check_trial
from kd_hpo.trial.given_teacher import is_given
from kd_hpo.trial.parts import Prepared, Progress, plan_before_training
from kd_hpo.trial.schedule import Schedule
from kd_hpo.trial.start import steps_per_epoch
from kd_hpo.trial.student_alone import require_better_than_student


def settle_settings(study: StudyConfig, folder: StudyFolder) -> None:
    """Writes the settings of a new study, or those of one that may be changed so. Raises as refuse_other_settings does."""
    refuse_other_settings(study, folder)
    folder.write_settings(study)
    folder.write_code({**folder.code(), **code_of(study)})


def refuse_other_settings(study: StudyConfig, folder: StudyFolder) -> None:
    """Checks that no study with other settings has begun under the name. Raises StudyError where one has.

    A study whose data or layers turned out wrong has not begun: its settings may be mended. One that has begun may compare
    more methods, at more seeds, and be repeated more often; until its race or comparison begins, its search may have more trials
    and another budget.
    """
    if folder.settings.is_file() and folder.begun:
        there = folder.read_settings()
        free = {"repeats": study.search.repeats, "trial_hours": study.search.trial_hours}  # other repeats are beside this one
        there = there.replace(search=there.search.replace(**free).model_dump())
        changed = set(_differing(there.model_dump(mode="json"), study.model_dump(mode="json")))
        if study.compare.extends(there.compare):
            changed = {path for path in changed if not path.startswith("compare.")}
        longer = {"search.hours", "search.until"} | (
            {"search.trials"} if study.search.trials > there.search.trials > 0 else set[str]()
        )
        if changed & longer and any(status.spec.kind != "search" for status in folder.statuses()):
            raise StudyError(
                f"study {study.name!r} compares its methods at what its search has found, so another "
                f"{', '.join(sorted(changed & longer))} comes too late. Give the study another name (--set name=...), or go on "
                f"without: {folder.resume}"
            )
        changed = {path for path in changed - longer if path.split(".")[0] not in ("resources", "tracking")}
        if changed:
            raise StudyError(
                f"study {study.name!r} is in {folder.root} already, with another {', '.join(sorted(changed))}. "
                f"Give this one another name (--set name=...), or continue that one: kd-hpo resume {study.name} "
                f"--runs {quote(str(study.runs))}. To start it anew, remove its folder"
            )
        refuse_other_code(study, folder)


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """The paths, of one or two keys, of settings that are not the same."""
    for name in there.keys() | here.keys():
        one, other = there.get(name), here.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from (f"{name}.{key}" for key in one.keys() | other.keys() if one.get(key) != other.get(key))
        elif one != other:
            yield name


def refuse_other_code(study: StudyConfig, folder: StudyFolder) -> None:
    """Checks that code of the user's own is what trials that have ended ran. Raises StudyError where it has changed since."""
    there, here = folder.code(), code_of(study)
    changed = sorted(name for name in there.keys() & here.keys() if there[name] != here[name])
    if changed and any(status.state in ("completed", "stopped") for status in folder.statuses()):
        raise StudyError(
            f"code of your own has changed since trials of study {study.name!r} ended: {', '.join(changed)}. Undo that, or give "
            "the study another name (--set name=...); where the change alters nothing that trials compute, remove "
            f"{folder.code_file} and go on"
        )


def code_of(study: StudyConfig) -> dict[str, str]:
    """The sha256 of the files of the user's own code that the study names, and of those that they import, by module."""
    named = modules_named(study.model_dump(mode="json", exclude={"tracking", "resources", "runs", "name"}))
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in own_code(named).items()}


def check_methods(study: StudyConfig) -> None:
    """Checks methods' settings and ranges, before anything runs. Raises ConfigError where they do not fit."""
    for method, config in method_trials(study).items():
        for path, chosen in own_space(study, method).items() if study.compare.tune else ():
            for _, value in probes(chosen):
                try:
                    with_settings(config, {path: value})
                except ConfigError as error:
                    raise ConfigError(f"the space of method {method!r} cannot choose {value!r}: {error}") from error


def check_starts(study: StudyConfig) -> None:
    """Checks that ranges hold the numbers that the study has there, which searches start from. Raises ConfigError if not.

    A number that a method has from its paper, and the study does not give, may lie outside of a range that the study gives it.
    """
    own = study.trial().model_dump(mode="json")
    if study.search.trials or study.compare.tune:
        for path, chosen in (study.search.space or {}).items():
            if problem := beyond(path, chosen, value_at(own, path)):
                raise ConfigError(f"search.space {problem}")
    for name in method_names(study) if study.compare.tune else ():
        method, settings = method_of(study, name), as_in_file(study, name).model_dump(mode="json")
        for path, chosen in method.space.items():
            value = value_at(settings, path)
            given = path in method.set or value == value_at(own, path)
            if given and (problem := beyond(path, chosen, value)):
                raise ConfigError(f"the space of method {name!r} {problem}")


def few_updates(study: StudyConfig, splits: Splits) -> list[str]:
    """Tells of methods whose lambda hardly has the steps to learn, a line each."""
    told = []
    for method, config in method_trials(study).items():
        if (learning := config.weighting.learning) is None:
            continue
        schedule = Schedule(steps_per_epoch(config, splits) * config.training.epochs, config.pairs, learning)
        if (updates := schedule.updates) < FEW_UPDATES:
            each = "at each" if learning.every == 1 else f"one in {learning.every}"
            often = f"{updates} times" if updates else "never"
            told.append(
                f"lambda of {method} is updated {often} in a trial of {schedule.steps} steps ({each}, after "
                f"{learning.warmup:.0%} and before the last {learning.hold:.0%}): its matrix will say little; raise "
                "training.epochs, or lower weighting.every or weighting.hold"
            )
    return told


def check_pairs(
    study: StudyConfig, batches: ImageBatches, splits: Splits, tell: Callable[[str], None] = lambda _: None
) -> PairPlan:
    """Checks the pairs of every method against networks and data, and gives the study's own.

    tell  is told, once, what has been done to networks and files so that they fit here
    Raises ConfigError, DataError or FeatureMismatch for a method whose networks, layers and loss do not go together.
    """
    cache = StudyFolder.of(study).cache
    pairs = study.trial().replace(assistants=(), weighting=Uniform().model_dump())
    plan = plan_before_training(pairs, batches, cache)
    told, teachers = set[str](), list[object]()

    def once(words: str) -> None:
        if words not in told:
            told.add(words)
            tell(words)

    for method, config in method_trials(study).items():
        with about(f"method {method}"):
            check_trial(config, batches, splits, cache, once, with_teacher=config.teacher not in teachers)
        teachers.append(config.teacher)
    return plan


def check_teacher(study: StudyConfig, prepared: Prepared, progress: Progress) -> None:
    """Checks that a given teacher is better than its student alone, unless no method learns from it.

    prepared  of a trial without pairs and assistants
    Raises ConfigError where the teacher is no better.
    """
    learnt_from = any(method_of(study, name).base != "ce" for name in method_trials(study))
    if learnt_from and is_given(study.teacher) and not study.teacher.accept_weak:
        require_better_than_student(study.trial(), prepared, progress)
