"""Numbers that pages show and MLflow does not hold: importance of the outer settings, tests of methods, agreement of seeds."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial
from scipy.stats import rankdata

from kd_hpo.config.task import Goal
from kd_hpo.study.results.comparison import not_worse, paired, spread
from kd_hpo.study.results.significance import holm

LEAST_TRIALS = 5
"""Completed trials below which no importance is told."""
SCORES = {"test": "test", "test_best": "test at the best epoch by val", "val": "val"}
"""Of a comparison, and how a person reads them; after the last epoch where nothing else is said."""


class TooFew(Exception):
    """There is too little to say anything, and what is needed."""


def varied(settings: pd.DataFrame) -> list[str]:
    """The settings that every trial has and that differ between trials."""
    return [str(name) for name in settings if settings[name].notna().all() and settings[name].nunique() > 1]


def is_log(values: pd.Series) -> bool:
    """Whether the numbers are positive and span more than a decade."""
    return bool(pd.api.types.is_numeric_dtype(values) and values.min() > 0 and values.max() > 10 * values.min())


def importance(settings: pd.DataFrame, scores: pd.Series, goal: Goal) -> pd.Series:
    """Tells what share of the differences between completed trials each setting explains, by Optuna's PED-ANOVA.

    The largest comes first. MLflow holds what was sampled, not the ranges: they are taken from the samples. Raises TooFew.
    """
    names = varied(settings)
    if len(settings) < LEAST_TRIALS or not names:
        raise TooFew(
            f"importance needs {LEAST_TRIALS} completed trials of the search whose settings differ; there are {len(settings)}"
        )
    ranges = {name: _range(settings[name]) for name in names}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if goal.mode == "max" else "minimize")
    for (_, row), value in zip(settings[names].iterrows(), scores, strict=True):
        sampled = {name: _as_sampled(row[name], ranges[name]) for name in names}
        study.add_trial(create_trial(params=sampled, distributions=ranges, value=float(value)))
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return pd.Series(found, dtype=float).sort_values(ascending=False)


def _range(values: pd.Series) -> BaseDistribution:
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return FloatDistribution(float(values.min()), float(values.max()), log=is_log(values))
    return CategoricalDistribution(sorted(values.astype(str).unique()))


def _as_sampled(value: object, among: BaseDistribution) -> Any:
    return float(str(value)) if isinstance(among, FloatDistribution) else str(value)


def tests(scores: Mapping[str, Mapping[int, float]], against: str, goal: Goal, margin: float) -> pd.DataFrame:
    """A table of methods, the best mean first: mean, standard deviation, rank, and the paired difference to one of them.

    p_value    of a paired t-test, two-sided; p_holm is corrected for the number of methods that are tested (Holm 1979)
    not_worse  whether a method is worse than that one by no more than the margin: yes, no or unknown
    """
    rows = []
    for method, by_seed in scores.items():
        average, deviation = spread(by_seed.values())
        difference, p_value = paired(by_seed, scores[against]) if method != against else (np.nan, np.nan)
        told = not_worse(by_seed, scores[against], margin, goal)[0] if method != against else None
        rows.append((method, len(by_seed), average, deviation, difference, p_value, told))
    columns = ["method", "seeds", "mean", "deviation", "difference", "p_value", "not_worse"]
    frame = pd.DataFrame(rows, columns=columns).set_index("method")
    frame["p_holm"] = holm(list(frame["p_value"]))
    frame["rank"] = _mean_ranks(scores, goal)
    return frame.sort_values("mean", ascending=goal.mode == "min")


def _mean_ranks(scores: Mapping[str, Mapping[int, float]], goal: Goal) -> pd.Series:
    """By score at each seed that all methods have; 1 is the best."""
    shared = set.intersection(*(set(by_seed) for by_seed in scores.values())) if scores else set()
    ranks = [rankdata([-goal.worth(by_seed[seed]) for by_seed in scores.values()]) for seed in sorted(shared)]
    return pd.Series(np.mean(ranks, axis=0) if ranks else np.nan, index=list(scores))


def agreement(weights: Sequence[NDArray[np.float64]]) -> float:
    """The mean rank correlation (Spearman) of the pairs between two seeds; nan for fewer than two, or where one is constant."""
    ranks = [rankdata(each) for each in weights]
    constant = any(each.std() == 0 for each in ranks)
    if len(ranks) < 2 or constant:
        return float("nan")
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in combinations(ranks, 2)]))
