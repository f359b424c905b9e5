"""How good a study's trial is with other settings, on images that no split holds: what settings are tried out on.

    python studies/bench/dev.py studies/seed_cifar10.yaml --set data.path=/data/cifar10 --seeds 3 \\
        --variant "as it is" --variant earlier weighting.warmup=0.1 weighting.hold=0.7

The images are half of those outside all splits: a student never saw them, though a teacher of `train_and_extra` did, and
they choose nothing in a study.
"""

import argparse
import os
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

from kd_hpo import load_study, run_trial
from kd_hpo.config.trial import TrialConfig
from kd_hpo.nets.weights import load_weights
from kd_hpo.study.results.pairs import strongest_pairs
from kd_hpo.trial.evaluate import score
from kd_hpo.trial.loop import LAST_WEIGHTS
from kd_hpo.trial.parts import build
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.result import TrialResult

STRONGEST = 4


def accuracy_on_dev(config: TrialConfig, cache: Path) -> tuple[float, TrialResult]:
    with TemporaryDirectory() as folder:
        prepared = prepare(config, cache)
        result = run_trial(config, lambda epoch: None, cache=cache, folder=Path(folder), prepared=prepared)
        network = build(config.student.network, prepared.batches, prepared.task, seed=config.seed)
        load_weights(network, Path(folder) / LAST_WEIGHTS)
    return score(network, prepared.task, prepared.batches, prepared.splits.extra[::2]).value, result


def strongest(result: TrialResult) -> str:
    """The pairs that have most weight at the end, by place."""
    weights = result.last.weights
    return ", ".join(f"{t}->{s} {weights[t][s]:.2f}" for t, s in strongest_pairs(weights, STRONGEST, above=0.005))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--variant", action="append", required=True, nargs="+", metavar=("NAME", "PATH=VALUE"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        for name, *settings in given.variant:
            config = load_study(given.study, [*given.set, *settings]).trial().replace(seed=seed)
            accuracy, result = accuracy_on_dev(config, given.cache)
            found.setdefault(name, []).append(accuracy)
            print(
                f"seed {seed}  {name:24} dev {accuracy:.4f}  val {result.last.metrics['val/accuracy']:.4f}  {strongest(result)}",
                flush=True,
            )
    for name, accuracies in found.items():
        print(f"{name:24} {statistics.mean(accuracies):.4f}  {' '.join(f'{a:.4f}' for a in accuracies)}")


if __name__ == "__main__":
    main()
