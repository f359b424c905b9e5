"""How a search chooses settings (`search.sampler`) and ends trials early (`search.scheduler`), each by its kind."""

from math import ceil
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from kd_hpo.config.settings import Settings


def _kind_alone(given: Any) -> Any:
    """`sampler: qmc` for `sampler: {kind: qmc}`."""
    return {"kind": given} if isinstance(given, str) else given


def _kind_or_null(given: Any) -> Any:
    return _kind_alone("none" if given is None else given)


# ---- samplers


def startup_trials_of(trials: int) -> int:
    """Tells how many of a search's trials are drawn at random where its sampler does not: a third, ten at most."""
    return min(ceil(trials / 3), 10)


class Tpe(Settings):
    """Tree-structured Parzen estimator (Bergstra et al. 2011); learns from trials that were stopped, too."""

    title: ClassVar[str] = "TPE"
    kind: Literal["tpe"] = "tpe"
    startup_trials: PositiveInt | None = None
    """Trials that have ended before it leaves off drawing at random; null: a third of the search's trials, ten at most."""


class RandomDraws(Settings):
    """Independent draws, on the ranges' own scale (Bergstra & Bengio 2012)."""

    title: ClassVar[str] = "random"
    kind: Literal["random"] = "random"


class GaussianProcess(Settings):
    """Expected improvement under a Gaussian process; learns from completed trials only. A suggestion takes seconds."""

    title: ClassVar[str] = "Gaussian process"
    kind: Literal["gp"] = "gp"
    startup_trials: PositiveInt | None = None
    """Completed trials before it leaves off drawing at random; null: a third of the search's trials, ten at most."""


class CmaEs(Settings):
    """CMA-ES (Hansen 2016) over numbers, a generation of completed trials at a time; what is no number is drawn at random."""

    title: ClassVar[str] = "CMA-ES"
    kind: Literal["cma-es"] = "cma-es"
    startup_trials: PositiveInt = 1
    """Completed trials before it leaves off drawing at random."""
    population: Annotated[int, Field(ge=4)] | None = None
    """Completed trials of a generation; null: 4 + 3 ln(number of ranges)."""


class QuasiRandom(Settings):
    """A low-discrepancy sequence, which fills the space more evenly than draws do; learns from no trial."""

    title: ClassVar[str] = "QMC"
    kind: Literal["qmc"] = "qmc"
    sequence: Literal["sobol", "halton"] = "sobol"
    scramble: bool = True
    """By `search.seed`; without it the sequence is always the same, and begins in the corner of all lower ends."""


class Nsga2(Settings):
    """NSGA-II (Deb et al. 2002) as a genetic search of one goal; learns from completed trials only."""

    title: ClassVar[str] = "NSGA-II"
    kind: Literal["nsga2"] = "nsga2"
    population: Annotated[int, Field(ge=2)] = 50
    """Completed trials of a generation, of which the first is drawn at random."""


Sampler = Tpe | RandomDraws | GaussianProcess | CmaEs | QuasiRandom | Nsga2
SamplerSetting = Annotated[Sampler, Field(discriminator="kind"), BeforeValidator(_kind_alone)]


# ---- arms

ArmName = Literal["learned", "kd", "uniform", "diagonal", "one_to_one", "few", "weak"]
"""One of kd_hpo.config.arms.ARMS."""


class Race(Settings):
    """The last round of a search that has arms: its best ones once more, at seeds that are nobody else's.

    The best arm that learns lambda and the best control are always among them. What a search found best was so by chance too;
    the arm that is the best of the race by the mean over its seeds is the study's answer.
    """

    arms: Annotated[int, Field(ge=2)] = 2
    seeds: Annotated[NonNegativeInt, Field(le=1_000)] = 2
    """0 holds no race: the answer is the arm of the best trial."""


# ---- schedulers


class WithGrace(Settings):
    """A scheduler that leaves young trials alone."""

    grace_epochs: PositiveInt = 3
    """Which every trial has, or all of its epochs where there are fewer."""


class Asha(WithGrace):
    """Stops poor trials early (asynchronous successive halving, Li et al. 2020), by what the search goes by."""

    title: ClassVar[str] = "ASHA"
    kind: Literal["asha"] = "asha"
    reduction_factor: Annotated[int, Field(ge=2)] = 3


class Hyperband(WithGrace):
    """Successive halving in brackets whose graces differ, so that late starters are given time (Li et al. 2018).

    A trial is compared with those of its bracket.
    """

    title: ClassVar[str] = "HyperBand"
    kind: Literal["hyperband"] = "hyperband"
    reduction_factor: Annotated[int, Field(ge=2)] = 3


class Median(WithGrace):
    """Stops a trial whose best epoch so far is below the median of the completed trials at its epoch (Golovin et al. 2017)."""

    title: ClassVar[str] = "the median rule"
    kind: Literal["median"] = "median"
    startup_trials: NonNegativeInt = 5
    """Completed trials before any is stopped."""


class Percentile(WithGrace):
    """Stops a trial whose best epoch so far is not among the best share of the completed trials at its epoch."""

    title: ClassVar[str] = "the percentile rule"
    kind: Literal["percentile"] = "percentile"
    kept: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """The share of the completed trials."""
    startup_trials: NonNegativeInt = 5
    """Completed trials before any is stopped."""


class Patient(Settings):
    """Stops a trial that has got worse for some epochs, whatever the others do."""

    title: ClassVar[str] = "patience"
    kind: Literal["patient"] = "patient"
    patience: PositiveInt = 5
    """Epochs: a trial is stopped once the best of its last `patience` + 1 is worse than the best before them."""
    min_delta: NonNegativeFloat = 0.0
    """By how much worse, at least."""


class NoScheduler(Settings):
    title: ClassVar[str] = "none"
    kind: Literal["none"] = "none"


Scheduler = Asha | Hyperband | Median | Percentile | Patient | NoScheduler
SchedulerSetting = Annotated[Scheduler, Field(discriminator="kind"), BeforeValidator(_kind_or_null)]


# ---- budgets


class Budgets(Settings):
    """What ends a search before it has had all its trials. A study that has begun may be given others.

    What a search has used stands in its study's folder, and counts when it is continued.
    """

    hours: PositiveFloat | None = None
    """Of the clock, for all searches of the study and the race of the arms: a trial is asked for while it would end in time, by
    those that completed, and what still runs at the end is stopped after an epoch. A race begins only if time is left, and then
    ends. The comparison comes after it, whatever it takes. null: no limit."""
    trial_hours: PositiveFloat | None = None
    """A trial of a search that has taken longer is stopped after an epoch. null: no limit."""
    until: FiniteFloat | None = None
    """A value of what the search goes by (`search.by`): no trial is asked for once one has completed that is as good. What runs
    then goes on. null: none."""
