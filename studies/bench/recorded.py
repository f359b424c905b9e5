"""Trials that were never trained: a study's settings, and records as large and as varied as those of real trials."""

import random
from pathlib import Path

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.store.folder import TrialAbout
from kd_hpo.trial.result import EpochRecord, LayerRecord


def replayed_study(
    runs: Path, pairs: int, epochs: int, uri: str | None = None, **changes: object
) -> tuple[StudyConfig, TrialAbout]:
    """A study on the digits whose trials have that many pairs, a square number, and what its trials run with."""
    side = round(pairs**0.5)
    layers = tuple(LayerRecord(name=f"stage{i}.block", shape=(8 * (i + 1), 8, 8)) for i in range(side))
    network = {"name": "plain_conv", "arguments": {"channels": [4, 8], "hidden": 16, "padding": 1}}
    study = StudyConfig.model_validate(
        {
            "name": "replayed",
            "data": {"kind": "digits"},
            "splits": {"train": 640, "outer": 200, "val": 200, "test": 200},
            "teacher": {"network": network, "layers": ["conv1"], "training": None, "accept_weak": True},
            "student": {"network": network, "layers": ["conv1"]},
            "training": {"epochs": epochs, "batch_size": 64},
            "tracking": {"uri": uri},
            "runs": runs,
        }
        | changes
    )
    about = TrialAbout(
        config=study.trial(),
        teacher_layers=layers,
        student_layers=layers,
        split_digests=dict.fromkeys(("train", "outer", "val", "test", "extra"), "0" * 64),
        teacher_digest="0" * 64,
        data_name="digits",
        data_digest="0" * 64,
        versions={"kd_hpo": "0.1.0"},
        worker="here:1",
    )
    return study, about


def record_of(epoch: int, about: TrialAbout, seed: int = 0) -> EpochRecord:
    """Weights that are numbers of full length, as learned ones are."""
    chance = random.Random(seed * 100_003 + epoch)
    shape = range(len(about.teacher_layers)), range(len(about.student_layers))
    weights = [[chance.random() for _ in shape[1]] for _ in shape[0]]
    total = sum(map(sum, weights))
    accuracy = 0.9 - 0.5 / epoch + 0.05 * chance.random()
    names = ("train/accuracy", "train/loss", "train/kd", "train/pairs", "val/loss", "outer/accuracy", "outer/loss")
    return EpochRecord(
        epoch=epoch,
        metrics={"val/accuracy": accuracy, **{name: chance.random() for name in (*names, "weights/entropy", "weights/largest")}},
        weights=tuple(tuple(cell / total for cell in row) for row in weights),
        scales=tuple(tuple(chance.random() for _ in row) for row in weights),
        held=2 * epoch > about.config.training.epochs,
    )
