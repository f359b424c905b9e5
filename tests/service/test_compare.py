"""A comparison with tuning from Python, on a real Ray and a real MLflow database, and then the same at one more seed."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
import pytest
from mlflow import MlflowClient

from kd_hpo import compare
from kd_hpo.config.study import StudyConfig
from kd_hpo.study.results.comparison import COLUMNS
from kd_hpo.study.search.journal import known_trials
from kd_hpo.study.store.folder import StudyFolder, TrialStatus
from kd_hpo.study.tracking.runs import all_runs, tracking_uri
from tests.conftest import digits_study

pytestmark = [pytest.mark.service, pytest.mark.slow]

METHODS = ["kd", "uniform", "absurd"]
SPACE = {
    "kd.weight": {"kind": "uniform", "low": 0.5, "high": 2.0},
    "pairs.strength": {"kind": "uniform", "low": 0.5, "high": 4.0},
}
ABSURD = {"name": "absurd", "base": "kd", "set": {"training.optimizer.lr": 1e18}}


@dataclass(frozen=True)
class Compared:
    study: StudyConfig
    folder: StudyFolder
    first: pd.DataFrame
    """At one seed."""
    written: dict[Path, int]
    """When the epochs and results of that were written."""
    second: pd.DataFrame
    """At two."""

    def of(self, kind: str, method: str) -> list[TrialStatus]:
        return [s for s in self.folder.statuses() if (s.spec.kind, s.spec.method) == (kind, method)]


@pytest.fixture(scope="module")
def compared() -> Iterator[Compared]:
    runs = Path(mkdtemp(prefix="kd", dir="/tmp"))  # short, since Ray keeps Unix sockets below it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(runs))
        study = digits_study(
            runs,
            search={"space": SPACE, "scheduler": {"kind": "none"}},
            compare={"methods": [ABSURD]},
            resources={"cpus_per_trial": 0.5, "concurrent_trials": 2},
        )
        folder = StudyFolder.of(study)
        first = compare(study, METHODS, seeds=1, tune=2)
        before = written(folder)
        yield Compared(study, folder, first, before, compare(study, METHODS, seeds=2, tune=2))
    shutil.rmtree(runs, ignore_errors=True)


def written(folder: StudyFolder) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.root.glob("trials/*/re*.json")}


def test_each_method_is_tuned_over_what_acts_on_it(compared: Compared) -> None:
    for method, acting in (("kd", {"kd.weight"}), ("uniform", set(SPACE)), ("absurd", {"kd.weight"})):
        tuned = compared.of("search", method)
        assert [status.spec.id for status in tuned] == [f"{method}-t000", f"{method}-t001"]
        assert {frozenset(status.spec.settings) for status in tuned} == {frozenset(acting)}
        assert [trial.params for trial in known_trials(compared.folder, method)] == [status.spec.settings for status in tuned]


def test_seeds_run_at_the_best_settings_of_their_own_method(compared: Compared) -> None:
    for method in ("kd", "uniform"):
        best = max(compared.of("search", method), key=lambda s: compared.folder.records(s.spec.id)[-1].metrics["val/accuracy"])
        ran = compared.of("compare", method)
        assert [status.spec.id for status in ran] == [f"{method}-s0", f"{method}-s1"]
        assert {status.state for status in ran} == {"completed"}
        for status in ran:
            assert status.spec.settings == best.spec.settings
            assert compared.folder.result(status.spec.id).config.kd.weight == best.spec.settings["kd.weight"]


def test_numbers_are_those_of_the_trials(compared: Compared) -> None:
    assert list(compared.second.columns) == list(COLUMNS)
    assert list(compared.second["method"]) == METHODS
    assert list(compared.first["seeds"]) == [1, 1, 0] and list(compared.second["seeds"]) == [2, 2, 0]
    for row in compared.second.to_dict("records")[:2]:
        scores = [compared.folder.test_scores(f"{row['method']}-s{seed}") for seed in (0, 1)]
        assert row["test"] == pytest.approx(sum(s.last for s in scores if s) / 2)
        assert row["test_best"] == pytest.approx(sum(s.best for s in scores if s) / 2)
        assert row["tuning"].startswith("2 trials of its own")
    assert "Seeds 0 to 1." in compared.second.attrs["caption"]


def test_method_that_always_fails_is_there(compared: Compared) -> None:
    assert {status.state for status in compared.of("search", "absurd")} == {"failed"}
    seeds = compared.of("compare", "absurd")
    assert len(seeds) == 2
    for status in seeds:
        assert status.state == "failed" and status.message.startswith("no trial of its search was completed")
        assert "not finite at step" in status.message
    assert compared.second.to_dict("records")[2]["failed"] == 2


def test_more_seeds_run_nothing_again(compared: Compared) -> None:
    now = written(compared.folder)
    assert {path: now[path] for path in compared.written} == compared.written
    assert {path.parent.name for path in now.keys() - compared.written.keys()} == {"kd-s1", "uniform-s1"}
    assert len(compared.of("search", "kd")) == 2


def test_mlflow_holds_every_trial_once_and_the_files(compared: Compared) -> None:
    client = MlflowClient(tracking_uri(compared.study))
    runs = list(all_runs(client, client.get_experiment_by_name("small").experiment_id))
    assert Counter(run.data.tags["kd.kind"] for run in runs) == {"search": 6, "compare": 6, "summary": 1}
    found = {run.data.tags["kd.trial"]: run for run in runs}
    assert len(found) == len(runs)
    for status in compared.folder.statuses():
        assert found[status.spec.id].data.tags["kd.state"] == status.state
        assert found[status.spec.id].data.tags["kd.method"] == status.spec.method
    summary = found["summary"].info.run_id
    artifacts = {file.path for file in client.list_artifacts(summary)}
    assert artifacts == {"comparison.csv", "comparison.json", "comparison.png", "outer_settings", "study.yaml"}
    logged = json.loads(Path(client.download_artifacts(summary, "comparison.json")).read_text())
    assert logged["seeds"] == [0, 1]
    assert pd.read_csv(compared.folder.comparison("csv"))["test"].round(6).equals(compared.second["test"].round(6))
