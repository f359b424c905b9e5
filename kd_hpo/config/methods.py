"""Every method as a change of a trial's settings: the same networks, data, steps and seeds, other losses and weights."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kd_hpo.config import pairs as settings
from kd_hpo.config import weightings
from kd_hpo.config.load import with_settings
from kd_hpo.config.settings import Settings
from kd_hpo.config.study import IntRange, LogUniformRange, Range
from kd_hpo.config.training import WarmUp
from kd_hpo.config.trial import Assistant, Network, TrialConfig
from kd_hpo.errors import ConfigError


@dataclass(frozen=True)
class MethodSpec:
    title: str
    """How a person reads it in a table."""
    paper: str
    """Where its loss and weights come from."""
    change: Callable[[TrialConfig], TrialConfig]
    space: Mapping[str, Range] = field(default_factory=dict)
    """Ranges of the settings that are its own, for a search beside those of the study."""
    brings_logits: bool = False
    """Whether it has a loss of the logits of its own, which its title names."""
    assistants: Callable[[TrialConfig], tuple[Assistant, ...]] | None = None
    """Those between its teacher and its student; None has what `change` leaves."""

    def apply(self, trial: TrialConfig, changes: Mapping[str, Any] = MappingProxyType({})) -> TrialConfig:
        """The trial as the method has it, then dotted paths replaced; `assistants` among them stand in for the method's own."""
        method = self.change(trial)
        if self.assistants and "assistants" not in changes:
            taught = self.assistants(trial.replace(kd=method.kd.model_dump()))
            method = method.replace(assistants=[each.model_dump() for each in taught])
        return with_settings(method, changes)


def _set(weighting: Settings, **changes: Any) -> Callable[[TrialConfig], TrialConfig]:
    """Replaces the weighting and some settings of the pairs, and leaves the assistants out, which few methods use."""

    def apply(config: TrialConfig) -> TrialConfig:
        pairs = config.pairs.replace(**{name: _plain(value) for name, value in changes.items()})
        return config.replace(weighting=weighting.model_dump(), pairs=pairs.model_dump(), assistants=())

    return apply


def _published(loss: Settings, weighting: Settings, strength: float, **changes: Any) -> Callable[[TrialConfig], TrialConfig]:
    """A published method beside KD: its loss on its pairs, at its own strength, with gradients as they are."""
    return _with_kd(
        _set(weighting, loss=loss, strength=strength, balance=settings.Unbalanced(), logits="outside", batch_share=1.0, **changes)
    )


def _with_kd(apply: Callable[[TrialConfig], TrialConfig]) -> Callable[[TrialConfig], TrialConfig]:
    """With the study's term of the logits outside the matrix, at its usual weight where the study has switched it off."""
    return lambda config: apply(
        config if config.kd.weight else config.replace(kd=config.kd.replace(weight=usual_weight(config.kd)).model_dump())
    )


def usual_weight(kd: settings.LogitLoss) -> float:
    """The weight that a loss of the logits has where none is given."""
    return float(type(kd).model_fields["weight"].default)


def _with_logits(kd: settings.LogitLoss, apply: Callable[[TrialConfig], TrialConfig]) -> Callable[[TrialConfig], TrialConfig]:
    """With this loss of the logits, at the study's settings where that has one of the kind, else at the published ones."""

    def applied(config: TrialConfig) -> TrialConfig:
        is_given = isinstance(config.kd, type(kd)) and config.kd.weight
        return apply(config if is_given else config.replace(kd=kd.model_dump()))

    return applied


_WARM_UP = WarmUp(epochs=1 / 12)
"""That of DKD and ReviewKD, 20 epochs of their 240, as a share, so that short trainings have it too."""
_WARMED = ", warmed up over a twelfth of the epochs"

_LOGIT_TERMS = {
    "standardised": "standardised KD",
    "dkd": "DKD",
    "dist": "DIST",
    "mse": "squared logits",
    "ofa": "OFA's loss of logits",
    "callable": "own loss of logits",
}


def title_of(name: str, config: TrialConfig) -> str:
    """Gives the title of one of METHODS in the trial that it makes: with what compares the logits, where that is not Hinton's.

    It also says where the trial has not the published warm-up.
    """
    method = METHODS[name]
    title, epochs = method.title, config.training.epochs
    schedule = config.kd.schedule if method.brings_logits else config.pairs.schedule
    if not isinstance(schedule, WarmUp) or schedule.length(epochs) != _WARM_UP.length(epochs):
        title = title.replace(_WARMED, ", without the published warm-up")
    if config.kd.kind not in _LOGIT_TERMS or method.brings_logits:
        return title
    return re.sub(r"\bKD\b", _LOGIT_TERMS[config.kd.kind], title, count=1)


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Settings) else value


