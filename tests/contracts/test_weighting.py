"""Every weighting that ships keeps the contract of kd_hpo.testing; a new one is a line in MAKERS and a pass of it."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_hpo.core.attention import Attention
from kd_hpo.core.learned import Learned
from kd_hpo.core.simplex import SIMPLEX_UPDATES
from kd_hpo.core.weightings import Constant, InformationFlow, RandomLayers, Replay
from kd_hpo.testing import WeightingContract
from kd_hpo.testing.weighting import B, MakeWeighting

START = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])


def learned(served: Tensor, update: str = "mirror_descent", **settings: Any) -> Learned:
    return Learned(served, SIMPLEX_UPDATES[update], **{"step": 0.1, "average": 0.9, "mix": 0.01} | settings)


def replay(served: Tensor) -> Replay:
    return Replay([served, served * START, served.flip(0) * served], served)


def attention(served: Tensor) -> Attention:
    generator = torch.Generator().manual_seed(0)
    return Attention(served, B, lr=1e-3, factor=2, generator=generator, device=torch.device("cpu"))


MAKERS: dict[str, MakeWeighting] = {
    "constant": Constant,
    "replay": replay,
    "information_flow": partial(InformationFlow, start=100.0, decay=0.7),
    "random_layers": partial(RandomLayers, logits=False, chance=lambda epoch: torch.Generator().manual_seed(epoch)),
    "attention": attention,
    **{f"learned_{update}": partial(learned, update=update) for update in SIMPLEX_UPDATES},
    "learned_matched": partial(learned, matched=True),
    "learned_few": partial(learned, keep=2),
    "learned_from_a_start": partial(learned, start=START, forget=0.1),
    **{f"on_evidence_{update}": partial(learned, update=update, average=None) for update in SIMPLEX_UPDATES},
    "on_evidence_matched": partial(learned, average=None, matched=True, keep=2),
    "on_evidence_from_a_start": partial(learned, average=None, start=START, forget=0.1, within=3.0),
    "learned_strength": partial(learned, within=3.0),
}


class TestShipped(WeightingContract):
    @pytest.fixture(params=MAKERS)
    def make(self, request: pytest.FixtureRequest) -> MakeWeighting:
        return MAKERS[request.param]
