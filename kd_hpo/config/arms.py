"""The arms of a search of lambda: what its first trials are, controls among them, and what every later one chooses from.

The hypergradient says in which direction a weight should go. It cannot say that equal weights held still, a diagonal or no
pairs at all would be better: that is measured.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kd_hpo.config import weightings
from kd_hpo.config.search import ArmName
from kd_hpo.config.settings import Settings
from kd_hpo.config.trial import TrialConfig

ARM = "arm"
"""The name of the choice among the settings of a trial of a search."""
WEAK = 1 / 3
"""What the arm `weak` multiplies the strength of the pairs by."""


@dataclass(frozen=True)
class Arm:
    title: str
    """How a person reads it."""
    learns: bool
    """Whether lambda moves in its trials; where it does not, the arm is a control."""
    change: Callable[[TrialConfig], TrialConfig]
    """Of a trial whose lambda is learned."""
    confined: bool = False
    """Whether it confines lambda to some pairs, as a weighting of one's own may not allow."""


def _held(weighting: Settings) -> Callable[[TrialConfig], TrialConfig]:
    return lambda trial: trial.replace(weighting=weighting.model_dump())


def _learned(**changes: object) -> Callable[[TrialConfig], TrialConfig]:
    return lambda trial: trial.replace(weighting=trial.weighting.replace(**changes).model_dump())


def _weak(trial: TrialConfig) -> TrialConfig:
    return trial.replace(pairs=trial.pairs.replace(strength=trial.pairs.strength * WEAK).model_dump())


ARMS: dict[ArmName, Arm] = {
    "learned": Arm("lambda as the study has it", True, lambda trial: trial),
    "kd": Arm("no pairs", False, _held(weightings.NoPairs())),
    "uniform": Arm("equal weights, held", False, _held(weightings.Uniform())),
    "diagonal": Arm("the diagonal, held", False, _held(weightings.SameDepth())),
    "one_to_one": Arm("lambda of an assignment of layers", True, _learned(pairing="one_to_one", keep=None), confined=True),
    "few": Arm("lambda of half an assignment of layers", True, _learned(pairing="one_to_one", keep="half"), confined=True),
    "weak": Arm("lambda at a third of the strength", True, _weak),
}


def arms_of(trial: TrialConfig, names: tuple[ArmName, ...]) -> tuple[ArmName, ...]:
    """Gives those of the arms that make trials of their own of a trial: of two that make the same one, the first.

    There are none of a trial that learns no lambda.
    """
    if trial.weighting.learning is None:
        return ()
    made: dict[ArmName, TrialConfig] = {}
    for name in names:
        if ARMS[name].confined and not trial.weighting.confinable:
            continue
        changed = ARMS[name].change(trial)
        if changed not in made.values():
            made[name] = changed
    return tuple(made)
