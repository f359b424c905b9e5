"""What pairs cost: whole short trials with the teacher's features cached, against trials of the same code with KD alone.

    python studies/bench/step.py                      # the seed paper's networks, 1 to 25 pairs
    python studies/bench/step.py --pairs 25 --epochs 25 --no-memory  # whole trials of its experiment
    python studies/bench/step.py --networks resnet56  # ResNet-56 -> MobileNetV2 on 32x32, 1 to 100 pairs
    python studies/bench/step.py --networks resnet56 --blocks 2 --no-memory --plot studies/bench/growth.png

Images are random, of CIFAR's shape; teachers are untrained: neither changes the cost. CPU time of one thread, in blocks: every
block runs each trial once, and a ratio is that of two trials of one block. Memory is the peak of what a process of its own
has to itself, above that of one which has only imported kd_hpo. Trials are short, 180 steps or 30, so the balance starts with
the first step, and is measured at every 64th, as in the 25 epochs of a whole trial.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from figures import in_blocks, machine

from kd_hpo import load_study
from kd_hpo.config.trial import TrialConfig
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.run import run_trial

CLASSES = 10
LEARNED = {"kind": "learned", "direction": {"kind": "gradient_flow"}, "outer_objective": "task_and_teacher", "every": 10}
AS_IN_STUDY = load_study(Path(__file__).parents[1] / "seed_cifar10.yaml").weighting.model_dump()


def weightings(teachers: int, students: int) -> dict[str, dict[str, Any]]:
    """KD alone; all pairs alike; all pairs learned, by default settings; learned as the seed paper's study has it, in a study's
    first trial and in a later one, which starts from two pairs of an earlier one."""
    start = [[float(t - s == teachers - students and s >= students - 2) for s in range(students)] for t in range(teachers)]
    return {
        "kd": {"kind": "none"},
        "uniform": {"kind": "uniform"},
        "learned, all": LEARNED,
        "learned, first": AS_IN_STUDY,
        "learned, carried": {**AS_IN_STUDY, "start": start},
    }


CONVOLUTIONS = ["conv1", "conv2", "conv3"]
RESNET = [f"stage1.{i}" for i in (1, 4, 8)] + [f"stage2.{i}" for i in (1, 4, 8)] + [f"stage3.{i}" for i in (1, 4, 7, 8)]
MOBILENET = [f"features.{i}" for i in (1, 3, 5, 7, 9, 11, 13, 15, 17, 18)]
NETWORKS: dict[str, dict[str, Any]] = {
    "paper": {
        "epochs": 2,
        "batch_size": 128,
        "teacher": {"name": "plain_conv", "arguments": {"channels": [16, 32, 64], "hidden": 128}},
        "student": {"name": "plain_conv", "arguments": {"channels": [8, 16, 32], "hidden": 64}},
        "layers": {  # of both networks
            1: (["conv3"], ["conv3"]),
            4: (["conv2", "conv3"], ["conv2", "conv3"]),
            16: ([*CONVOLUTIONS, "fc"], [*CONVOLUTIONS, "fc"]),
            25: ([*CONVOLUTIONS, "fc"], [*CONVOLUTIONS, "fc"]),  # and the logits inside
        },
        "splits": {"train": 11520, "outer": 640, "val": 640, "test": 10},
    },
    "resnet56": {
        "epochs": 1,
        "batch_size": 64,
        "teacher": {"name": "cifar_resnet", "arguments": {"depth": 56}},
        "student": {"name": "mobilenet_v2", "arguments": {"stem": "small"}},
        "layers": {
            n * n: ([RESNET[i * 9 // max(n - 1, 1)] for i in range(n)], [MOBILENET[i * 9 // max(n - 1, 1)] for i in range(n)])
            for n in (1, 2, 4, 5, 8, 10)
        },
        "splits": {"train": 1920, "outer": 256, "val": 256, "test": 10},
    },
}


def images(count: int) -> list[tuple[torch.Tensor, int]]:
    """A data set for `data: {kind: callable, callable: "step:images"}`."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (count,), generator=generator).tolist()
    return list(zip(pixels, labels, strict=True))


