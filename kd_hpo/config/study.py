"""What a study does: a trial, the search around it, the methods it is compared with, and where it runs."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from kd_hpo.config.pairs import Correlation, Decoupled, Distillation, LearnedVariance, Pairs, TargetEnhanced
from kd_hpo.config.search import ArmName, Asha, Budgets, Race, SamplerSetting, SchedulerSetting, Tpe
from kd_hpo.config.settings import FilePath, Key, Plain, Seed, Settings, WrittenAs
from kd_hpo.config.task import Goal, Task
from kd_hpo.config.training import Sgd
from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.weightings import LearnedWeights
from kd_hpo.errors import without_secrets

Name = Annotated[
    str, WrittenAs(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "letters, digits, '.', '_' and '-', 64 at most, a letter or digit first")
]
TAKEN = ("cache", "applied", "mlflow-artifacts", "mlflow.db")
"""What else stands in a runs folder, beside the studies."""
VARIABLE = r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}"
"""Of the environment, in a tracking URI."""


def _not_taken(name: str) -> str:
    if name in TAKEN:
        raise ValueError(f"it should be another name: in the runs folder, {', '.join(TAKEN)} are not studies")
    return name


def _runs_folder(runs: Path) -> Path:
    if set("?%") & set(str(runs)):
        raise ValueError(
            "it should be a folder without '?' and '%' in its path: the tracking database's URI reads them otherwise"
        )
    return runs


def _no_secret(uri: str) -> str:
    """Whatever stands in a study file stands in its record, in its trials and on command lines."""
    literal = re.sub(VARIABLE, "", uri)
    try:
        scheme = urlsplit(literal).scheme
    except ValueError as error:
        raise ValueError(f"it should be a URI ({error})") from error
    user, colon, password = (re.findall("(?<=://)(.*)@", literal) or [""])[0].partition(":")
    rest = re.sub("(?<=://).*@", "", literal)
    token = user if not colon and "/" not in user and scheme in ("http", "https") else ""
    if password or token or without_secrets(rest) != rest:
        raise ValueError(
            "it should hold no password or token; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment, "
            "or name a variable there: ${NAME} in the URI stands for what it holds"
        )
    return uri


class _Between(Settings):
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "_Between":
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class UniformRange(_Between):
    kind: Literal["uniform"] = "uniform"


class LogUniformRange(_Between):
    kind: Literal["loguniform"] = "loguniform"
    low: PositiveFloat


class IntRange(_Between):
    """A range of whole numbers, both ends included."""

    kind: Literal["int"] = "int"
    low: int
    high: int


class Choice(Settings):
    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Plain, ...], Field(min_length=1)]


Range = Annotated[UniformRange | LogUniformRange | IntRange | Choice, Field(discriminator="kind")]


def gives(chosen: Range, value: Any) -> bool:
    """Whether the value is one that the range can give."""
    if isinstance(chosen, Choice):
        return value in chosen.values
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and chosen.low <= value <= chosen.high and not (isinstance(chosen, IntRange) and value % 1)


def _log(low: float, high: float) -> LogUniformRange:
    return LogUniformRange(low=low, high=high)


DEFAULT_SPACE: dict[str, Range] = {
    "training.optimizer.lr": _log(0.01, 0.2),
    "pairs.strength": _log(0.5, 20.0),
    "pairs.loss.variance.start": _log(0.2, 5.0),
    "pairs.loss.variance.floor": _log(1e-4, 0.1),
    "pairs.regressor_lr": _log(2e-3, 5e-2),
    "weighting.step": _log(0.01, 0.3),
    "kd.weight": _log(0.3, 4.0),
    "kd.temperature": _log(1.5, 10.0),
}
"""What is searched where a study gives no space and leaves these settings, and its optimiser, as they come."""
_OF_LOGIT_LOSSES: dict[str, LogUniformRange] = {
    "kd.others": _log(1.0, 16.0),
    "kd.intra_class": _log(0.25, 4.0),
    "kd.power": _log(1.0, 2.0),
}
"""Beside DEFAULT_SPACE, of the kinds of `kd` that have them."""
_AS_IT_COMES = {
    "training.optimizer.lr": Sgd().lr,
    "pairs.strength": Pairs().strength,
    "pairs.loss.variance.start": LearnedVariance().start,
    "pairs.loss.variance.floor": LearnedVariance().floor,
    "pairs.regressor_lr": Pairs().regressor_lr,
    "weighting.step": LearnedWeights().step,
    "kd.weight": Distillation().weight,
    "kd.temperature": Distillation().temperature,
    "kd.others": Decoupled().others,
    "kd.intra_class": Correlation().intra_class,
    "kd.power": TargetEnhanced().power,
}


def around(chosen: LogUniformRange, centre: float, value: float) -> LogUniformRange:
    """The range moved to a value, which then lies in it as `centre` does in the given one."""
    return _log(chosen.low * (value / centre), chosen.high * (value / centre))


def default_space(trial: TrialConfig) -> dict[str, Range]:
    """The ranges of DEFAULT_SPACE moved to the trial's own values: as far below and above them, whatever optimiser they are for.

    It is without the settings that the trial has not, as those of a pair loss of another kind, or has switched off with 0; a
    kind of `kd` that is not Hinton's is searched around its own published values, and in what it has beside them.
    """
    values = {path: _number_at(trial, path) for path in (*DEFAULT_SPACE, *_OF_LOGIT_LOSSES)}
    space = {path: around(_as_log(path), _AS_IT_COMES[path], value) for path, value in values.items() if value}
    start, floor = (space.get(f"pairs.loss.variance.{end}") for end in ("start", "floor"))
    if start and floor and floor.high >= start.low:  # they would be searched past each other, which no trial can have
        between = (values["pairs.loss.variance.start"] * values["pairs.loss.variance.floor"]) ** 0.5
        space["pairs.loss.variance.start"] = _log(max(start.low, between), start.high)
        space["pairs.loss.variance.floor"] = _log(floor.low, min(floor.high, between))
    return dict(space)


def _as_log(path: str) -> LogUniformRange:
    chosen = _OF_LOGIT_LOSSES.get(path) or DEFAULT_SPACE[path]
    assert isinstance(chosen, LogUniformRange)
    return chosen


def _number_at(settings: object, dotted: str) -> float:
    """0 where there is none."""
    for key in dotted.split("."):
        settings = getattr(settings, key, 0.0)
    return settings if isinstance(settings, float) else 0.0


class Search(Budgets):
    """Optuna's search over the outer settings."""

    trials: Annotated[NonNegativeInt, Field(le=1_000_000)] = 10
    """0 searches nothing: methods are compared at the settings of the file. The first trial of a search has those: a range that
    does not hold the file's number is refused, and a choice that does not hold its value is told."""
    method: str = "hetero"
    """Whose outer settings are searched: one of kd_hpo.config.methods.METHODS, or a name of `compare.methods`."""
    space: Annotated[dict[Key, Range], Field(min_length=1)] | None = None
    """Dotted paths of the trial's configuration, and the range that each is chosen from; null searches learning rates, strengths
    and the like around the file's own values (kd_hpo.config.study.default_space)."""
    sampler: SamplerSetting = Tpe()
    """What chooses from the ranges, by its kind alone or with its own settings: tpe, random, gp, cma-es, qmc or nsga2
    (kd_hpo.config.search)."""
    scheduler: SchedulerSetting = Asha()
    """What ends poor trials early, likewise: asha, hyperband, median, percentile, patient or none."""
    by: Literal["metric", "loss", "agreement"] = "metric"
    """What tells a better trial of a search from a worse one: on `val`, the task's metric, which a study file may also call by
    its name, as accuracy, or its loss, as cross-entropy, which depends less on chance where `val` is small; or agreement, the
    task's own distance to the teacher's outputs (of classification, KL in nats), which needs no labels: on the images of
    `data.unlabelled`, where there are such, else on `val`."""
    seed: Seed = 0
    repeats: Annotated[PositiveInt, Field(le=10)] = 1
    """How many independent searches there are, each with a comparison after it, its own teacher (`teacher.seed`, where it is
    trained here), split (`splits.seed`) and seeds, as a study of its own: NAME, NAME-r2, and so on. What one search finds, with
    one teacher on one split, may be chance; the last table is over the repeats."""
    arms: tuple[ArmName, ...] = ("learned", "kd", "uniform", "diagonal", "one_to_one", "few", "weak")
    """What the first trials of the search of `method` are, one each, where it learns lambda: controls, and forms of learned
    lambda. Later trials choose among them too, and the study's answer is the best one with its matrix. kd has no pairs; uniform
    and diagonal hold their weights; learned is `weighting` as it stands, one_to_one the same with `pairing: one_to_one`, few
    with half of these pairs, weak at a third of `pairs.strength`. Empty: lambda is learned in every trial."""
    race: Race = Race()
    """The best arms once more, at other seeds: arms and seeds say how many. These trials come on top of `trials`."""
    carry_lambda: bool = False
    """Whether lambda is learned over whole trials: one of a search starts from the matrix of its method's best trial so far, and
    one of the comparison from what the best trial of the search started from, which may be nothing."""


