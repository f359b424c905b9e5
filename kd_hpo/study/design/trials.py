"""The design of a study: which methods are searched over which settings, and what each trial is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any

from kd_hpo.config.arms import ARM, ARMS, arms_of
from kd_hpo.config.load import method_names, probes, with_settings
from kd_hpo.config.methods import METHODS
from kd_hpo.config.pairs import PairsFirst, SquaredLogits
from kd_hpo.config.paths import value_at
from kd_hpo.config.search import ArmName
from kd_hpo.config.study import (
    Choice,
    LogUniformRange,
    Method,
    Range,
    StudyConfig,
    UniformRange,
    around,
    default_space,
    gives,
)
from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.weightings import FixedMatrix
from kd_hpo.config.wording import brief
from kd_hpo.errors import ConfigError
from kd_hpo.study.store.folder import StudyFolder, TrialSpec
from kd_hpo.trial.result import EpochRecord

TPE_LAMBDA = "tpe_lambda"
"""The black-box control: the search chooses all T x S weights."""
CELL = "weighting.matrix."
"""What the dotted path of one of them begins with."""
_NOTHING = object()


def method_of(study: StudyConfig, name: str) -> Method:
    """Gives a method as the study has it, or as METHODS has it. Raises ConfigError for one that is nowhere."""
    own = {method.name: method for method in study.compare.methods if isinstance(method, Method)}
    method = own.get(name) or Method(name=name, base=name)
    if method.base not in METHODS:
        raise ConfigError(f"there is no method {method.base!r}; there are {', '.join(METHODS)}")
    return method


def trial_config(study: StudyConfig, spec: TrialSpec) -> TrialConfig:
    """Makes the whole configuration of one trial: the file's, the method's settings over it, then the seed.

    A method puts its settings over those of `search.space`: plain training stays without KD, whatever weight was found.
    What was searched in the method's own space comes after it, and last the arm, which may leave lambda out.
    """
    method = method_of(study, spec.method)
    paths = study.space.keys() - own_paths(study, spec.method)
    shared = {path: value for path, value in spec.settings.items() if path in paths}
    own = {path: value for path, value in spec.settings.items() if path not in paths and path != ARM}
    if method.base == TPE_LAMBDA:
        own = as_matrix(own)
    if spec.start is not None:
        own = own | {"weighting.start": spec.start}
    config = with_settings(applied(method, with_settings(study.trial(), shared)), own).replace(seed=spec.seed)
    return ARMS[spec.settings[ARM]].change(config) if ARM in spec.settings else config


def is_judged(config: TrialConfig, epoch: int) -> bool:
    """Whether a scheduler and Optuna are told how good the trial is after the epoch: not while its student has seen no label."""
    stages = config.pairs.stages
    return not isinstance(stages, PairsFirst) or epoch > stages.share * config.training.epochs


def judged_records(study: StudyConfig, folder: StudyFolder, spec: TrialSpec) -> list[EpochRecord]:
    """Reads the trial's epochs on disk that a scheduler and Optuna have been told of."""
    records = folder.records(spec.id)
    config = trial_config(study, spec) if records else None
    return [record for record in records if config and is_judged(config, record.epoch)]


def method_trials(study: StudyConfig) -> dict[str, TrialConfig]:
    """Makes a trial at the settings of the file for each method that the study searches or compares."""
    names = [*method_names(study), *([study.search.method] if study.search.trials else [])]
    return {name: trial_config(study, TrialSpec(id=name, kind="compare", method=name, seed=study.seed)) for name in names}


def applied(method: Method, trial: TrialConfig) -> TrialConfig:
    return METHODS[method.base].apply(trial, method.set)


