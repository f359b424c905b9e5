"""Trains what has been prepared: a trial from its start, or from its checkpoint, to its result."""

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from math import inf, isfinite
from pathlib import Path
from platform import python_version

import torch
from torch import Tensor

from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.wording import cut, one_line
from kd_hpo.core.balance import GradientBalance
from kd_hpo.core.pair_losses import entropy
from kd_hpo.core.plan import LayerShape
from kd_hpo.core.weightings import Gathers
from kd_hpo.data.batches import shuffled_batches
from kd_hpo.errors import CheckpointMismatch, Diverged
from kd_hpo.files import Write, write_atomically
from kd_hpo.nets.weights import save_weights
from kd_hpo.trial.checkpoint import load_checkpoint, save_checkpoint
from kd_hpo.trial.evaluate import agreement, score
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.randomness import ORDER, random_state_kept
from kd_hpo.trial.result import KNOWN, KNOWN_FROM, TOTAL, EpochRecord, LayerRecord, Rows, TrialResult
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.state import Trial
from kd_hpo.trial.steps import train_step
from kd_hpo.trial.stopwatch import EpochTime

Report = Callable[[EpochRecord], None]
Timed = Callable[[EpochTime], None]

MISSED = 5
"""Measures of a pair's gradient in a row that may be lost: more, and there is nothing to balance it by."""

CHECKPOINT, LAST_WEIGHTS, BEST_WEIGHTS = "checkpoint.pt", "last.safetensors", "best.safetensors"


def train_prepared(
    config: TrialConfig,
    prepared: Prepared,
    report: Report,
    *,
    folder: Path | None = None,
    timed: Timed = lambda _: None,
    write: Write = write_atomically,
) -> TrialResult:
    """Trains, epoch by epoch, on what was prepared for the trial; for the arguments and errors see `kd_hpo.run_trial`."""
    with random_state_kept():
        trial = start_trial(config, prepared)
        with trial.student:
            resume(trial, folder)
            for record in trial.records:
                report(record)
            while trial.epoch < config.training.epochs:
                report(run_epoch(trial, folder, timed, write))
            return trial_result(trial)


def resume(trial: Trial, folder: Path | None) -> None:
    """Takes the trial up from its checkpoint, if there is one.

    Raises CheckpointMismatch for a checkpoint that is broken, of another trial, or that the trial does not fit.
    """
    state = load_checkpoint(folder / CHECKPOINT, trial.config) if folder else None
    if state is None:
        return
    try:
        trial.load_state_dict(state)
        require_end_of_epoch(trial)
    except Exception as error:  # what it holds may be anything
        said = cut(one_line(f"{type(error).__name__}: {error}"))
        raise CheckpointMismatch(
            f"the checkpoint in {folder} does not fit the trial ({said}). Remove the file to start the trial again"
        ) from error


def require_end_of_epoch(trial: Trial) -> None:
    """Checks that the steps are those of the epochs that are recorded, as in a checkpoint. Raises ValueError where not."""
    expected = len(trial.records) * trial.steps_per_epoch, len(trial.records)
    if (trial.step, trial.epoch) != expected or trial.epoch > trial.config.training.epochs:
        raise ValueError(f"step {trial.step} and epoch {trial.epoch} after {len(trial.records)} epochs")


def run_epoch(trial: Trial, folder: Path | None, timed: Timed, write: Write = write_atomically) -> EpochRecord:
    started = time.perf_counter()
    batches = shuffled_batches(
        trial.prepared.splits.train, trial.config.training.batch_size, trial.config.seed, ORDER, trial.epoch
    )
    held = trial.schedule.held(trial.step)
    if trial.pairs is not None and trial.pairs.direction is not None:
        trial.pairs.direction.forget_steps()
    seen = trial.prepared.batches.ahead(trial.viewed(batch) for batch in batches)
    table = torch.stack([train_step(trial, batch).stacked() for batch in seen]).cpu()
    timed(EpochTime(len(table), time.perf_counter() - started, trial.hypergradient_time.take_seconds()))
    require_finite(trial, table)
    trial.epoch += 1
    record = epoch_record(trial, table.mean(0), held)
    trial.records.append(record)
    if folder is not None:
        write_weights(trial, folder, write)
        save_checkpoint(folder / CHECKPOINT, trial.config, trial.state_dict(), write)
    return record


def require_finite(trial: Trial, losses: Tensor) -> None:
    """Checks that the losses (steps, 4) of an epoch are finite. Raises Diverged at the first step where one is not."""
    wrong = (~losses.isfinite()).any(1).nonzero()
    if len(wrong):
        at = int(wrong[0])
        task, kd, pairs, _ = losses[at].tolist()
        raise diverged(trial, trial.step - len(losses) + at, f"task {task:g}, kd {kd:g}, pairs {pairs:g}")
    if trial.lost is not None:
        raise diverged(trial, trial.lost, "finite itself, but not the hypergradient of lambda")
    require_measures(trial)


def require_measures(trial: Trial) -> None:
    """Checks the balance's measures: raises Diverged where MISSED of a pair in a row have not been finite."""
    if trial.pairs is None or not isinstance(trial.pairs.balance, GradientBalance):
        return
    plan, missed = trial.pairs.losses.plan, trial.pairs.balance.missed
    if trial.step == trial.schedule.steps:  # there is no other
        missed = torch.where(trial.pairs.balance.unknown, torch.inf, missed)
    if float(missed.max()) >= MISSED:
        t, s = divmod(int(missed.argmax()), plan.shape[1])
        pair = f"{plan.teacher[t].name} -> {plan.student[s].name}"
        raise diverged(trial, trial.step, f"the gradient of {pair} was not finite at its last measures")


