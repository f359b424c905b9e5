"""What a study costs beside its trials: actors, the time between trials, tracking, and the start of the command.

    python studies/bench/study.py                    # all parts
    python studies/bench/study.py --parts study      # 100 trials of about a second on 2 cores
    python studies/bench/study.py --parts tracking   # 25 pairs for 25 epochs, 100 pairs for 200, SQLite and a server
    python studies/bench/study.py --parts help       # kd-hpo --help

A trial of part `study` is one of the digits with 25 pairs. Its files say when it began and ended, and in which process: the
time between two trials is that from the end of one to the first step of the next in the same process. What a study costs
beside its trials is its time less the trials' own, two at a time; on a machine that does other work the trials are slower.
Tracking is what a trial spends on its record, and what the driver's thread spends on MLflow, after each epoch. A trial's time,
of which it is a share, is that of one of the seed paper's experiment on random images; both are the CPU's, so that what waits
for a server counts as nothing, and what would take the second core from another trial counts in full.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

from kd_hpo.study.environment import prepare_environment

prepare_environment()

from figures import machine, tell  # noqa: E402
from recorded import record_of, replayed_study  # noqa: E402
from rich.console import Console  # noqa: E402
from soak import Tracker  # noqa: E402
from step import seconds, trial  # noqa: E402

from kd_hpo.config.study import StudyConfig  # noqa: E402
from kd_hpo.study.run.driver import run_study  # noqa: E402
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus  # noqa: E402
from kd_hpo.study.tracking.sync import TrackerSync  # noqa: E402
from kd_hpo.trial.prepare import prepare  # noqa: E402

CONVOLUTIONS = ["conv1", "conv2", "conv3", "fc"]


def study_of(runs: Path, trials: int, epochs: int) -> StudyConfig:
    def network(*channels: int) -> dict[str, object]:
        return {"name": "plain_conv", "arguments": {"channels": channels, "hidden": 16, "padding": 1}}

    return StudyConfig.model_validate(
        {
            "name": "bench",
            "data": {"kind": "digits"},
            "splits": {"train": 640, "outer": 200, "val": 200, "test": 200},
            "teacher": {"network": network(16, 32, 64), "layers": CONVOLUTIONS, "training": {"epochs": 2}},
            "student": {"network": network(4, 8, 16), "layers": CONVOLUTIONS},
            "training": {"epochs": epochs, "batch_size": 64},
            "pairs": {"logits": "inside"},
            "search": {"trials": trials, "scheduler": {"kind": "none"}},
            "compare": {"methods": ["hetero"], "seeds": 1},
            "resources": {"concurrent_trials": 2},
            "runs": runs,
        }
    )


def written(file: Path) -> float:
    return file.stat().st_mtime_ns / 1e9


def time_study(trials: int, epochs: int) -> None:
    with TemporaryDirectory(prefix="kd", dir="/tmp") as home:
        study = study_of(Path(home) / "runs", trials, epochs)
        started = time.time()
        run_study(study, Console(quiet=True))
        ended = time.time()
        folder = StudyFolder.of(study)
        searched = [status for status in folder.statuses() if status.spec.kind == "search"]
        of_worker = defaultdict(list)
        for status in searched:
            about, times, at = folder.about(status.spec.id), folder.times(status.spec.id), folder.trial(status.spec.id)
            assert about is not None
            epoch_s = statistics.median(b - a for a, b in pairwise(times)) / 1000
            of_worker[about.worker].append((times[0] / 1000 - epoch_s, written(at / "status.json")))
        gaps = [b[0] - a[1] for of in of_worker.values() for a, b in pairwise(sorted(of))]
        first, last = (
            min(of[0][0] for of in map(sorted, of_worker.values())),
            max(of[-1][1] for of in map(sorted, of_worker.values())),
        )
        durations = [status.duration_s for status in searched]
        print(f"{trials} trials in {len(of_worker)} processes; the whole study {ended - started:.1f} s")
        tell("a trial, in its process", durations, "s")
        tell("end of a trial to the first step of the next", gaps, "s", goal=1)
        tell("from the start of the command to the first step", [first - started], "s")
        tell(f"all {trials} trials, from the first step to the last end", [last - first], "s")
        tell("the same without what the trials themselves take", [last - first - sum(durations) / 2], "s")
        tell("the same at a second a trial, with the start", [last - started - sum(durations) / 2 + trials / 2], "s", goal=90)


def trial_seconds(epochs: int, home: Path) -> float:
    """A trial of the seed paper's experiment with 25 pairs, once the teacher's features are there."""
    config = trial("paper", 25, "learned, first", epochs)
    return seconds(config, prepare(config, home), home)


def time_tracking(pairs: int, epochs: int, uri: str | None, home: Path) -> float:
    """The files of a trial are written, and MLflow follows them, epoch by epoch, as beside a trial that takes its time.

    Returns the CPU's seconds for both in this process.
    """
    study, layers = replayed_study(home / f"runs-{pairs}-{'server' if uri else 'sqlite'}", pairs, epochs, uri)
    folder = StudyFolder.of(study)
    mirror, records, spent = TrackerSync(study), [], defaultdict(float)
    spec = TrialSpec(id="hetero-t000", kind="search", method="hetero", seed=0)

    def timed(what: str, started: float) -> None:
        spent[what] += time.perf_counter() - started

    folder.write_about(spec.id, layers)
    folder.write_status(TrialStatus(spec=spec, state="running"))
    mirror.bring_up_to_date(False)  # the database is made
    cpu = time.process_time()
    for epoch in range(1, epochs + 1):
        records.append(record_of(epoch, layers))
        started = time.perf_counter()
        folder.write_records(spec.id, records)
        timed("files", started)
        started = time.perf_counter()
        mirror.bring_up_to_date(False)
        timed("mlflow", started)
    started = time.perf_counter()
    folder.write_status(TrialStatus(spec=spec, state="completed", duration_s=1.0))
    mirror.bring_up_to_date(False)
    timed("mlflow", started)
    where, goal = "a server" if uri else "SQLite", 5 if epochs == 200 else None
    tell(f"{pairs} pairs, {epochs} epochs: files, in the trial", [spent["files"]], "s", goal=goal)
    tell(f"{pairs} pairs, {epochs} epochs: MLflow ({where}), beside it", [spent["mlflow"]], "s", goal=goal)
    cpu = time.process_time() - cpu
    tell(f"{pairs} pairs, {epochs} epochs: CPU of both in this process", [cpu], "s")
    return cpu


def time_help(times: int) -> None:
    def once() -> float:
        started = time.perf_counter()
        subprocess.run([Path(sys.executable).parent / "kd-hpo", "--help"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    once()
    tell("kd-hpo --help", [once() for _ in range(times)], "s", goal=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["help", "tracking", "study"], default=["help", "tracking", "study"])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    print(machine())
    if "help" in given.parts:
        time_help(5)
    if "tracking" in given.parts:
        with TemporaryDirectory(prefix="kd", dir="/tmp") as home:
            tracker = Tracker(Path(home), 5611)
            try:
                tracker.start_or_continue()
                of_trial = trial_seconds(25, Path(home))
                tell("25 pairs, 25 epochs: the trial itself, CPU", [of_trial], "s")
                for uri in (None, tracker.uri):
                    where, times = "a server" if uri else "SQLite", range(5)
                    cpu = [time_tracking(25, 25, uri, Path(home) / f"{where}-{i}") for i in times]
                    tell(f"25 pairs, 25 epochs: tracking by {where}, of a trial", [100 * s / of_trial for s in cpu], "%", goal=2)
                    time_tracking(100, 200, uri, Path(home))
            finally:
                tracker.kill()
    if "study" in given.parts:
        time_study(given.trials, given.epochs)


if __name__ == "__main__":
    main()
