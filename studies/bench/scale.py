"""What a study of many trials costs the driver: recorded trials go through the real search, scheduler, tracker and export.

    python studies/bench/scale.py                                  # 1,000 trials
    python studies/bench/scale.py --trials 10000 --mirrored 500

Nothing is trained: what each trial reports is made up, and its files are as large as those of a real one. All trials go
through Optuna's journal, ASHA, the study's folder and the export; MLflow (SQLite) gets the first of them, `--mirrored`, as one
trial costs it what any other does. Rows are milliseconds a trial for each tenth of the study: what grows shows. Ray's own
bookkeeping is not replayed, and nothing of a study goes through its object store but a trial's settings and metrics.
"""

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

from kd_hpo.study.environment import prepare_environment

prepare_environment()

import psutil  # noqa: E402
from figures import machine  # noqa: E402
from recorded import record_of, replayed_study  # noqa: E402

from kd_hpo.config.search import Asha, Tpe  # noqa: E402
from kd_hpo.config.study import DEFAULT_SPACE, StudyConfig  # noqa: E402
from kd_hpo.config.task import Classification  # noqa: E402
from kd_hpo.study.design.trials import Searched  # noqa: E402
from kd_hpo.study.matrices.export import export_study  # noqa: E402
from kd_hpo.study.search.journal import journal  # noqa: E402
from kd_hpo.study.search.method_search import MethodSearch  # noqa: E402
from kd_hpo.study.search.searcher import StudySearch  # noqa: E402
from kd_hpo.study.store.folder import StudyFolder, TrialAbout, TrialSpec, TrialStatus  # noqa: E402
from kd_hpo.study.tracking.sync import TrackerSync  # noqa: E402
from kd_hpo.trial.result import RESULT, TrialResult  # noqa: E402

Spent = dict[str, list[float]]


def searched(folder: StudyFolder, trials: int, epochs: int) -> StudySearch:
    """What a driver that starts, or goes on, has Ray ask."""
    method = MethodSearch(
        Searched("hetero", trials, DEFAULT_SPACE),
        folder,
        journal(folder.optuna),
        goal=Classification.goal,
        sampler=Tpe(),
        scheduler=Asha(grace_epochs=1),
        trial_seed=0,
        sampler_seed=0,
        epochs=epochs,
    )
    return StudySearch([method], folder.optuna)


def replay(study: StudyConfig, about: TrialAbout, trials: int, spent: Spent) -> None:
    """ASHA ends some after their first epochs, as it would."""
    folder, epochs = StudyFolder.of(study), study.training.epochs
    search = searched(folder, trials, epochs)
    for number in range(trials):
        clock = [time.perf_counter()]
        took = defaultdict[str, float](float)

        def done(what: str, clock: list[float] = clock, took: dict[str, float] = took) -> None:
            took[what] += time.perf_counter() - clock[0]
            clock[0] = time.perf_counter()

        name = f"{number:06d}"
        sampled = search.suggest(name)
        done("suggestion (Optuna)")
        spec = TrialSpec.model_validate(sampled["spec"])
        records = []
        folder.write_about(spec.id, about)
        folder.write_status(TrialStatus(spec=spec, state="running"))
        done("files of the trial")
        for epoch in range(1, epochs + 1):
            records.append(record_of(epoch, about, number))
            clock[0] = time.perf_counter()
            folder.write_records(spec.id, records)
            done("files of the trial")
            result = {"epoch": epoch, **records[-1].metrics}
            poor = search.is_to_stop(name, result)
            done("reports and verdicts (Optuna, ASHA)")
            if poor:
                break
        state = "completed" if len(records) == epochs else "stopped"
        if state == "completed":
            folder.write(folder.trial(spec.id) / RESULT, result_of(about, records).model_dump_json())
        folder.write_status(TrialStatus(spec=spec, state=state, duration_s=1.0))
        done("files of the trial")
        search.on_trial_complete(name, result)
        done("reports and verdicts (Optuna, ASHA)")
        for what, seconds in took.items():
            spent[what].append(seconds)


def result_of(about: TrialAbout, records: list[object]) -> TrialResult:
    return TrialResult.model_validate(
        {
            **about.model_dump(
                include={"config", "teacher_layers", "student_layers", "teacher_digest", "split_digests", "data_digest"}
            ),
            "teacher_val_accuracy": 0.9,
            "records": records,
            "held_mean": records[-1].weights,  # type: ignore[attr-defined]
            "versions": about.versions,
        }
    )


def mirror(study: StudyConfig, trials: int, spent: Spent) -> None:
    writer, folder = TrackerSync(study), StudyFolder.of(study)
    names, writer._trials = writer._trials(), list  # type: ignore[method-assign]
    writer.bring_up_to_date(False)
    for name in names[:trials]:
        status, started = folder.status(name), time.perf_counter()
        assert status is not None
        writer._write(status, False)
        spent["tracker (MLflow, SQLite)"].append(time.perf_counter() - started)


def size_of(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--mirrored", type=int, default=100)
    given = parser.parse_args()
    print(machine())
    process, spent = psutil.Process(), defaultdict(list)
    with TemporaryDirectory(prefix="kd", dir="/tmp") as home:
        study, about = replayed_study(Path(home) / "runs", given.pairs, given.epochs)
        folder, before = StudyFolder.of(study), process.memory_info().rss
        folder.write_settings(study)
        replay(study, about, given.trials, spent)
        after = process.memory_info().rss
        mirror(study, given.mirrored, spent)
        for what, seconds in spent.items():
            tenth = max(len(seconds) // 10, 1)
            parts = [1000 * sum(seconds[i : i + tenth]) / tenth for i in range(0, len(seconds), tenth)][:10]
            print(f"{what:26s} {sum(seconds):8.1f} s, ms a trial: {' '.join(f'{part:.1f}' for part in parts)}", flush=True)
        for what, call in (
            ("all statuses are read", folder.statuses),
            ("the mirror looks for changes", lambda: [folder.changed(s.spec.id) for s in folder.statuses()]),
            ("export of the best", lambda: export_study(study, folder, folder.export, top=1)),
            ("a start that goes on", lambda: searched(folder, given.trials, given.epochs)),
        ):
            started = time.perf_counter()
            call()
            print(f"{what:26s} {time.perf_counter() - started:8.2f} s", flush=True)
        print(
            f"memory of the driver: {(after - before) / 2**20:.0f} MiB more for {given.trials} trials; "
            f"trials' files {size_of(folder.root / 'trials'):.0f} MiB, Optuna's journal {size_of_file(folder.optuna):.0f} MiB, "
            f"MLflow's database {size_of_file(study.runs / 'mlflow.db'):.0f} MiB for {given.mirrored} trials"
        )


def size_of_file(file: Path) -> float:
    return file.stat().st_size / 2**20


if __name__ == "__main__":
    main()
