"""Where training images stand in a memory, and which others are drawn."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_hpo.core.directions import InnerStep
from kd_hpo.core.learned import Learned
from kd_hpo.errors import ConfigError
from kd_hpo.trial.inner import inner_step
from kd_hpo.trial.memory_rows import MemoryRows
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.steps import train_step
from tests.conftest import digits_trial

CRD = {"loss": {"kind": "crd", "negatives": 16}}


def test_rows_are_those_of_the_images_and_negatives_of_other_classes_alike(prepared: Prepared) -> None:
    train, batches = prepared.splits.train, prepared.batches
    memory = MemoryRows.of_split(train, batches)
    batch = train[[7, 3, 11]]
    assert np.array_equal(memory.images[memory.rows(batch)], batch)
    assert np.array_equal(memory.rows(batch + 2 * memory.of_data), memory.rows(batch))  # another view of the same
    labels = batches.labels(batch)
    drawn = memory.of_other_classes(labels, 20_000, torch.Generator().manual_seed(0)).numpy()
    of_drawn = batches.images.labels[memory.images[drawn]]
    assert (of_drawn != labels.numpy()[:, None]).all()
    counts = Counter(drawn[0].tolist())
    assert len(counts) == (batches.images.labels[train] != int(labels[0])).sum()
    assert max(counts.values()) < 3 * min(counts.values())


def test_a_step_moves_the_memory_and_what_a_direction_sees_of_the_step_has_the_one_before(cache: Path) -> None:
    config = digits_trial(pairs=CRD, weighting={"kind": "learned", "evidence": False})
    trial = start_trial(config, prepare(config, cache))
    batch = trial.prepared.splits.train[:32]
    train_step(trial, batch)
    assert trial.pairs is not None
    assert isinstance(trial.pairs.weighting, Learned)
    due = trial.schedule.at(trial.step)
    step: InnerStep = inner_step(trial, trial.see(batch, due, remembers=True), due)
    w = {name: p.detach().clone() for name, p in trial.parameters.items()}
    before, kept = step.pair_losses(w).detach(), {n: b.clone() for n, b in trial.pairs.losses.named_buffers()}
    train_step(trial, batch)
    moved = [name for name, buffer in trial.pairs.losses.named_buffers() if not torch.equal(buffer, kept[name])]
    assert any("bank" in name for name in moved)
    assert torch.equal(step.pair_losses(w).detach(), before)


def test_an_outer_loss_with_the_pairs_is_refused(cache: Path) -> None:
    config = digits_trial(pairs=CRD, weighting={"kind": "learned", "outer_objective": "task_and_pairs"})
    with pytest.raises(ConfigError, match="has none of the outer split's"):
        start_trial(config, prepare(config, cache))
