"""Which pairs of a trial are weighted, and how, from its settings."""

from functools import partial
from math import ceil

import torch
from torch import Tensor

from kd_hpo.callables import import_callable
from kd_hpo.config import weightings as settings
from kd_hpo.config.pairs import Pairs
from kd_hpo.config.trial import TrialConfig
from kd_hpo.core.attention import Attention
from kd_hpo.core.learned import Learned
from kd_hpo.core.pair_losses import PairLoss
from kd_hpo.core.plan import PairPlan
from kd_hpo.core.simplex import SIMPLEX_UPDATES
from kd_hpo.core.weightings import (
    CONSTANT_WEIGHTINGS,
    Constant,
    InformationFlow,
    RandomLayers,
    Replay,
    Weighting,
    one_pair,
    random_point,
    same_depth,
    selected_pair,
)
from kd_hpo.errors import ConfigError, FeatureMismatch
from kd_hpo.trial.randomness import WEIGHTING, generator

_CPU = torch.device("cpu")


def served_pairs(loss: PairLoss, plan: PairPlan, pairs: Pairs) -> Tensor:
    """Tells which pairs the loss serves: 1 in (T, S). Raises FeatureMismatch where one is not, and may not be left out."""
    T, S = plan.shape
    found = {(t, s): loss.serves(plan.teacher[t], plan.student[s], plan.target_size(t, s)) for t in range(T) for s in range(S)}
    reasons = {pair: reason for pair, reason in found.items() if reason and not (plan.logits_pair and pair == (T - 1, S - 1))}
    if reasons and pairs.unserved == "refuse":
        (t, s), reason = next(iter(reasons.items()))
        more = f" (and {len(reasons) - 1} more pairs)" if len(reasons) > 1 else ""
        raise FeatureMismatch(
            f"the loss {pairs.loss.kind} cannot compare teacher layer {plan.teacher[t]} with student layer {plan.student[s]}"
            f"{more}: {reason}. Leave these layers out, choose another pairs.loss, or set pairs.unserved: leave_out"
        )
    served = torch.ones(plan.shape)
    for pair in reasons:
        served[pair] = 0
    if not served.any():
        raise FeatureMismatch(f"the loss {pairs.loss.kind} can compare no pair of these layers; choose others or another loss")
    return served


def build_weighting(config: TrialConfig, plan: PairPlan, served: Tensor, device: torch.device = _CPU) -> Weighting:
    """Makes the weighting of a trial, as `weighting_of` does."""
    examples = compared_examples(config.pairs, config.training.batch_size)
    return weighting_of(config.weighting, plan, served, seed=config.seed, examples=examples, device=device)


