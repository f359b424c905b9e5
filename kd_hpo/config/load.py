"""Reads a study file, and finds all that can be known to be wrong in it before anything runs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any

from kd_hpo.config.explain import Mistake
from kd_hpo.config.paths import Keys, join_path, split_key, value_at
from kd_hpo.config.read import read_settings, replace_path, replace_paths
from kd_hpo.config.search import WithGrace
from kd_hpo.config.settings import StorageUri
from kd_hpo.config.study import Choice, IntRange, LogUniformRange, Method, Range, StudyConfig, UniformRange
from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.wording import brief, not_one_of
from kd_hpo.errors import ConfigError


def read_study(path: Path, overrides: Sequence[str] = (), *, methods: Collection[str]) -> StudyConfig:
    """Reads a study file; its paths become absolute, from the current folder, since trials run elsewhere.

    methods  the names that a study may use: kd_hpo.config.methods.METHODS
    Raises ConfigError, one line for each mistake: unknown keys, wrong values, methods that are unknown or named twice,
    splits of more than all images, a scheduler that never acts, ranges of settings that do not exist or refuse them.
    """
    return with_absolute_paths(read_settings(StudyConfig, path, overrides, lambda study: mistakes(study, methods)))


def mistakes(study: StudyConfig, methods: Collection[str]) -> Iterator[Mistake]:
    """Finds what is wrong between settings that are valid each by itself."""
    yield from wrong_methods(study, methods)
    yield from wrong_splits(study)
    if study.search.trials or study.compare.tune:
        yield from wrong_scheduler(study)
        yield from wrong_ranges(study)
        yield from easy_teachers(study)


_ANY_TEACHER = ("layers", "features", "cached_views", "cache_precision", "cache_gb")
"""Of the teacher, what does not act on its outputs."""


def easy_teachers(study: StudyConfig) -> Iterator[Mistake]:
    """Finds ranges that choose the teacher of a search by agreement: the one that is easiest to agree with would win."""
    if study.search.by != "agreement":
        return
    methods = [(i, method) for i, method in enumerate(study.compare.methods) if isinstance(method, Method)]
    own: list[tuple[Keys, Mapping[str, Range]]] = [(("compare", "methods", str(i), "space"), each.space) for i, each in methods]
    for at, space in [(("search", "space"), study.search.space or {}), *own]:
        for path in space:
            keys = split_key(path)
            if keys[0] == "teacher" and keys[1:2] not in [(name,) for name in _ANY_TEACHER]:
                yield _mistake(
                    (*at, *keys),
                    "would choose the teacher that is easiest to agree with, since search.by is agreement; leave it out, or "
                    "set search.by: metric or loss",
                )


def wrong_methods(study: StudyConfig, methods: Collection[str]) -> Iterator[Mistake]:
    held: dict[str, Keys] = {}
    for i, (name, method) in enumerate(zip(method_names(study), study.compare.methods, strict=True)):
        at: Keys = ("compare", "methods", str(i))
        name_at, base_at, base = ((*at, "name"), (*at, "base"), method.base) if isinstance(method, Method) else (at, at, method)
        if base not in methods:
            yield _mistake(base_at, not_one_of(base, methods))
        if name in held:
            yield _mistake(name_at, f"is {brief(name)}, as {join_path(held[name])} is; give each method a name of its own")
        held.setdefault(name, name_at)
    searched = [*methods, *(method.name for method in study.compare.methods if isinstance(method, Method))]
    if study.search.trials and study.search.method not in searched:
        yield _mistake(("search", "method"), not_one_of(study.search.method, searched))


def wrong_splits(study: StudyConfig) -> Iterator[Mistake]:
    """Finds fractions of the splits that take more than all images, or leave none to train.

    Where a data set may have a test half of its own, a fraction in `test` may be of that half.
    """
    names = ["train", "outer", "val"] + ["test"] * (not study.data.may_have_test_half)
    shares = {name: size for name in names if isinstance(size := getattr(study.splits, name), float)}
    total, rest_is_train = fsum(shares.values()), study.splits.train is None
    if total > 1 + 1e-9 or (rest_is_train and total > 1 - 1e-9):
        given = " + ".join(f"{name} {share:g}" for name, share in shares.items())
        due = "less than 1, as train takes what they leave" if rest_is_train else "at most 1"
        yield _mistake(("splits",), f"takes {given} = {total:g} of the images; these fractions should sum to {due}")


def wrong_scheduler(study: StudyConfig) -> Iterator[Mistake]:
    scheduler, epochs = study.search.scheduler, study.training.epochs
    if isinstance(scheduler, WithGrace) and scheduler.grace_epochs > max(epochs, WithGrace().grace_epochs):
        problem = f"is {scheduler.grace_epochs}; it should be at most {epochs}, which is training.epochs: lower both"
        yield _mistake(("search", "scheduler", "grace_epochs"), problem)


def wrong_ranges(study: StudyConfig) -> Iterator[Mistake]:
    """Finds ranges of `search.space` that the trial refuses, or that do not hold its own values; the default ones always fit."""
    trial = study.trial()
    settings = trial.model_dump(mode="json")
    for dotted, chosen in (study.search.space or {}).items():
        at = ("search", "space", *split_key(dotted))
        for below, value in probes(chosen):
            try:
                replace_path(trial, dotted, value)
            except ConfigError as error:
                yield Mistake((*at, *below), f"search.space cannot choose {brief(value)}: {error}")
                break
        else:
            if problem := beyond(dotted, chosen, value_at(settings, dotted)):
                yield Mistake(at, f"search.space {problem}")


def beyond(dotted: str, chosen: Range, value: Any) -> str:
    """Tells what is wrong with a range that does not hold the number that the settings have there; empty where nothing is.

    A search starts from the settings as they are. What is no number, a range cannot hold.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(chosen, Choice) or not is_number or chosen.low <= value <= chosen.high:
        return ""
    return (
        f"goes from {chosen.low:g} to {chosen.high:g} for {dotted}, which is {value:g} itself, and a search starts from the "
        f"settings as they are: widen the range to hold {value:g}, or set {dotted} to a value in it"
    )


