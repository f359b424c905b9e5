"""How well each direction's hypergradient knows what a pair is worth: its rank correlation with measured utilities.

    python studies/bench/directions.py studies/seed_cifar10.yaml --set data.path=/data/cifar10 \\
        --utilities studies/bench/seed_cifar10_utilities.json

For each direction and outer objective one run with uniform weights (mixed back after each update), as many epochs as asked;
what `train_step` would learn from is recorded. Each hypergradient is centred and divided by its deviation; printed is
Spearman's correlation of minus their mean with the utilities, by epoch and over all, and the time of a run beside that of a run
with uniform weights that looks at no hypergradient.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor

from kd_hpo import load_study
from kd_hpo.config.load import with_settings
from kd_hpo.config.trial import TrialConfig
from kd_hpo.core.directions import DIRECTIONS
from kd_hpo.errors import Diverged
from kd_hpo.trial.loop import run_epoch
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.start import start_trial

OBJECTIVES = ("task", "task_and_teacher")


def recorded(config: TrialConfig, prepared: Prepared, epochs: int) -> tuple[list[list[Tensor]], float]:
    """Of each epoch, the hypergradients (T, S) that lambda would learn from; CPU seconds of the run."""
    started, found = time.process_time(), list[list[Tensor]]()
    trial = start_trial(config, prepared)
    assert trial.pairs is not None
    learned: list[Tensor] = []
    trial.pairs.weighting.learn = learned.append  # type: ignore[attr-defined, method-assign]
    with trial.student:
        for _ in range(epochs):
            run_epoch(trial, None)
            found.append(learned.copy())
            learned.clear()
    return found, time.process_time() - started


def correlation(hypergradients: list[Tensor], utilities: Tensor) -> float:
    units = [(h - h.mean()) / h.std() for h in hypergradients]
    return float(spearmanr(-torch.stack(units).mean(0).flatten(), utilities.flatten()).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--utilities", type=Path, required=True)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--strength", type=float, default=5.0)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    given = parser.parse_args()

    measured = json.loads(given.utilities.read_text())
    mean = {pair: sum(seeds.values()) / len(seeds) for pair, seeds in measured["accuracy"].items()}
    utilities = torch.tensor([[mean[f"{t} -> {s}"] for s in measured["student"]] for t in measured["teacher"]])
    base = with_settings(
        load_study(given.study, given.set).trial(),
        {"kd.weight": 1.0, "kd.temperature": 4.0, "pairs.strength": given.strength},
    )
    prepared = prepare(base, given.cache, print)

    def run(**weighting: object) -> tuple[list[list[Tensor]], float]:
        learned = {"kind": "learned", "warmup": 0.02, "hold": 0.0, "outer_batch": 640, **weighting}
        return recorded(with_settings(base, {"weighting": learned}), prepared, given.epochs)

    never = [run(every=10**9)[1] for _ in range(2)][-1]  # the first one warms up
    table = Table("direction", "outer objective", *(str(1 + e) for e in range(given.epochs)), "all", "time")
    for objective in given.objectives:
        for kind in DIRECTIONS:
            print(f"{kind}, {objective} ...", flush=True)
            try:
                found, seconds = run(direction={"kind": kind}, outer_objective=objective)
            except Diverged:
                table.add_row(kind, objective, *["diverged"] * given.epochs, "", "")
                continue
            by_epoch = [f"{correlation(epoch, utilities):.2f}" if epoch else "" for epoch in found]
            every = correlation([h for epoch in found for h in epoch], utilities)
            table.add_row(kind, objective, *by_epoch, f"{every:.2f}", f"{seconds / never:.2f}")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