class Method(Settings):
    """A trial to compare with: a method with some settings replaced."""

    name: Name
    base: str
    """One of kd_hpo.config.methods.METHODS, which the settings start from."""
    set: dict[Key, Plain] = Field(default={})
    """Dotted paths of the trial's configuration and their values."""
    space: dict[Key, Range] = Field(default={})
    """Ranges of its own, where it is tuned for itself; they come over those of `search.space`."""


class Compare(Settings):
    """The comparison after the search: each method once a seed, on the same splits and for as many steps.

    The seeds are counted from that of the study; no trial of a search has one of them.
    """

    methods: tuple[str | Method, ...] = ("ce", "kd", "vid", "uniform", "hetero")
    seeds: Annotated[PositiveInt, Field(le=10_000)] = 3
    tune: Annotated[NonNegativeInt, Field(le=1_000_000)] = 0
    """Trials of a search of its own for each method that `search` does not name, whose best settings it then has; with 0 they
    all have the best settings of the search, but `tpe_lambda`, which then has as many trials as the search."""
    margin: NonNegativeFloat = 0.005
    """Of the task's metric: the table says of each method whether it is worse than the best control by no more than that. A
    difference that is not significant does not say so."""

    def extends(self, other: "Compare") -> bool:
        """Whether this comparison has all of the other one, in the same way, and perhaps more."""
        return all(m in self.methods for m in other.methods) and self.seeds >= other.seeds and self.tune == other.tune