def _student_alone(config: TrialConfig) -> TrialConfig:
    alone = _set(weightings.NoPairs())(config)
    return alone.replace(kd=config.kd.replace(weight=0, task_weight=None).model_dump())


def _learned(config: TrialConfig) -> TrialConfig:
    learned = config.weighting if config.weighting.learning else weightings.LearnedWeights()
    return _set(learned)(config)


def _assistant(config: TrialConfig, factor: float, weighting: Settings, pairs: Settings) -> tuple[Assistant, ...]:
    """One of the student's family, `factor` times as wide."""
    network = widened(config.student.network, factor)
    layers, training, kd = config.student.layers, config.training, config.kd
    return (Assistant(network=network, layers=layers, training=training, kd=kd, pairs=pairs, weighting=weighting),)


def _of_exits(config: TrialConfig) -> TrialConfig:
    exits = {"loss": settings.Exit(), "logits": "inside", "unserved": "leave_out", "balance": settings.Unbalanced()}
    return _set(weightings.Exits(), strength=4, batch_share=1.0, **exits)(config)


def _of_takd(config: TrialConfig) -> tuple[Assistant, ...]:
    """The study's assistants, or one of its own where the study has none."""
    return config.assistants or _assistant(config, 1.5, weightings.NoPairs(), config.pairs)


def _of_ifm(config: TrialConfig) -> tuple[Assistant, ...]:
    """Its auxiliary teacher, of the student's family and taught by PKT; the study's assistants may be meant for others."""
    by_pkt = settings.Pairs(loss=settings.Pkt(), strength=30_000, balance=settings.Unbalanced())
    return _assistant(config, 2, weightings.SelectedPair(pair="last"), by_pkt)


def widened(network: Network, factor: float) -> Network:
    """The same network with `factor` times the channels. Raises ConfigError where its arguments name no widths."""
    defaults: dict[str, dict[str, Any]] = {
        "plain_conv": {"channels": [16, 32, 64], "hidden": 128},
        "cifar_resnet": {"width": 1},
        "wrn": {"width": 1},
        "cifar_mobilenetv2": {"width": 0.5},
        "cifar_shufflenetv1": {"channels": 240},
        "cifar_shufflenetv2": {"channels": [116, 232, 464]},
    }
    if network.name not in defaults:
        raise ConfigError(
            f"there is no rule to widen the network {network.name!r}; give the method its assistants in the study file "
            "(compare.methods: [{name: ..., base: ..., set: {assistants: [...]}}]), or a student of "
            f"{', '.join(defaults)}"
        )
    given = {name: network.arguments.get(name, value) for name, value in defaults[network.name].items()}

    def wide(value: Any) -> Any:
        if isinstance(value, float):
            return factor * value
        return round(factor * value) if isinstance(value, int) else [wide(each) for each in value]

    return network.replace(arguments={**network.arguments, **{name: wide(value) for name, value in given.items()}})


def _strength(default: float) -> dict[str, Range]:
    """A factor of ten either way."""
    return {"pairs.strength": LogUniformRange(low=default / 10, high=default * 10)}


def _of_logits(title: str, paper: str, kd: settings.LogitLoss) -> MethodSpec:
    return MethodSpec(title, paper, _with_logits(kd, _set(weightings.NoPairs())), brings_logits=True)