def probes(chosen: Range) -> Iterator[tuple[Keys, Any]]:
    """Values that stand for all of a range, and where each is written: its ends, and what tells it from whole numbers."""
    match chosen:
        case Choice(values=values):
            yield from ((("values", str(i)), value) for i, value in enumerate(values))
        case IntRange(low=low, high=high):
            yield from ((("low",), low), (("high",), high))
        case UniformRange(low=low, high=high) | LogUniformRange(low=low, high=high):
            yield from ((("low",), low), (("high",), high), ((), low + (high - low) / 2**0.5))


def with_settings(trial: TrialConfig, changes: Mapping[str, Any]) -> TrialConfig:
    """The trial with dotted paths replaced. Raises ConfigError as replace_path does."""
    return replace_paths(trial, changes)


def with_absolute_paths(study: StudyConfig) -> StudyConfig:
    """Gives the study with absolute paths, `~` written out. Raises ConfigError for the home of a user who has none."""
    absolute: dict[str, Path] = {}
    for dotted, place in {"runs": study.runs, **places_read(study)}.items():
        if isinstance(place, Path):
            try:
                absolute[dotted] = place.expanduser().absolute()
            except RuntimeError as error:
                raise ConfigError(f"{dotted} is {brief(str(place))}: there is no such home; write the path in full") from error
    return replace_paths(study, absolute)


def places_read(study: StudyConfig | TrialConfig) -> dict[str, Path | str]:
    """The folders and files that trials read, on disk or in storage, by the dotted paths of the settings that name them."""
    weights = {"teacher.weights": study.teacher.weights, "student.weights": study.student.weights}
    data = {f"data.{field}": place for field, place in study.data.places().items()}
    if isinstance(study.data.unlabelled, Path | StorageUri):
        data["data.unlabelled"] = study.data.unlabelled
    return data | {dotted: file for dotted, file in weights.items() if file is not None}


def method_names(study: StudyConfig) -> tuple[str, ...]:
    return tuple(m.name if isinstance(m, Method) else m for m in study.compare.methods)


def _mistake(keys: Keys, problem: str) -> Mistake:
    return Mistake(keys, f"{join_path(keys)} {problem}")
