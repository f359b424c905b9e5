"""Contrastive distillation, against the paper's formula one number at a time, and its memory."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kd_hpo.core.contrast import Contrast
from kd_hpo.core.pair_losses import Remembers
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, pair_plan

B, N, WIDTH = 3, 7, 4
LOSS = Contrast(negatives=2, temperature=0.5, momentum=0.25, width=WIDTH)
PLAN = replace(pair_plan([LayerShape("t", 2, 1, 1)], [LayerShape("s", 3, 2, 2)]), examples=N)
ROWS, NEGATIVES = torch.tensor([4, 0, 6]), torch.tensor([[1, 2], [6, 3], [5, 1]])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


FEATURE = drawn(0, B, 3, 2, 2)
TARGETS = Targets(drawn(2, B, 5), {(1, 1): drawn(1, B, 1, 2)}, rows=ROWS, negatives=NEGATIVES)


@pytest.fixture
def pairs() -> PairMatrix:
    return PairMatrix(PLAN, LOSS, generator=torch.Generator().manual_seed(1)).double()


def of(pairs: PairMatrix) -> dict[str, Tensor]:
    return {name.rpartition("0-0.")[2]: value.clone() for name, value in pairs.state_dict().items()}


def embedded(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.stack([(weight @ x + bias) / (weight @ x + bias).norm() for x in rows])


def embeddings(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    student = embedded(FEATURE.mean((2, 3)), state["student.weight"], state["student.bias"])
    return student, embedded(TARGETS.blocks[1, 1][:, 0], state["teacher.weight"], state["teacher.bias"])


def scores(embedding: Tensor, bank: Tensor) -> list[list[float]]:
    wanted = torch.cat([ROWS[:, None], NEGATIVES], 1).tolist()
    return [[math.exp(float(embedding[i] @ bank[row]) / 0.5) for row in rows] for i, rows in enumerate(wanted)]


def expected(state: dict[str, Tensor], normalisers: list[float]) -> list[float]:
    total, noise = [0.0] * B, 2 / N
    student, teacher = embeddings(state)
    views = ((student, state["teacher_bank"]), (teacher, state["student_bank"]))
    for (embedding, bank), z in zip(views, normalisers, strict=True):
        for i, row in enumerate(scores(embedding, bank)):
            own, *others = (each / z for each in row)
            total[i] -= math.log(own / (own + noise + 1e-7)) + sum(math.log(noise / (p + noise + 1e-7)) for p in others)
    return total


def test_loss_is_the_formula_with_the_normalisers_of_the_first_batch_kept(pairs: PairMatrix) -> None:
    before = of(pairs)
    student, teacher = embeddings(before)
    both = [scores(student, before["teacher_bank"]), scores(teacher, before["student_bank"])]
    z = [N * sum(map(sum, each)) / (3 * B) for each in both]
    assert pairs.sample_losses([FEATURE], TARGETS)[:, 0, 0].tolist() == pytest.approx(expected(before, z), rel=1e-9)
    assert isinstance(pairs.memory, Remembers)
    pairs.memory.remember([FEATURE], TARGETS)
    after = of(pairs)
    assert after["normalisers"].tolist() == pytest.approx(z, rel=1e-9)
    assert pairs.sample_losses([FEATURE], TARGETS)[:, 0, 0].tolist() == pytest.approx(expected(after, z), rel=1e-9)


def test_memory_of_the_batchs_images_moves_towards_their_embeddings_and_no_other(pairs: PairMatrix) -> None:
    before = of(pairs)
    assert isinstance(pairs.memory, Remembers)
    pairs.memory.remember([FEATURE], TARGETS)
    after = of(pairs)
    for name, embedding in zip(("student_bank", "teacher_bank"), embeddings(before), strict=True):
        bank = before[name].clone()
        for i, row in enumerate(ROWS.tolist()):
            moved = 0.25 * bank[row] + 0.75 * embedding[i]
            bank[row] = moved / moved.norm()
        torch.testing.assert_close(after[name], bank, rtol=1e-9, atol=1e-12)