METHODS: dict[str, MethodSpec] = {
    "as_given": MethodSpec("as the study file says", "", lambda config: config),
    "ce": MethodSpec("student alone", "", _student_alone),
    "kd": MethodSpec("KD", "Hinton et al. 2015", _with_kd(_set(weightings.NoPairs()))),
    "standardised": _of_logits("KD of standardised logits", "Sun et al. 2024", settings.Standardised()),
    "dkd": _of_logits(f"DKD{_WARMED}", "Zhao et al. 2022, eq. 7", settings.Decoupled(schedule=_WARM_UP)),
    "dist": _of_logits("DIST", "Huang et al. 2022, eq. 10", settings.Correlation()),
    "mse": _of_logits("squared difference of logits", "Ba & Caruana 2014; Kim et al. 2021", settings.SquaredLogits()),
    "fitnets": MethodSpec(
        "FitNets: hint stage, then KD",
        "Romero et al. 2015, eq. 3",
        # The published weight of 100 is that of hint and labels in one stage; in a stage of its own it only scales the step.
        _published(settings.Hint(), weightings.SelectedPair(pair="middle"), 1, stages=settings.PairsFirst()),
        _strength(1),
    ),
    "at": MethodSpec(
        "KD + attention transfer",
        "Zagoruyko & Komodakis 2017, eq. 2",
        _published(settings.Attention(), weightings.SameDepth(), 3_000, unserved="leave_out"),
        _strength(3_000),
    ),
    "sp": MethodSpec(
        "KD + similarity-preserving",
        "Tung & Mori 2019, eq. 4",
        _published(settings.Similarity(), weightings.SelectedPair(pair="last_map"), 3_000),
        _strength(3_000),
    ),
    "vid": MethodSpec(
        "KD + VID, same depth",
        "Ahn et al. 2019, eq. 5",
        _published(settings.Gaussian(), weightings.SameDepth(), 4),
        _strength(4),
    ),
    "pkt": MethodSpec(
        "KD + PKT",
        "Passalis & Tefas 2018, eq. 9",
        _published(settings.Pkt(), weightings.SelectedPair(pair="last"), 30_000),
        _strength(30_000),
    ),
    "rkd": MethodSpec(
        "KD + RKD, distances and angles",
        "Park et al. 2019, eq. 5-8",
        _published(settings.Relational(), weightings.SelectedPair(pair="last"), 1),
        _strength(1),
    ),
    "crd": MethodSpec(
        "KD + CRD, embeddings by Adam",
        "Tian et al. 2020, eq. 18-19",
        _published(settings.Contrast(), weightings.SelectedPair(pair="last"), 0.8, regressor_gradient="weighted"),
        _strength(0.8),
    ),
    "reviewkd": MethodSpec(
        f"KD + ReviewKD, regressors by Adam{_WARMED}",
        "Chen et al. 2021 (CVPR), eq. 6-8",
        # The authors have .6 to 8 for a level, by the pair of networks; 5 for most, and four levels.
        _published(settings.Review(), weightings.SameDepth(), 20, regressor_gradient="weighted", schedule=_WARM_UP),
        _strength(20),
    ),
    "ofa": MethodSpec(
        "OFA: its loss of logits, and linear exits",
        "Hao et al. 2023, eq. 6",
        _with_logits(settings.TargetEnhanced(), _of_exits),
        # The authors weigh each of four exits with 1, and make an exit of convolutions.
        _strength(4),
        brings_logits=True,
    ),
    "ifm": MethodSpec(
        "KD + information flow, auxiliary teacher",
        "Passalis et al. 2020, eq. 8-9",
        _published(settings.InformationFlowDivergence(), weightings.InformationFlow(), 1_000),
        _strength(1_000),
        assistants=_of_ifm,
    ),
    "takd": MethodSpec(
        "KD through an assistant", "Mirzadeh et al. 2020", _with_kd(_set(weightings.NoPairs())), assistants=_of_takd
    ),
    "semckd": MethodSpec(
        "KD + SemCKD's attention, on linear regressors",
        "Chen et al. 2021, eq. 4-8",
        _published(settings.Hint(relu=False), weightings.CrossLayerAttention(), 400),
        _strength(400),
    ),
    "semckd_own": MethodSpec(
        "KD + SemCKD: its regressors and gradient path, those by Adam",
        "Chen et al. 2021, eq. 4-8",
        _published(
            settings.Hint(relu=False, regressor="convolutions"),
            weightings.CrossLayerAttention(),
            400,
            regressor_gradient="weighted",
        ),
        _strength(400),
    ),
    "uniform": MethodSpec("KD + uniform lambda", "", _set(weightings.Uniform())),
    "random": MethodSpec("KD + random lambda", "", _set(weightings.RandomPoint())),
    "rail": MethodSpec("KD + random layers, redrawn each epoch", "Haidar et al. 2022", _set(weightings.RandomLayers())),
    "random_search": MethodSpec(
        "KD + lambda by random search",
        "Bergstra & Bengio 2012",
        _set(weightings.RandomPoint(draw=0)),
        {"weighting.draw": IntRange(low=0, high=10**6)},
    ),
    # kd_hpo.study.design.trials gives it trials and a space, one number a pair: what is here is where they start.
    "tpe_lambda": MethodSpec("KD + lambda chosen by Optuna (TPE)", "Bergstra et al. 2011", _set(weightings.Uniform())),
    "hetero": MethodSpec("KD + learned lambda", "the seed paper", _learned),
}