def as_matrix(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the settings with all cells weighting.matrix.t.s as one fixed matrix: each alone would need one to be there."""
    cells = {tuple(map(int, path.removeprefix(CELL).split("."))): settings[path] for path in settings if path.startswith(CELL)}
    others = {path: value for path, value in settings.items() if not path.startswith(CELL)}
    if not cells:
        return others
    T, S = (1 + max(place) for place in zip(*cells, strict=True))
    return {"weighting": {"kind": "fixed", "matrix": [[cells[t, s] for s in range(S)] for t in range(T)]}} | others


# ---- searches


@dataclass(frozen=True)
class Searched:
    """The search of one method: so many trials over its space, by dotted paths."""

    method: str
    trials: int
    space: dict[str, Range]
    first: tuple[dict[str, Any], ...] = ()
    """What the first trials have, as far as the space allows: what the file's settings make of the method, with each arm."""


def searches(study: StudyConfig, shape: tuple[int, int]) -> dict[str, Searched]:
    """Makes every search of the study, by its method; a method whose space is empty has none.

    shape  (T, S), the layers of the study's pairs
    Raises ConfigError where nothing in the space acts on the method that `search` names, or where `tpe_lambda` has no trials.
    """
    budgets = {study.search.method: study.search.trials} if study.search.trials else {}
    budgets |= {name: trials_of_its_own(study, name) for name in method_names(study) if name not in budgets}
    found = {name: searched(study, name, trials, shape) for name, trials in budgets.items() if trials}
    if study.search.trials and not found[study.search.method].space:
        raise ConfigError(
            f"search.space ({', '.join(study.space)}) has nothing that acts on search.method {study.search.method!r}; "
            "give a range that does, or search.trials: 0"
        )
    return {name: search for name, search in found.items() if search.space}


def searched(study: StudyConfig, name: str, trials: int, shape: tuple[int, int]) -> Searched:
    space, config = space_of(study, name, shape), as_in_file(study, name)
    settings = config.model_dump(mode="json")
    first = {path: value_at(settings, path, _left_out(config, path)) for path in space}
    first = {path: _as_chosen(config, path, space[path], value) for path, value in first.items() if value is not _NOTHING}
    if method_of(study, name).base == TPE_LAMBDA:
        first |= _equal_or_given(config, shape)
    each = [{ARM: arm} for arm in arms(study, name)[:trials]] or [{}]
    return Searched(name, trials, space, tuple(first | arm for arm in each))


def arms(study: StudyConfig, name: str) -> tuple[ArmName, ...]:
    """Gives the arms of the method's search: none of a method that `search` does not name, or that learns no lambda."""
    return arms_of(as_in_file(study, name), study.search.arms) if name == study.search.method else ()


def as_in_file(study: StudyConfig, name: str) -> TrialConfig:
    """Makes a trial of the method at the settings of the file."""
    return trial_config(study, TrialSpec(id=name, kind="search", method=name, seed=study.seed))


def _left_out(config: TrialConfig, path: str) -> Any:
    """None for a setting that is null where nothing is written down; else nothing."""
    found: Any = config
    for key in path.split("."):
        found = getattr(found, key, _NOTHING)
    return None if found is None else _NOTHING


def _as_chosen(config: TrialConfig, path: str, chosen: Range, value: Any) -> Any:
    """The value of the settings as a choice writes it, which may leave out what goes without saying: of a network, or a list."""
    options = chosen.values if isinstance(chosen, Choice) else ()
    return value if value in options else next((each for each in options if _attempted(config, path, each) == config), value)


def _equal_or_given(config: TrialConfig, shape: tuple[int, int]) -> dict[str, float]:
    """Where a search of all cells starts: in the middle of their ranges, or at the method's own matrix."""
    matrix = config.weighting.matrix if isinstance(config.weighting, FixedMatrix) else ()
    largest = max((weight for row in matrix for weight in row), default=0)
    if largest and [len(row) for row in matrix] == [shape[1]] * shape[0]:
        return {cell: matrix[t][s] / largest for cell, (t, s) in _cells(shape).items()}
    return dict.fromkeys(_cells(shape), 0.5)


def _cells(shape: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {f"{CELL}{t}.{s}": (t, s) for t in range(shape[0]) for s in range(shape[1])}


def untried(searches: Iterable[Searched]) -> list[str]:
    """Tells what the first trials of searches cannot have of the settings as they are, since no choice holds it; a line each."""
    found: dict[tuple[str, str], list[str]] = {}
    for search in searches:
        for path, value in search.first[0].items():
            if not gives(search.space[path], value):
                found.setdefault((path, brief(value)), []).append(search.method)
    return [
        f"{path} is {value} unless it is searched, and the search of {', '.join(methods)} cannot choose {value}: none of its "
        "trials has it"
        for (path, value), methods in found.items()
    ]


def trials_of_its_own(study: StudyConfig, name: str) -> int:
    """Tells how many trials are searched of a method that `search` does not name.

    They are `tune`; of the black-box control, as many as learned lambda is searched with. Raises ConfigError where it has none.
    """
    if method_of(study, name).base != TPE_LAMBDA:
        return study.compare.tune
    if not (trials := max(study.compare.tune, study.search.trials)):
        raise ConfigError(f"method {name!r} searches lambda, and no trials are given for it; set compare.tune (--tune) above 0")
    return trials


def space_of(study: StudyConfig, name: str, shape: tuple[int, int]) -> dict[str, Range]:
    """Gives the settings that a search of the method chooses: those of `search.space` that act on it, and its own."""
    space = {path: study.space[path] for path in acting_paths(study, name)} | own_space(study, name)
    if method_of(study, name).base == TPE_LAMBDA:
        space |= dict.fromkeys(_cells(shape), UniformRange(low=0, high=1))
    if several := arms(study, name):
        space[ARM] = Choice(values=several)
    return space


def own_paths(study: StudyConfig, name: str) -> set[str]:
    """The paths of the settings that the method has ranges of its own for."""
    method = method_of(study, name)
    return {*METHODS[method.base].space, *_space_of_logits(study, method), *method.space}


def own_space(study: StudyConfig, name: str) -> dict[str, Range]:
    """The ranges that the method brings with it, around what the study sets there, and over them those of the study."""
    method = method_of(study, name)
    config = as_in_file(study, name).model_dump(mode="json") if method.set else {}
    brought = METHODS[method.base].space
    around_set = {path: _around_set(chosen, value_at(config, path)) for path, chosen in brought.items()}
    return {**around_set, **_space_of_logits(study, method), **method.space}


def _space_of_logits(study: StudyConfig, method: Method) -> dict[str, Range]:
    """The ranges of a loss of the logits that the method has and the study has not: that of the study fits another kind."""
    trial = study.trial()
    config = applied(method, trial)
    if config.kd.kind == trial.kd.kind:
        return {}
    without = "kd.temperature" if isinstance(config.kd, SquaredLogits) and config.pairs.logits == "outside" else ""
    return {path: chosen for path, chosen in default_space(config).items() if path.startswith("kd.") and path != without}


def _around_set(chosen: Range, value: Any) -> Range:
    """A range of METHODS, in whose middle the published value is, moved to another one."""
    if not isinstance(chosen, LogUniformRange) or not isinstance(value, float):
        return chosen
    published = (chosen.low * chosen.high) ** 0.5
    return chosen if isclose(value, published) else around(chosen, published, value)


def acting_paths(study: StudyConfig, name: str) -> list[str]:
    """Finds the paths of `search.space` that act on the method: of two of their values, its trials come out different.

    A path for which the method has a range of its own is not among them.
    """
    from kd_hpo.trial.effect import effect  # it builds losses, with torch

    method, own, trial = method_of(study, name), own_paths(study, name), study.trial()
    values = {path: [value for _, value in probes(chosen)] for path, chosen in study.space.items() if path not in own}
    for path in values:  # where the file has kd.weight 0, kd.temperature acts once the weight is chosen
        trial = _attempted(trial, path, values[path][-1])

    def acts(path: str) -> bool:
        effects = [effect(applied(method, _attempted(trial, path, value))) for value in values[path]]
        return len(effects) == 1 or any(each != effects[0] for each in effects)  # one value is a setting to make, not to choose

    return [path for path in values if acts(path)]


def _attempted(trial: TrialConfig, path: str, value: Any) -> TrialConfig:
    """The trial with the value, or as it is where the two do not go together."""
    try:
        return with_settings(trial, {path: value})
    except ConfigError:
        return trial


# ---- the comparison


def compared_ids(study: StudyConfig) -> dict[str, tuple[str, int]]:
    """The method and the seed of each trial of the comparison."""
    seeds = range(study.seed, study.seed + study.compare.seeds)
    return {f"{name}-s{seed}": (name, seed) for seed in seeds for name in method_names(study)}
