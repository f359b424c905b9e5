"""How well the balance balances: the spread between pairs of their scales over those that exact norms give, as a study trains.

    python studies/bench/balance.py studies/digits.yaml --set "pairs.balance={kind: gradient}"
    python studies/bench/balance.py studies/seed_cifar10.yaml --set data.path=/data/cifar10 --epochs 8

At some steps from that on at which pairs are switched on, each pair's gradient in the student's parameters is computed by itself,
on the step's own batch and on three others, with the regressors of that step, in the metric of the student's optimiser: under
Adam, of gradients over the root of its second moments. A pair's pull is its scale times that norm; the spread is the largest
pull over the smallest, 1 where the balance is exact; the level is the pulls' geometric mean over the norm of the task's gradient.
Pairs without weight, once lambda is held, are left out, as the balance leaves them.
"""

import argparse
import os
import statistics
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from kd_hpo import load_study
from kd_hpo.core.balance import gains
from kd_hpo.data.batches import Indices, drawn_batch, shuffled_batches
from kd_hpo.trial.passes import as_targets, buffers_of, needed_pairs, run_student
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.randomness import ORDER, random_state_kept
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.state import Trial
from kd_hpo.trial.steps import train_step

OTHERS = 3
"""Batches beside the step's own."""


def exact_squares(trial: Trial, batch: Indices) -> Tensor:
    """(1 + T S,): the squared norms of the gradients of the task and of each pair, one pass back for each."""
    assert trial.pairs is not None
    names, parameters = zip(*trial.parameters.items(), strict=True)
    metric = gains(trial.optimizer, trial.parameters)
    with random_state_kept():
        seen = trial.see(batch, trial.schedule.at(trial.step), remembers=False)
        output, features = run_student(trial, seen.view.x, buffers_of(trial))
        assert seen.targets is not None
        matrix = trial.pairs.losses(as_targets(features), seen.targets)
        losses = [trial.objective.task_loss(output, seen.view), *matrix.flatten()]
        found = []
        for loss in losses:
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            parts = [(g * metric.get(n, 1)).square().sum() for n, g in zip(names, gradients, strict=True) if g is not None]
            found.append(torch.stack(parts).sum())
    return torch.stack(found).cpu()


def spread_and_level(squares: Tensor, scales: Tensor, counted: Tensor) -> tuple[float, float]:
    pulls = (scales.flatten() * squares[1:].sqrt())[counted.flatten()]
    return float(pulls.max() / pulls.min()), float((pulls.log().mean() - squares[0].log() / 2).exp())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--epochs", type=int, help="so many of the trial's, instead of all")
    parser.add_argument(
        "--looks", type=int, default=24, help="steps at which norms are computed, the first five after the switch"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = load_study(given.study, given.set).trial()
    prepared = prepare(config, given.cache)
    trial = start_trial(config, prepared)
    epochs = given.epochs or config.training.epochs
    last, found, first = epochs * trial.steps_per_epoch, list[tuple[float, float, float]](), None
    due = set[int]()
    with trial.student:
        for epoch in range(epochs):
            for batch in shuffled_batches(prepared.splits.train, config.training.batch_size, config.seed, ORDER, epoch):
                step, batch = trial.step, trial.viewed(batch)
                looked: list[Tensor] = []
                if first is None or step in due:
                    others = [drawn_batch(prepared.splits.train, len(batch), config.seed, 99, step, i) for i in range(OTHERS)]
                    ready = trial.pairs is not None and step + 1 >= getattr(config.pairs.balance, "measures", 1)
                    looked = [exact_squares(trial, trial.viewed(b)) for b in (batch, *others)] if ready else []
                held = trial.schedule.at(step).measures_weighted_only
                train_step(trial, batch)
                assert trial.pairs is not None
                scales = trial.pairs.balance.scales()
                if looked and scales.any():
                    if first is None:
                        first = step
                        due = {first + 3, first + 8, first + 20, first + 40}
                        due |= set(range(first, last, max(1, (last - first) // (given.looks - 5))))
                    needed = needed_pairs(trial, trial.pairs, held)
                    counted = torch.ones_like(scales, dtype=torch.bool) if needed is None else needed.cpu()
                    own, _ = spread_and_level(looked[0], scales, counted)
                    mean, level = spread_and_level(torch.stack(looked).mean(0), scales, counted)
                    found.append((own, mean, level))
                    print(f"step {step:5}  spread {own:6.2f}, over four batches {mean:6.2f}  level {level:.2f}", flush=True)
            trial.epoch += 1
    for name, values in zip(("spread", "over four batches", "level"), zip(*found, strict=True), strict=True):
        print(f"{name:18} median {statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}, first {values[0]:.2f}")


if __name__ == "__main__":
    main()
