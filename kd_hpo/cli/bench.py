"""The command that measures this machine: bench."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from kd_hpo.cli.console import AS_USUAL, Output, Overrides, Result

if TYPE_CHECKING:
    from kd_hpo.config.trial import TrialConfig
    from kd_hpo.trial.speed import Speed


def bench(
    study_file: Path | None = None,
    /,
    *,
    steps: int = 10,
    blocks: int = 5,
    set_: Overrides = (),
    output: Output = AS_USUAL,
) -> Result:
    """Measure on this machine which of bfloat16, channels_last and torch.compile make a study's trial faster, and what to set.

    Steps of the trial are run under each choice in turn, on as many threads as a trial has; nothing is learned from them.

    Parameters
    ----------
    study_file
        A YAML file, such as studies/digits.yaml; if not given, small networks on digits.
    steps
        Training steps of a choice in each block; more than `weighting.every`, and lambda learns among them.
    blocks
        How many times each choice has its turn.
    set_
        A setting of the file to replace, as a.b=value; may be given several times.
    """
    from kd_hpo.errors import ConfigError

    if steps < 1 or blocks < 1:
        raise ConfigError(f"--steps {steps} and --blocks {blocks} must both be 1 or more")
    if study_file is None:
        if set_:
            raise ConfigError("--set replaces settings of a study; give its file, too")
        with TemporaryDirectory() as cache:
            return measured(default_trial(), Path(cache), 1, "", steps, blocks, output)
    from kd_hpo.study.design.study_file import load_study
    from kd_hpo.study.store.folder import StudyFolder

    study = load_study(study_file, set_)
    threads = max(1, int(study.resources.cpus_per_trial))
    return measured(study.trial(), StudyFolder.of(study).cache, threads, str(study_file), steps, blocks, output)


def default_trial() -> "TrialConfig":
    from kd_hpo.config.trial import TrialConfig

    def network(*channels: int) -> dict[str, object]:
        return {"name": "plain_conv", "arguments": {"channels": channels, "hidden": 64, "padding": 1}}

    return TrialConfig.model_validate(
        {
            "data": {"kind": "digits"},
            "splits": {"train": 1024, "outer": 256, "val": 128, "test": 128},
            "teacher": {"network": network(16, 32, 64), "layers": "auto", "training": None},
            "student": {"network": network(8, 16, 32), "layers": "auto"},
            "training": {"epochs": 25},
        }
    )


def measured(config: "TrialConfig", cache: Path, threads: int, file: str, steps: int, blocks: int, output: Output) -> Result:
    import torch

    from kd_hpo.study.status_line import status_line
    from kd_hpo.trial.prepare import prepare
    from kd_hpo.trial.speed import measure_speed, what_pays
    from kd_hpo.trial.start import steps_per_epoch

    torch.set_num_threads(threads)
    with status_line(output.progress, each_time=output.verbose) as progress:
        prepared = prepare(config, cache, progress)
        speeds = measure_speed(config, prepared, steps=steps, blocks=blocks, progress=progress)
    total = steps_per_epoch(config, prepared.splits) * config.training.epochs
    best = what_pays(speeds, total)
    options = [f"--set {name}={str(value).lower()}" for name, value in best.settings.items()] if best else []
    advice = f"faster here: {' '.join(options)}" if best else "nothing is faster here than the settings as they are"
    document = {
        "study": file or None,
        "device": str(prepared.batches.device),
        "threads": threads,
        "steps_of_a_trial": total,
        "speeds": [described(speed) for speed in speeds],
        "set": {name: best.settings[name] for name in best.settings} if best else {},
    }
    where = f"{prepared.batches.device}, {threads} thread{'s' if threads > 1 else ''} a trial, {blocks} blocks of {steps} steps"
    return Result(document, (Text(where), table(speeds), Text(advice)))


def described(speed: "Speed") -> dict[str, object]:
    if not speed.step_ms:
        return {"name": speed.name, "settings": speed.settings, "problem": speed.problem}
    return {
        "name": speed.name,
        "settings": speed.settings,
        "step_ms": speed.median_ms,
        "ratio": speed.ratio,
        "ratio_range": [min(speed.ratios), max(speed.ratios)],
        "first_step_s": speed.first_s,
    }


def table(speeds: list["Speed"]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown.add_column("settings", no_wrap=True)
    for heading in ("step, ms", "ratio", "spread", "first step, s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for s in speeds:
        if s.step_ms:
            spread = f"{min(s.ratios):.2f} to {max(s.ratios):.2f}"
            shown.add_row(s.name, f"{s.median_ms:.2f}", f"{s.ratio:.2f}", spread, f"{s.first_s:.1f}")
        else:
            shown.add_row(s.name, "-", "-", "cannot run here", "-")
    return shown