def trial(networks: str, pairs: int, weighting: str, epochs: int | None = None) -> TrialConfig:
    spec = NETWORKS[networks]
    epochs = epochs or spec["epochs"]
    teacher, student = spec["layers"][pairs]
    inside = (networks, pairs) == ("paper", 25)
    return TrialConfig.model_validate(
        {
            "data": {"kind": "callable", "callable": "step:images", "arguments": {"count": sum(spec["splits"].values())}},
            "splits": spec["splits"],
            "teacher": {"network": spec["teacher"], "layers": teacher, "training": None, "accept_weak": True},
            "student": {"network": spec["student"], "layers": student},
            "training": {"epochs": epochs, "batch_size": spec["batch_size"]},
            "channels_last": True,
            "pairs": {
                "logits": "inside" if inside else "outside",
                "balance": {"kind": "gradient", "measures": max(1, round(10 * epochs / 25)), "every": 64},
            },
            "weighting": weightings(len(teacher) + inside, len(student) + inside)[weighting],
        }
    )


def seconds(config: TrialConfig, prepared: Prepared, cache: Path) -> float:
    """Of this process, or by the wall where there is a GPU to wait for."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    run_trial(config, lambda record: None, cache=cache, prepared=prepared)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def peak_bytes(*arguments: str) -> int:
    """Of this file in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(networks: str, pairs: int, weighting: str, cache: Path) -> None:
    peak = PrivatePeak()
    if weighting == "import":
        time.sleep(0.1)
    else:
        config = trial(networks, pairs, weighting)
        run_trial(config, lambda record: None, cache=cache)
    print(peak.stop())


class PrivatePeak:
    """The most memory that this process has had to itself, by a look every two milliseconds: without the pages of files that it
    maps, such as the teacher's features, which the node's processes share and the system takes back when it needs them."""

    def __init__(self) -> None:
        self.most, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.002):
            status = Path("/proc/self/status").read_text()
            self.most = max(self.most, int(status.split("RssAnon:")[1].split()[0]) * 1024)

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self.most


def measure(networks: str, pairs: int, blocks: int, epochs: int | None, cache: Path) -> dict[str, list[float]]:
    """Seconds of each weighting's trials, block by block."""
    configs = {name: trial(networks, pairs, name, epochs) for name in weightings(2, 2)}
    prepared = prepare(configs["uniform"], cache)
    return in_blocks({name: partial(seconds, config, prepared, cache) for name, config in configs.items()}, blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", choices=NETWORKS, default="paper")
    parser.add_argument("--pairs", type=int, nargs="+", help="numbers of pairs; all that the networks have by default")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of each trial, instead of 2 of 90 steps or 1 of 30")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="measured by trials of its own")
    parser.add_argument("--plot", type=Path, help="where the growth with the number of pairs is drawn")
    parser.add_argument("--cache", type=Path, help="kept there; else made and removed")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # one trial in a process of its own
    given = parser.parse_args()
    torch.set_num_threads(1)
    numbers = given.pairs or list(NETWORKS[given.networks]["layers"])
    if given.peak:
        print_peak(given.networks, numbers[0], given.peak, given.cache)
        return
    print(f"{machine()}, {torch.get_num_threads()} thread")
    with tempfile.TemporaryDirectory() as temporary:
        cache = given.cache or Path(temporary)
        ratios = {pairs: tell(given.networks, pairs, given.blocks, given.epochs, cache, given.memory) for pairs in numbers}
    if given.plot:
        plot(ratios, given.networks, given.plot)


def tell(networks: str, pairs: int, blocks: int, epochs: int | None, cache: Path, memory: bool) -> dict[str, float]:
    """Prints a row for each weighting; its median ratios to KD alone."""
    found = measure(networks, pairs, blocks, epochs, cache)
    peaks = peaks_of(list(found), networks, pairs, cache) if memory else {}
    medians = {}
    for name, spent in found.items():
        ratios = [a / b for a, b in zip(spent, found["kd"], strict=True)]
        medians[name] = statistics.median(ratios)
        peak = f"  peak {peaks[name] / 2**20:5.0f} MiB, ratio {peaks[name] / peaks['kd']:.2f}" if memory else ""
        print(
            f"{networks} {pairs:3d} pairs {name:16s} {statistics.median(spent):6.2f} s  ratio {medians[name]:.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}){peak}",
            flush=True,
        )
    return medians


def peaks_of(names: list[str], networks: str, pairs: int, cache: Path) -> dict[str, int]:
    """Bytes above those of an import, of a trial of each weighting."""
    arguments = ("--networks", networks, "--pairs", str(pairs), "--cache", str(cache), "--peak")
    start = peak_bytes(*arguments, "import")
    return {name: peak_bytes(*arguments, name) - start for name in names}


def plot(ratios: dict[int, dict[str, float]], networks: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for name in weightings(2, 2):
        axes.plot(list(ratios), [of[name] for of in ratios.values()], marker="o", label=name)
    axes.set(xlabel="pairs", ylabel="time of a trial / KD alone", title=networks, ylim=(0, None))
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