def weighting_of(
    weighting: settings.Weighting, plan: PairPlan, served: Tensor, *, seed: int, examples: int, device: torch.device
) -> Weighting:
    """Makes the weighting of the served pairs (T, S); what the training loss trains of it is on the device.

    examples  how many of a batch are compared
    Raises ConfigError or FeatureMismatch where the settings do not fit the plan's T x S layers, or weigh no served pair.
    """
    shape = plan.shape

    def constant(weights: Tensor) -> Constant:
        return Constant(_of_served(weights, served, plan))

    match weighting:
        case settings.LearnedWeights():
            update = SIMPLEX_UPDATES[weighting.update]
            return Learned(
                served,
                update,
                step=weighting.step,
                average=None if weighting.evidence else weighting.average,
                mix=weighting.mix,
                forget=weighting.forget,
                matched=weighting.pairing == "one_to_one",
                keep=max(1, min(shape) // 2) if weighting.keep == "half" else weighting.keep,
                within=weighting.strength_within,
                start=_start(weighting, served, plan),
            )
        case settings.OwnWeighting():
            return own_weighting(weighting, served, plan)
        case settings.OnePair(teacher=teacher, student=student):
            t = _position(teacher, [layer.name for layer in plan.teacher], "teacher")
            return constant(one_pair(shape, t, _position(student, [layer.name for layer in plan.student], "student")))
        case settings.Exits():
            return constant(_exits(plan))
        case settings.SelectedPair(pair=pair):
            return constant(one_pair(shape, *selected_pair(plan, pair)))
        case settings.RandomPoint(draw=draw):
            return constant(random_point(shape, generator(seed if draw is None else draw, WEIGHTING)))
        case settings.FixedMatrix(matrix=matrix):
            return constant(_matrix(matrix, shape))
        case settings.ExportedMatrix(path=path):
            raise ConfigError(
                f"weighting names the export {path}; kd_hpo.load_study reads it, or give its matrix with `kind: fixed`"
            )
        case settings.ReplayedMatrices(matrices=matrices, totals=totals):
            recorded = [_of_served(_matrix(matrix, shape), served, plan) for matrix in matrices]
            return Replay(recorded, served, start=_start(weighting, served, plan), totals=totals)
        case settings.InformationFlow(start=start, decay=decay):
            return InformationFlow(_of_served(same_depth(shape), served, plan), start=start, decay=decay)
        case settings.RandomLayers():
            return RandomLayers(served, logits=plan.logits_pair, chance=partial(generator, seed, WEIGHTING))
        case settings.CrossLayerAttention(lr=lr, factor=factor):
            return Attention(served, examples, lr=lr, factor=factor, generator=generator(seed, WEIGHTING), device=device)
        case _:
            return constant(CONSTANT_WEIGHTINGS[weighting.kind](shape))


def _exits(plan: PairPlan) -> Tensor:
    """Raises ConfigError for a plan in which the logits teach no layer of the student."""
    T, S = plan.shape
    if not plan.logits_pair or S == 1:
        raise ConfigError(
            "weighting exits has the teacher's logits teach the student's layers; set pairs.logits: inside, which makes them a "
            "layer, and give student.layers"
        )
    weights = torch.zeros(T, S)
    weights[-1, :-1] = 1 / (S - 1)
    return weights


def own_weighting(weighting: settings.OwnWeighting, served: Tensor, plan: PairPlan) -> Weighting:
    """Gives the weighting that the user's callable makes. Raises ConfigError where it is none, or learns and should not."""
    start = _start(weighting, served, plan)
    options = weighting.options if start is None else {**weighting.options, "start": start}
    made = import_callable(weighting.callable)(served, **options)
    if not isinstance(made, Weighting):
        raise ConfigError(
            f"{weighting.callable} returned a {type(made).__name__}; a weighting has learns, reads_features, weights, of_epoch, "
            "total, support, learn, parameter_groups, state_dict and load_state_dict: return an object like those in "
            "kd_hpo.core.weightings"
        )
    if made.learns != weighting.moves:
        raise ConfigError(
            f"weighting.moves is {str(weighting.moves).lower()}, and what {weighting.callable} returned says learns = "
            f"{made.learns}; make the two agree"
        )
    return made


def compared_examples(pairs: Pairs, batch: int) -> int:
    """Tells how many examples of a batch, its first ones, the pairs are compared on."""
    return ceil(pairs.batch_share * batch)


def _start(weighting: settings.Learning | settings.ReplayedMatrices, served: Tensor, plan: PairPlan) -> Tensor | None:
    if weighting.start is None:
        return None
    return _of_served(_matrix(weighting.start, plan.shape, "weighting.start"), served, plan)


def _of_served(weights: Tensor, served: Tensor, plan: PairPlan) -> Tensor:
    if (weights * served).sum() > 0:
        return weights * served
    pairs = [f"{plan.teacher[t].name} -> {plan.student[s].name}" for t, s in weights.nonzero().tolist()]
    raise FeatureMismatch(
        f"the weighting has only pairs that the loss cannot compare: {', '.join(pairs)}; choose other layers, another weighting "
        "or another pairs.loss"
    )


def _position(name: str, layers: list[str], whose: str) -> int:
    if name not in layers:
        raise FeatureMismatch(
            f"weighting.{whose} is {name!r}, which is not among the {whose} layers of the study: {', '.join(layers)}"
        )
    return layers.index(name)


def _matrix(matrix: settings.Matrix, shape: tuple[int, int], where: str = "weighting") -> Tensor:
    given = (len(matrix), *sorted({len(row) for row in matrix}))
    if given != shape or sum(map(sum, matrix)) <= 0:
        raise ConfigError(
            f"{where} has a matrix of {' x '.join(map(str, given))} with sum {sum(map(sum, matrix))}; "
            f"accepted is {shape[0]} rows (teacher layers) of {shape[1]} (student layers), not negative, with a sum above 0"
        )
    return torch.tensor(matrix)
