"""The pairs of a distiller at their start, and when what is due in its steps."""

from collections.abc import Callable

from torch import Tensor

from kd_hpo.core.balance import NoBalance
from kd_hpo.core.pair_losses import PairLoss
from kd_hpo.distiller.settings import Distilling
from kd_hpo.errors import ConfigError
from kd_hpo.nets.teacher_view import TeacherView
from kd_hpo.trial.problem import PairState
from kd_hpo.trial.schedule import Schedule
from kd_hpo.trial.weighting import compared_examples, served_pairs, weighting_of


def start_pairs(
    settings: Distilling, loss: PairLoss, view: TeacherView, batch: int, scales: Tensor | None, tell: Callable[[str], None]
) -> PairState | None:
    """Makes the pairs of the teacher's view with the student's layers; None where the settings have none.

    batch   examples of a training batch
    scales  (T, S), in the place of a balance; None takes that of the settings
    Raises ConfigError or FeatureMismatch where settings do not fit the layers.
    """
    if not settings.weighting.paired:
        return None
    plan, device = view.plan, view.precision.device
    examples = compared_examples(settings.pairs, batch)
    served = served_pairs(loss, plan, settings.pairs)
    pairs = PairState.at_start(
        plan,
        loss,
        weighting_of(settings.weighting, plan, served, seed=settings.seed, examples=examples, device=device),
        settings.pairs,
        settings.weighting.learning,
        temperature=settings.kd.temperature,
        seed=settings.seed,
        device=device,
        tell=tell,
    )
    if scales is not None:
        if tuple(scales.shape) != plan.shape:
            raise ConfigError(f"scales are {tuple(scales.shape)}, and the layers are {plan.shape}, teacher first; give these")
        pairs.balance = NoBalance(plan.shape, scales)
    return pairs


def schedule_of(settings: Distilling, steps: int | None, pairs: PairState | None) -> Schedule:
    """Makes the plan of all steps; without their number, none that depends on it."""
    if pairs is None:
        return Schedule(steps or 1)
    if pairs.direction is None:
        return Schedule(steps or 1, settings.pairs)
    return Schedule(steps or 1, settings.pairs, settings.weighting.learning, pairs.direction)
