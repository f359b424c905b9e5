"""A finished study without its training: trials with results and weights made by hand, shown in a real MLflow database."""

from io import StringIO
from pathlib import Path

from rich.console import Console
from safetensors.torch import save_file

from kd_hpo.config.study import StudyConfig
from kd_hpo.files import write_atomically
from kd_hpo.study.design.trials import searches, trial_config
from kd_hpo.study.results.comparison import compared
from kd_hpo.study.results.final_scores import shared_scores
from kd_hpo.study.results.standing import learned_weights
from kd_hpo.study.run.worker import about_trial
from kd_hpo.study.store.folder import StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.study.tracking.best_student import export_best_student
from kd_hpo.study.tracking.runs import open_experiment
from kd_hpo.study.tracking.sync import TrackerSync, mirrored
from kd_hpo.study.tracking.tracker import Ending
from kd_hpo.trial.loop import LAST_WEIGHTS
from kd_hpo.trial.parts import Prepared, build
from kd_hpo.trial.result import RESULT
from tests.conftest import digits_study
from tests.study.helpers import S, T, record, result_of

TILTED = ((0.5, 0.1), (0.1, 0.1), (0.1, 0.1))
SPACE = {
    "kd.weight": {"kind": "uniform", "low": 0.5, "high": 2.0},
    "pairs.strength": {"kind": "loguniform", "low": 0.1, "high": 9},
}


def shown_study(runs: Path, **changes: object) -> StudyConfig:
    fields = {"search": {"trials": 3, "space": SPACE}, "compare": {"methods": ["kd", "uniform", "hetero"], "seeds": 1}}
    return digits_study(runs, **(fields | changes))


def add_trial(
    study: StudyConfig, prepared: Prepared, spec: TrialSpec, accuracy: float, *, state: str = "completed", test: float = 0.0
) -> None:
    """As a trial leaves its folder that rose to this accuracy on `val` in its last epoch, with untrained weights."""
    folder, config = StudyFolder.of(study), trial_config(study, spec)
    weights = [TILTED] if spec.method == "hetero" else [((1 / 6,) * S,) * T] if spec.method == "uniform" else [()]
    epochs = study.training.epochs if state == "completed" else 2
    records = [record(epoch, accuracy * epoch / epochs, *weights) for epoch in range(1, epochs + 1)]
    folder.write_about(spec.id, about_trial(config, prepared))
    folder.write_records(spec.id, records)
    folder.write_status(TrialStatus.model_validate({"spec": spec, "state": state}))
    if state == "completed":
        write_atomically(folder.trial(spec.id) / RESULT, result_of(records, config).model_dump_json())
        student = build(config.student.network, prepared.batches, prepared.task, seed=config.seed)
        save_file(dict(student.state_dict()), folder.trial(spec.id) / LAST_WEIGHTS)
    if test:
        folder.write_test_scores(spec.id, TestScores(last=test, best=test))


def add_search(study: StudyConfig, prepared: Prepared) -> None:
    for i, (accuracy, state) in enumerate([(0.6, "completed"), (0.7, "completed"), (0.2, "stopped")]):
        settings = {"kd.weight": 0.5 + i / 2, "pairs.strength": 10.0 ** (i - 1)}
        spec = TrialSpec(id=f"hetero-t{i:03d}", kind="search", method="hetero", seed=0, settings=settings)
        add_trial(study, prepared, spec, accuracy, state=state)


def add_comparison(study: StudyConfig, prepared: Prepared) -> None:
    for method, accuracy in (("kd", 0.71), ("uniform", 0.65), ("hetero", 0.75)):
        settings = {"kd.weight": 1.0} if method == "kd" else {"kd.weight": 1.0, "pairs.strength": 1.0}
        spec = TrialSpec(id=f"{method}-s0", kind="compare", method=method, seed=0, settings=settings)
        add_trial(study, prepared, spec, accuracy, test=accuracy - 0.02)


def show(study: StudyConfig) -> TrackerSync:
    """All that the folder has now to MLflow, while the study is on its way."""
    StudyFolder.of(study).write_settings(study)
    mirror = TrackerSync(study)
    mirror.bring_up_to_date(closing=False)
    return mirror


def finish(study: StudyConfig, prepared: Prepared) -> tuple[str, str]:
    """The study to its end, in its folder and in MLflow; the experiment's id, and what was told."""
    folder, told = StudyFolder.of(study), StringIO()
    folder.write_settings(study)
    with mirrored(study, Console(file=told, width=200)) as mirror:
        comparison = compared(study, folder, shared_scores(prepared), searches(study, (T, S)))
        comparison.write(folder)
        export_best_student(study, folder, prepared)
        assert mirror.caught_up(ending=Ending(comparison, learned_weights(study, folder)))
    return open_experiment(study), told.getvalue()
