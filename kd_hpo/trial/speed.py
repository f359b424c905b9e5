"""How fast a trial's steps are in each number format, memory format and compiled: measured side by side on this machine."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

import torch

from kd_hpo.config.trial import TrialConfig
from kd_hpo.data.batches import ImageBatches, shuffled_batches
from kd_hpo.data.teacher_targets import TeacherReader
from kd_hpo.errors import ConfigError
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.randomness import ORDER, random_state_kept
from kd_hpo.trial.start import start_trial, steps_per_epoch
from kd_hpo.trial.state import Trial
from kd_hpo.trial.steps import train_step

SETTINGS: dict[str, dict[str, object]] = {
    "float32": {"precision": "float32", "channels_last": False, "compile": False},
    "channels_last": {"precision": "float32", "channels_last": True, "compile": False},
    "bfloat16": {"precision": "bfloat16", "channels_last": False, "compile": False},
    "bfloat16, channels_last": {"precision": "bfloat16", "channels_last": True, "compile": False},
    "compile": {"precision": "float32", "channels_last": False, "compile": True},
    "compile, channels_last": {"precision": "float32", "channels_last": True, "compile": True},
}
"""What is compared, in the order of the table."""
_GAIN = 0.95


@dataclass(frozen=True)
class Speed:
    """The speed of one choice of settings."""

    name: str
    settings: dict[str, object]
    step_ms: tuple[float, ...]
    """The mean step of each block; empty where it cannot run here."""
    ratios: tuple[float, ...]
    """To the trial's own settings, block by block."""
    first_s: float
    """The first step, with the compilation where there is one."""
    problem: str = ""

    @property
    def median_ms(self) -> float:
        return statistics.median(self.step_ms)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def own_settings(config: TrialConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in SETTINGS["float32"]}


def measure_speed(
    config: TrialConfig, prepared: Prepared, *, steps: int, blocks: int, progress: Callable[[str], None] = lambda _: None
) -> list[Speed]:
    """Runs `steps` steps of a trial under each choice of settings, one after the other, in every block.

    The first block, not counted, warms up. What the teacher says is that of the given trial for all of them.
    """
    own = own_settings(config)
    choices = {name: settings for name, settings in SETTINGS.items() if settings != own}
    choices = {"as it is": own, **choices}
    each = steps_per_epoch(config, prepared.splits)
    epochs = ceil((steps * (blocks + 1) + 1) / each)
    config = config.replace(training=config.training.model_dump() | {"epochs": max(epochs, config.training.epochs)})
    trials, first, problems = dict[str, Trial](), dict[str, float](), dict[str, str]()
    with random_state_kept():
        for name, settings in choices.items():
            progress(f"the first step: {name}")
            started = time.perf_counter()
            try:
                trial = start_trial(config.replace(**settings), _under(prepared, settings))
                _run(trial, 1)
            except ConfigError as error:
                problems[name] = str(error)
                continue
            trials[name], first[name] = trial, time.perf_counter() - started
        found: dict[str, list[float]] = {name: [] for name in trials}
        for block in range(blocks + 1):
            for name, trial in trials.items():
                progress(f"steps: block {block} of {blocks}, {name}")
                taken = _run(trial, steps)
                if block:
                    found[name].append(1000 * taken / steps)
        for trial in trials.values():
            trial.student.close()
    speeds = []
    for name, settings in choices.items():
        times = found.get(name, [])
        ratios = tuple(a / b for a, b in zip(times, found["as it is"], strict=False))
        speeds.append(Speed(name, settings, tuple(times), ratios, first.get(name, 0.0), problems.get(name, "")))
    return speeds


def what_pays(speeds: list[Speed], steps: int) -> Speed | None:
    """The fastest choice that is faster than the trial's own settings in every block, and over a trial of so many steps.

    Over the trial, its first step included, it must be so by one part in twenty. None where no choice is.
    """
    own = next(speed for speed in speeds if speed.name == "as it is")
    base = steps * own.median_ms / 1000 + own.first_s

    def whole(speed: Speed) -> float:
        return steps * speed.median_ms / 1000 + speed.first_s

    better = [s for s in speeds if s.step_ms and max(s.ratios) < 1 and whole(s) < _GAIN * base]
    return min(better, key=whole, default=None)


def _under(prepared: Prepared, settings: dict[str, object]) -> Prepared:
    """The same under other settings: features that are cached stay as they are, a teacher on line runs as the student does."""
    old = prepared.batches
    batches = ImageBatches(
        old.images,
        prepared.splits.train,
        old.device,
        normalisation=old.normalisation,
        precision=str(settings["precision"]),
        channels_last=bool(settings["channels_last"]),
        views=old.views,
    )
    targets = prepared.targets
    if isinstance(targets, TeacherReader):
        network = copy.deepcopy(targets.network).to(memory_format=batches.memory_format)
        targets = replace(targets, network=network, precision=batches)
    return replace(prepared, batches=batches, targets=targets)


def _run(trial: Trial, steps: int) -> float:
    """Seconds of so many steps, those in which lambda learns among them."""
    train, done = trial.prepared.splits.train, 0
    started = time.perf_counter()
    while done < steps:
        trial.epoch = trial.step // trial.steps_per_epoch
        batches = list(shuffled_batches(train, trial.config.training.batch_size, trial.config.seed, ORDER, trial.epoch))
        for batch in batches[trial.step % trial.steps_per_epoch :][: steps - done]:
            train_step(trial, trial.viewed(batch))
            done += 1
    if trial.device.type == "cuda":
        torch.cuda.synchronize(trial.device)
    return time.perf_counter() - started
