"""Networks of one's own: what they are called with, what they return, what they come in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn

from kd_hpo.distiller.distiller import Distiller
from kd_hpo.errors import ConfigError, FeatureMismatch
from tests.distiller.loops import LEARNED, SOON, STEPS, Net, batch, loop_of, train


@pytest.mark.parametrize(
    "inputs",
    [
        lambda x: {"pixel_values": x, "scale": torch.ones(len(x))},
        lambda x: [x, torch.ones(len(x))],
        lambda x: x,
    ],
    ids=["mapping", "list", "tensor"],
)
def test_inputs_of_any_kind_give_the_same_lambda(inputs: Any) -> None:
    plain, _, optimizer = loop_of()
    train(plain, optimizer, range(STEPS))
    student = Net(3, 1, named=True).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    kd = Distiller(
        Net(5, 0, named=True),
        student,
        inputs(batch(99)[0]),
        task=F.cross_entropy,
        optimizer=optimizer,
        steps=STEPS,
        teacher_output="logits",
        student_output="logits",
        weighting=LEARNED,
        pairs=SOON,
    )
    train(kd, optimizer, range(STEPS), inputs)
    assert kd.layers == plain.layers
    assert torch.equal(kd.weights, plain.weights)


def test_a_network_that_returns_more_says_which() -> None:
    with pytest.raises(FeatureMismatch, match=r"student: .*output: hidden"):
        loop_of(Net(3, 1, named=True))


def test_features_without_an_image_are_averaged_over_positions() -> None:
    class Words(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.words, self.mix, self.head = nn.Embedding(10, width), nn.Linear(width, width), nn.Linear(width, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.mix(self.words(ids)).mean(1))

    ids = torch.randint(10, (8, 16))
    pairs = {"balance": {"kind": "none"}}
    layers = {"teacher_layers": ["mix"], "student_layers": ["words", "mix"]}
    kd = Distiller(Words(6), Words(4), {"ids": ids}, weighting={"kind": "uniform"}, pairs=pairs, **layers)
    assert kd({"ids": ids}).loss.isfinite() and kd.weights.shape == (1, 2)


def test_a_dead_channel_is_left_out_and_statistics_are_of_all_that_is_given() -> None:
    teacher = Net(5, 0)
    nn.init.zeros_(teacher.one.weight[2])
    layers = {"teacher_layers": ["one"], "student_layers": ["one"]}
    x, y = batch(99)[0], batch(98)[0]
    kd = Distiller(teacher, Net(3, 1), x, more=[y], weighting={"kind": "uniform"}, pairs={"balance": {"kind": "none"}}, **layers)
    (channels,), (statistics,) = kd.state_dict()["channels"], kd.state_dict()["statistics"].values()
    assert channels.tolist() == [0, 1, 3, 4]
    with torch.no_grad():
        expected = teacher.one(torch.cat([x, y]))[:, channels]
    torch.testing.assert_close(statistics[0], expected.mean((0, 2, 3)))
    torch.testing.assert_close(statistics[1], expected.std((0, 2, 3), correction=0))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_a_student_in_distributed_data_parallel_learns_the_same() -> None:
    plain, _, optimizer = loop_of()
    train(plain, optimizer, range(STEPS))
    kd, _, optimizer = loop_of(nn.parallel.DistributedDataParallel(Net(3, 1).train()))
    train(kd, optimizer, range(STEPS))
    assert torch.equal(kd.weights, plain.weights)


def test_wrappers_that_hide_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="DataParallel"):
        loop_of(nn.DataParallel(Net(3, 1)))
