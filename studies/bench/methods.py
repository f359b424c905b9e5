"""What each method costs: whole short trials, against trials of the same code, images and steps with KD alone.

    python studies/bench/methods.py                         # the seed paper's networks, every method
    python studies/bench/methods.py --methods kd,dkd,hetero # some of them, KD always
    python studies/bench/methods.py --steps 90 --blocks 5 --markdown

Images are random, of CIFAR's shape, and the teacher is untrained, its features cached: neither changes what a step costs. CPU
time of one thread (of a GPU, by the wall), in blocks: every block runs each method once, and a ratio is that of two trials of
one block. What an assistant costs (`takd`, `ifm`) is its own training, which is not counted; parameters are those of what is
exported, the student.
"""

import argparse
import os
import statistics
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from figures import in_blocks, machine
from step import seconds, trial

from kd_hpo.config.methods import METHODS
from kd_hpo.config.trial import TrialConfig
from kd_hpo.trial.parts import Prepared, build_student
from kd_hpo.trial.prepare import prepare

BATCH = 128
LEFT_OUT = {"as_given", "tpe_lambda", "random_search", "random", "takd"}
"""Those whose trials are those of another method, of `uniform` or of `kd`, at other numbers."""


def configs(names: list[str], steps: int) -> dict[str, TrialConfig]:
    """A trial of each method, of an epoch of so many steps; lambda moves from a tenth of them on."""
    splits = {"train": BATCH * steps, "outer": 256, "val": 256, "test": 10}
    base = trial("paper", 16, "kd", epochs=1).replace(
        data={"kind": "callable", "callable": "step:images", "arguments": {"count": sum(splits.values())}},
        splits=splits,
        weighting={"kind": "learned"},
        pairs={},
    )
    return {name: METHODS[name].apply(base) for name in names}


def parameters(config: TrialConfig, prepared: Prepared, cache: Path) -> int:
    return sum(p.numel() for p in build_student(config, prepared.batches, cache).parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help=f"by comma; all but {', '.join(sorted(LEFT_OUT))} by default")
    parser.add_argument("--steps", type=int, default=90, help="of a trial")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--markdown", action="store_true", help="print a table for README.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    wanted = given.methods.split(",") if given.methods else [name for name in METHODS if name not in LEFT_OUT]
    trials = configs(["kd", *(name for name in wanted if name != "kd")], given.steps)
    print(f"{machine()}, {torch.get_num_threads()} thread, {given.steps} steps of {BATCH}, {given.blocks} blocks", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        prepared = {name: prepare(config, Path(cache)) for name, config in trials.items()}
        sizes = {name: parameters(config, prepared[name], Path(cache)) for name, config in trials.items()}
        runs = {name: partial(seconds, config, prepared[name], Path(cache)) for name, config in trials.items()}
        found = in_blocks(runs, given.blocks)
    if given.markdown:
        print("| method | time / KD | spread | seconds | exported parameters |\n|---|---|---|---|---|")
    for name, spent in found.items():
        ratios = [a / b for a, b in zip(spent, found["kd"], strict=True)]
        middle, spread, took = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}", statistics.median(spent)
        if given.markdown:
            print(f"| `{name}`: {METHODS[name].title} | {middle:.2f} | {spread} | {took:.1f} | {sizes[name]:,} |", flush=True)
        else:
            print(f"{name:14s} ratio {middle:5.2f} ({spread})  {took:6.2f} s  {sizes[name]:10,d} parameters", flush=True)


if __name__ == "__main__":
    main()
