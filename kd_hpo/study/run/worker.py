"""Runs one trial of a study inside a Ray worker: the trial, its files, its reports to Ray."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.trial import TrialConfig
from kd_hpo.errors import ConfigError, Diverged, KdHpoError
from kd_hpo.study.cluster.memory import keep_memory
from kd_hpo.study.cluster.start import go_to_start
from kd_hpo.study.design.trials import is_judged, trial_config
from kd_hpo.study.run.captured import captured
from kd_hpo.study.run.failure import failure_of, log_traceback
from kd_hpo.study.store.folder import State, StudyFolder, TrialAbout, TrialSpec, TrialStatus
from kd_hpo.study.store.lease import Lease, Superseded, worker_name
from kd_hpo.trial.loop import layer_records
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare, shared_settings
from kd_hpo.trial.result import RESULT, EpochRecord
from kd_hpo.trial.run import run_trial
from kd_hpo.trial.stopwatch import EpochTime

Report = Callable[[dict[str, float]], None]


def execute(
    sampled: dict[str, Any],
    *,
    study_json: str,
    report: Report,
    timed: Callable[[TrialSpec, EpochTime], None] = lambda *_: None,
) -> None:
    """Runs one trial of a study: what Ray calls in its worker.

    It ends early when `report` raises SystemExit, as Ray does to stop a trial: with the state `stopped` that the driver has
    written (StatusKeeper), or still `running` where the driver was interrupted.

    timed  is told how long the training of each epoch took
    What the process prints goes into the trial's log. An error that kd_hpo raises on purpose ends the trial as failed, since
    it would come again; any other is written to the status, for the driver to tell, and goes on to Ray, which starts the trial
    again from its checkpoint. Where that has been done already, without this process having been told, it writes nothing more
    (Lease).
    """
    go_to_start()
    study = StudyConfig.model_validate_json(study_json)
    spec = TrialSpec.model_validate(sampled["spec"])
    attempt = Lease.begin(StudyFolder.of(study).trial(spec.id))
    folder = replace(StudyFolder.of(study), write=attempt.write)
    with captured(folder.log(spec.id), attempt):
        _run(study, spec, folder, report, partial(timed, spec))


def _run(study: StudyConfig, spec: TrialSpec, folder: StudyFolder, report: Report, timed: Callable[[EpochTime], None]) -> None:
    keep_memory(folder, spec.id)  # a process that is killed says nothing more
    # Whatever OMP_NUM_THREADS says: trials that share cores with more threads than they have wait for each other.
    torch.set_num_threads(max(1, int(study.resources.cpus_per_trial)))
    try:
        run_recorded(study, spec, folder, report, timed)
    except Superseded:
        raise
    except Exception as error:
        log_traceback(error)
        status = folder.status(spec.id)
        if status is None or status.state == "running":
            message = failure_of(error, folder.log(spec.id))
            folder.write_status(TrialStatus(spec=spec, state="running", message=message))
        raise


def run_recorded(
    study: StudyConfig, spec: TrialSpec, folder: StudyFolder, report: Report, timed: Callable[[EpochTime], None]
) -> None:
    started = time.monotonic()
    try:
        config = trial_config(study, spec)
        prepared = prepared_for(config, folder.cache)
    except KdHpoError as error:
        log_traceback(error)
        folder.write_status(TrialStatus(spec=spec, state="failed", message=str(error), of_settings=is_of_settings(error)))
        return
    records: list[EpochRecord] = []

    def end(state: State, message: str = "", *, of_settings: bool = False) -> None:
        duration = round(time.monotonic() - started, 3)
        ended = TrialStatus(spec=spec, state=state, message=message, duration_s=duration, of_settings=of_settings)
        print(f"--- {state} after {len(records)} epochs{message and f': {message}'}", flush=True)
        folder.write_status(ended)

    def tell(record: EpochRecord) -> None:
        records.append(record)
        folder.write_records(spec.id, records)
        if record.epoch == config.training.epochs:
            return  # Ray may end the trial inside its last report: that one comes when all else is done
        if is_judged(config, record.epoch):
            report({"epoch": record.epoch, **record.metrics})

    folder.write_about(spec.id, about_trial(config, prepared))
    folder.write_status(TrialStatus(spec=spec, state="running"))
    try:
        result = run_trial(
            config,
            tell,
            cache=folder.cache,
            folder=folder.trial(spec.id),
            prepared=prepared,
            timed=timed,
            write=folder.write,
        )
        folder.write(folder.trial(spec.id) / RESULT, result.model_dump_json())
        end("completed")
        report({"epoch": result.last.epoch, **result.last.metrics})
    except SystemExit:
        status = folder.status(spec.id)
        if status and status.state != "completed":
            end(status.state, status.message)
        raise
    except Superseded:
        raise
    except KdHpoError as error:
        log_traceback(error)
        end("failed", str(error), of_settings=is_of_settings(error))


def is_of_settings(error: KdHpoError) -> bool:
    """Whether a search learns from a failure: searched settings do not go together, or lead out of the finite."""
    return isinstance(error, Diverged | ConfigError)


def about_trial(config: TrialConfig, prepared: Prepared) -> TrialAbout:
    images, plan = prepared.batches.images, prepared.plan
    return TrialAbout(
        config=config,
        teacher_layers=layer_records(plan.teacher),
        student_layers=layer_records(plan.student),
        split_digests=prepared.split_digests,
        teacher_digest=prepared.teacher_digest,
        data_name=images.name,
        data_digest=images.digest,
        versions={name: version(name) for name in ("kd_hpo", "torch", "ray", "optuna", "mlflow")},
        worker=worker_name(),
    )


def prepared_for(config: TrialConfig, cache: Path) -> Prepared:
    """Gives what a trial shares with others: the same to trials that may share it, as long as one follows the other."""
    return _prepared(shared_settings(config).model_dump_json(), cache)


@lru_cache(maxsize=1)
def _prepared(shared: str, cache: Path) -> Prepared:
    return prepare(TrialConfig.model_validate_json(shared), cache)
