"""How well what is known without test ranks settings: metric and loss on val, agreement with the teacher on val and on others.

    python studies/bench/agreement.py studies/digits.yaml --seeds 2 --teacher train_and_extra --teacher train \
        --variant "as it is" --variant "weak pairs" pairs.strength=1

Each variant is a trial with other settings. It is scored by the metric on dev, half of the images that no split holds, which the
student has never seen and which choose nothing; what would have ranked it is read at an early epoch and at the last, and
compared with dev by Spearman's rank correlation over the trials. 1 is a measure that ranks as dev does. With `--teacher
train_and_extra` the teacher has been trained on the other half of these images, where agreement is measured, and on dev.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.stats import spearmanr

from kd_hpo import load_study, run_trial
from kd_hpo.config.trial import TrialConfig
from kd_hpo.nets.weights import load_weights
from kd_hpo.trial.agreement import opinion_of
from kd_hpo.trial.evaluate import agreement, score
from kd_hpo.trial.loop import LAST_WEIGHTS
from kd_hpo.trial.parts import build
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.result import EpochRecord

OTHERS, AS_MANY = "agreement, other half of extra", "agreement, as many of these as val has"


@dataclass(frozen=True)
class Ranked:
    """A trial: its metric on dev after the last epoch, and what could have ranked it, by moment and measure, as merits."""

    dev: float
    merits: Mapping[tuple[str, str], float]


def ranked(config: TrialConfig, cache: Path, early: int) -> Ranked:
    prepared = prepare(config, cache)
    batches, task, extra = prepared.batches, prepared.task, prepared.splits.extra
    dev, others = extra[::2], opinion_of(prepared.teacher.network, batches, extra[1::2], cache, "images of extra")
    as_many = slice(None, None, max(1, len(others.images) // len(prepared.splits.val)))
    goals = {f"{goal.name} on val": goal for goal in (config.task.goal, config.task.loss)}
    goals["agreement on val"] = config.task.agreement
    network, merits = build(config.student.network, batches, task, seed=config.seed), dict[tuple[str, str], float]()
    with TemporaryDirectory() as folder:

        def look(record: EpochRecord) -> None:
            """The student's weights of the epoch are in the folder when it is reported."""
            moments = {early: f"epoch {early}", config.training.epochs: "last epoch"}
            if (moment := moments.get(record.epoch)) is None:
                return
            load_weights(network, Path(folder) / LAST_WEIGHTS)
            for name, goal in goals.items():
                merits[moment, name] = goal.merit(record.metrics)
            for name, some in ((OTHERS, slice(None)), (AS_MANY, as_many)):
                merits[moment, name] = -agreement(network, task, batches, others.images[some], others.outputs[some])

        run_trial(config, look, cache=cache, folder=Path(folder), prepared=prepared)
    return Ranked(config.task.goal.worth(score(network, task, batches, dev).value), merits)


def table(found: Mapping[str, Sequence[Ranked]]) -> list[str]:
    """Markdown: a row for each moment and measure, a column for each teacher."""
    keys = list(next(iter(found.values()))[0].merits)
    lines = [f"| at | measure | {' | '.join(f'teacher of `{name}`' for name in found)} |", "|---|---|" + "---|" * len(found)]
    for at, measure in keys:
        each = (spearmanr([t.merits[at, measure] for t in trials], [t.dev for t in trials])[0] for trials in found.values())
        lines.append(f"| {at} | {measure} | {' | '.join(f'{value:.2f}' for value in each)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--variant", action="append", required=True, nargs="+", metavar=("NAME", "PATH=VALUE"))
    parser.add_argument(
        "--teacher", action="append", choices=("train", "train_and_extra"), help="teacher.images; both if not given"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--early", type=float, default=0.2, help="the early moment, as a share of the epochs")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    given = parser.parse_args()
    named = [(seed, name, settings) for seed in range(given.seeds) for name, *settings in given.variant]
    teachers = given.teacher or ("train_and_extra", "train")

    def trial_of(teacher: str, seed: int, settings: Sequence[str]) -> TrialConfig:
        changes = [*given.set, "search.trials=0", f"teacher.images={teacher}", *settings]
        return load_study(given.study, changes).trial().replace(seed=seed)

    trials = {teacher: [trial_of(teacher, seed, settings) for seed, _, settings in named] for teacher in teachers}
    found: dict[str, list[Ranked]] = {teacher: [] for teacher in teachers}
    for teacher, configs in trials.items():
        for (seed, name, _), config in zip(named, configs, strict=True):
            trial = ranked(config, given.cache, max(1, round(given.early * config.training.epochs)))
            found[teacher].append(trial)
            told = "  ".join(f"{at} {measure} {value:.4f}" for (at, measure), value in trial.merits.items())
            print(f"teacher of {teacher}  seed {seed}  {name:24} dev {trial.dev:.4f}  {told}", flush=True)
        devs = [trial.dev for trial in found[teacher]]
        print(
            f"teacher of {teacher}: dev from {min(devs):.4f} to {max(devs):.4f}, deviation {np.std(devs, ddof=1):.4f}", flush=True
        )
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