class Resources(Settings):
    """The machines that the study runs on, and what each trial may use of them."""

    address: str = "local"
    """local starts Ray on this machine; auto, host:port or ray://host:port join a cluster."""
    cpus_per_trial: PositiveFloat = 1.0
    gpus_per_trial: NonNegativeFloat = 0.0
    custom_per_trial: dict[Key, PositiveFloat] = Field(default={})
    """Ray's custom resources, by name, that keep trials on the nodes that have them."""
    concurrent_trials: PositiveInt | None = None
    """null: as many as the resources allow."""
    max_failures: NonNegativeInt = 1
    """How often a trial whose process dies is started again from its last checkpoint."""


class Tracking(Settings):
    """The place where a study is shown beside its folder."""

    model_config = ConfigDict(hide_input_in_errors=True)

    kind: Annotated[str, WrittenAs(r"(?:mlflow|[A-Za-z_][\w.]*:[A-Za-z_]\w*)", "mlflow, or package.module:callable")] = "mlflow"
    """MLflow, or a callable of your own that is given the study and returns a kd_hpo.study.tracking.tracker.Tracker."""
    uri: Annotated[str, AfterValidator(_no_secret)] | None = None
    """Of MLflow; null follows MLFLOW_TRACKING_URI where that is set, and keeps a SQLite file in the runs folder elsewhere.
    It holds no password: `${NAME}` in it stands for that variable of the environment, wherever a process of the study runs."""
    patience_s: PositiveFloat = 30.0
    """How long the end of a study waits for a tracker that does not answer. What it lacks then, `kd-hpo resume` writes."""


_TASK: TypeAdapter[Task] = TypeAdapter(Task)


class StudyConfig(TrialConfig):
    """A study file: the fields of a trial, and how a study searches around them.

    Frozen: `replace(field=...)` gives another one, checked anew. Raises pydantic's ValidationError for what is not accepted;
    `load_study` reads a file of it and names every mistake with its line.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # a traceback shows no tracking URI that was refused

    name: Annotated[Name, AfterValidator(_not_taken)]
    search: Search = Search()
    compare: Compare = Compare()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    runs: Annotated[FilePath, AfterValidator(_runs_folder)] = Path("runs")
    """The folder of all that is written: the study's own folder, the tracking database, the shared cache."""

    @model_validator(mode="before")
    @classmethod
    def _by_the_name_of_the_metric(cls, data: Any) -> Any:
        """`search.by: accuracy` is `search.by: metric` of a task whose metric is called so."""
        search = data.get("search") if isinstance(data, Mapping) else None
        if not isinstance(search, Mapping) or "by" not in search:
            return data
        try:
            task = _TASK.validate_python(data.get("task", cls.model_fields["task"].default))
        except ValidationError:
            return data  # which tells of that
        return {**data, "search": {**search, "by": "metric"}} if search["by"] == task.goal.metric else data

    @property
    def goal(self) -> Goal:
        """The goal that the study's search goes by."""
        if self.search.by == "agreement":
            return replace(self.task.agreement, split="val" if self.data.unlabelled is None else "unlabelled")
        return self.task.loss if self.search.by == "loss" else self.task.goal

    @property
    def space(self) -> dict[str, Range]:
        """The ranges that the study's search chooses from: `search.space`, or the default ranges around its own values."""
        return self.search.space or default_space(self)

    def trial(self) -> TrialConfig:
        return TrialConfig.model_validate(self.model_dump(include=set(TrialConfig.model_fields)))
