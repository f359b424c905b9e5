"""Studies that nobody ran, in MLflow as kd_hpo writes them: one that has ended, and one that runs, with hostile names."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Classification
from kd_hpo.config.trial import TrialConfig
from kd_hpo.study.design.trials import trial_config
from kd_hpo.study.matrices.export import export_study
from kd_hpo.study.results.comparison import Comparison, MethodScores, Scores
from kd_hpo.study.run.worker import about_trial
from kd_hpo.study.search.journal import journal
from kd_hpo.study.store.folder import State, StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.study.tracking.runs import open_experiment, write_summary
from kd_hpo.study.tracking.sync import TrackerSync
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.result import RESULT
from tests.conftest import digits_study
from tests.study.helpers import record, result_of

ENDED, RUNNING = "ended", "on-its-way"
HOSTILE = ("<img src=x onerror=alert(1)>", "![x](http://evil.example/x.png)", "$\\frac{1}{2}$ :fire: <b>fc</b>")
"""Names of the running study's teacher layers."""
SEARCHED = {f"hetero-t{i:03d}": {"kd.weight": 0.5 + 0.3 * i, "training.optimizer.lr": 0.01 * 2**i} for i in range(7)}
COMPARED = {"hetero-s0": (0.71, 0.3), "hetero-s1": (0.73, 0.28), "kd-s0": (0.65, None), "kd-s1": (0.66, None)}
"""Accuracy on val at the end, and the weight of the first pair."""


@dataclass
class MadeUp:
    """A study's folder, filled by hand, and its mirror in MLflow."""

    study: StudyConfig
    prepared: Prepared

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder.of(self.study)

    def config(self, spec: TrialSpec) -> TrialConfig:
        return trial_config(self.study, spec)

    def trial(self, spec: TrialSpec, state: State, accuracies: list[float], first: float | None, message: str = "") -> None:
        """first  the weight of the pair (1, 1) at the end; the others share the rest; None for a trial without pairs"""
        rows = [_matrix(first * (epoch + 1) / len(accuracies)) if first else () for epoch in range(len(accuracies))]
        records = [record(i + 1, accuracy, rows[i]) for i, accuracy in enumerate(accuracies)]
        self.folder.write_about(spec.id, about_trial(self.config(spec), self.prepared))
        self.folder.write_records(spec.id, records)
        if state == "completed":
            (self.folder.trial(spec.id) / RESULT).write_text(result_of(records, self.config(spec)).model_dump_json())
        self.folder.write_status(TrialStatus(spec=spec, state=state, message=message, duration_s=1.0))

    def to_mlflow(self) -> None:
        TrackerSync(self.study).bring_up_to_date(closing=False)


def ended_study(runs: Path, prepared: Prepared) -> MadeUp:
    made = MadeUp(digits_study(runs, name=ENDED, compare={"methods": ["hetero", "kd"], "seeds": 2}), prepared)
    made.folder.write_settings(made.study)
    for i, (name, settings) in enumerate(SEARCHED.items()):
        spec = TrialSpec(id=name, kind="search", method="hetero", seed=0, settings=settings)
        if i < 5:
            made.trial(spec, "completed", [0.4, 0.5 + 0.02 * i], 0.2 + 0.02 * i)
        elif i == 5:
            made.trial(spec, "stopped", [0.3], 0.2)
        else:
            made.trial(spec, "failed", [], None, "the loss was not finite at step 3")
    for name, (accuracy, first) in COMPARED.items():
        method, seed = name.split("-s")
        settings = SEARCHED["hetero-t004"] if method == "hetero" else {}
        spec = TrialSpec(id=name, kind="compare", method=method, seed=int(seed), settings=settings)
        made.trial(spec, "completed", [0.5, accuracy - 0.01, accuracy], first)
        if first:
            made.folder.write_test_scores(name, TestScores(last=accuracy - 0.02, best=accuracy))
    made.to_mlflow()
    comparison(made.study.name).write(made.folder)
    export_study(made.study, made.folder, made.folder.export, top=1)
    write_summary(made.study, open_experiment(made.study), made.folder, "| hetero |")
    journal(made.folder.optuna).create_new_study(directions=[], study_name="hetero")
    return made


def running_study(runs: Path, prepared: Prepared) -> MadeUp:
    """MLflow has one trial that has completed and one that it says is running."""
    plan = prepared.plan
    hostile = tuple(replace(layer, name=name) for layer, name in zip(plan.teacher, HOSTILE, strict=True))
    targets = SimpleNamespace(plan=replace(plan, teacher=hostile))  # of them, MLflow is told the plan alone
    made = MadeUp(digits_study(runs, name=RUNNING), replace(prepared, targets=targets))  # type: ignore[arg-type]
    for i, state in enumerate(("completed", "stopped")):
        spec = TrialSpec(id=f"hetero-t{i:03d}", kind="search", method="hetero", seed=0, settings={"kd.weight": 1.0 + i})
        made.trial(spec, state, [0.4, 0.5], 0.4)  # type: ignore[arg-type]
    made.to_mlflow()
    return made


def comparison(study: str) -> Comparison:
    def scores(of: Mapping[int, float]) -> dict[int, Scores]:
        return {seed: Scores(test=test, test_best=test + 0.01, val=test + 0.02, seconds=1.0) for seed, test in of.items()}

    about = {"steps": 14, "assisted": False, "assistant_val": float("nan"), "tuning": "none"}
    methods = (
        MethodScores("hetero", "KD + learned lambda", scores({0: 0.69, 1: 0.71}), (), False, **about),  # type: ignore[arg-type]
        MethodScores("kd", "KD", scores({0: 0.64, 1: 0.645}), ("it diverged",), True, **about),  # type: ignore[arg-type]
    )
    splits = dict.fromkeys(("train", "outer", "val", "test"), (10, "abc"))
    return Comparison(study, methods, (0, 1), 3, {"val": 0.9, "test": 0.9}, splits, Classification.goal)


def _matrix(first: float) -> tuple[tuple[float, ...], ...]:
    rest = (1 - first) / 5
    return ((first, rest), (rest, rest), (rest, rest))
