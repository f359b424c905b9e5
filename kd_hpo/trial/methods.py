"""Every method as a change of a trial's settings: the same networks, data, steps and seeds, another weighting."""

from collections.abc import Callable
from dataclasses import dataclass

from kd_hpo.config import trial as settings
from kd_hpo.config.settings import Settings
from kd_hpo.config.trial import TrialConfig


@dataclass(frozen=True)
class MethodSpec:
    title: str
    """How a person reads it in a table."""
    apply: Callable[[TrialConfig], TrialConfig]


def _weighted(weighting: Settings) -> Callable[[TrialConfig], TrialConfig]:
    return lambda config: config.replace(weighting=weighting.model_dump())


def _cross_entropy(config: TrialConfig) -> TrialConfig:
    return config.replace(kd=config.kd.replace(weight=0).model_dump(), weighting=settings.NoPairs().model_dump())


def _learned(config: TrialConfig) -> TrialConfig:
    if isinstance(config.weighting, settings.LearnedWeights):
        return config
    return config.replace(weighting=settings.LearnedWeights().model_dump())


METHODS: dict[str, MethodSpec] = {
    "as_given": MethodSpec("as the study file says", lambda config: config),
    "ce": MethodSpec("student alone", _cross_entropy),
    "kd": MethodSpec("KD", _weighted(settings.NoPairs())),
    "vid": MethodSpec("KD + VID, same depth", _weighted(settings.SameDepth())),
    "semckd": MethodSpec("KD + SemCKD's attention", _weighted(settings.CrossLayerAttention())),
    "uniform": MethodSpec("KD + uniform lambda", _weighted(settings.Uniform())),
    "random": MethodSpec("KD + random lambda", _weighted(settings.RandomPoint())),
    "learned": MethodSpec("KD + learned lambda", _learned),
}