def diverged(trial: Trial, step: int, losses: str) -> Diverged:
    """Makes the error of a loss that is not finite; it names the settings that the loss grows with."""
    config = trial.config
    grows = {"training.optimizer.lr": config.training.optimizer.lr, "kd.weight": config.kd.weight}
    if trial.pairs is not None:
        grows |= {"pairs.strength": config.pairs.strength, "pairs.regressor_lr": config.pairs.regressor_lr}
    told = ", ".join(f"{path} {value:g}" for path, value in grows.items() if value)
    return Diverged(f"the loss is not finite at step {step} of {trial.schedule.steps}: {losses}; lower what is large of {told}")


def epoch_record(trial: Trial, means: Tensor, held: bool) -> EpochRecord:
    """Scores the student on `val`, which no gradient has seen, and on `outer`; keeps the pair weights of the epoch.

    means  (4,), of the task, KD and pair losses over the epoch's steps, and of the metric that was reached
    Raises Diverged where a split's loss, or the agreement with the teacher, is not finite.
    """
    prepared = trial.prepared
    task, kd, pairs, reached = means.tolist()
    goal = trial.config.task.goal
    metrics = {goal.on("train"): reached, "train/loss": task, "train/kd": kd, "train/pairs": pairs}
    for name, indices in (("val", prepared.splits.val), ("outer", prepared.splits.outer)):
        if len(indices):  # `apply` trains on the outer split, and leaves none
            said = prepared.opinions[name].outputs if name in prepared.opinions else None
            with trial.as_scored():
                of_split = score(trial.student, prepared.task, prepared.batches, indices, said)
            if not isfinite(of_split.loss):  # the last step of the epoch did it: no training loss has seen it
                raise diverged(trial, trial.step, f"{name} {of_split.loss:g}")
            metrics |= {f"{name}/{metric}": value for metric, value in of_split.metrics.items()}
            metrics[f"{name}/loss"] = of_split.loss
            if of_split.agreement is not None:
                metrics[f"{name}/agreement"] = of_split.agreement
    if unlabelled := prepared.opinions.get("unlabelled"):
        with trial.as_scored():
            metrics["unlabelled/agreement"] = agreement(
                trial.student, prepared.task, unlabelled.batches, unlabelled.images, unlabelled.outputs
            )
    for name, value in metrics.items():
        if name.endswith("/agreement") and not isfinite(value):
            raise diverged(trial, trial.step, f"{name.replace('/', ' ')} {value:g}")
    weights = scales = torch.zeros(0, 0)
    t_values: Rows = ()
    if trial.pairs is not None:
        weights, scales = trial.pairs.weighting.of_epoch(trial.epoch - 1), trial.pairs.balance.scales()
        metrics["weights/entropy"] = float(entropy(weights))
        metrics["weights/largest"] = float(weights.max())
        if missed := trial.pairs.balance.take_missed():
            metrics["weights/missed_measures"] = missed
        if isinstance(trial.pairs.weighting, Gathers) and (t := trial.pairs.weighting.t_values()) is not None:
            t_values = rows(t)
            metrics[KNOWN] = float((t.abs() > KNOWN_FROM).sum())
        metrics[TOTAL] = trial.pairs.weighting.total(trial.epoch - 1)
        if trial.pairs.direction is not None and trial.pairs.direction.residual:
            metrics["weights/residual"] = trial.pairs.direction.residual
        if held:
            trial.pairs.held_sum += weights
            trial.pairs.held_epochs += 1
    matrices = {"weights": rows(weights), "scales": rows(scales), "t_values": t_values}
    return EpochRecord(epoch=trial.epoch, metrics=metrics, held=held, **matrices)


def write_weights(trial: Trial, folder: Path, write: Write) -> None:
    """Writes the weights that are scored, the last ones and the best."""
    *before, last = (trial.config.task.goal.merit(record.metrics) for record in trial.records)
    with trial.as_scored():
        state = trial.student.network.state_dict()
        save_weights(state, folder / LAST_WEIGHTS, write)
        if last > max(before, default=-inf):
            save_weights(state, folder / BEST_WEIGHTS, write)


def trial_result(trial: Trial) -> TrialResult:
    plan, prepared = trial.prepared.plan, trial.prepared
    held = trial.pairs.held_sum / max(trial.pairs.held_epochs, 1) if trial.pairs else torch.zeros(0, 0)
    return TrialResult(
        config=trial.config,
        teacher_layers=layer_records(plan.teacher),
        student_layers=layer_records(plan.student),
        teacher_digest=prepared.teacher_digest,
        teacher_val_accuracy=prepared.teacher.val.value,
        split_digests=prepared.split_digests,
        data_digest=prepared.batches.images.digest,
        records=tuple(trial.records),
        held_mean=rows(held) if trial.pairs and trial.pairs.held_epochs else trial.records[-1].weights,
        updates=trial.schedule.updates if trial.schedule.learning else None,
        versions=versions(),
    ).with_student(trial.student.network)


def layer_records(layers: Sequence[LayerShape]) -> tuple[LayerRecord, ...]:
    return tuple(LayerRecord(name=x.name, shape=(x.channels, x.height, x.width)) for x in layers)


def versions() -> dict[str, str]:
    return {"python": python_version()} | {name: version(name) for name in ("kd_hpo", "torch")}


def rows(matrix: Tensor) -> Rows:
    return tuple(tuple(row) for row in matrix.tolist())
