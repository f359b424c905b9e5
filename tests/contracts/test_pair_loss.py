"""Every pair loss that ships keeps the contract of kd_hpo.testing; a new one is a line in PAIR_LOSSES and a pass of it."""

from functools import partial

import pytest

from kd_hpo.core.pair_losses import PAIR_LOSSES
from kd_hpo.testing import PairLossContract
from kd_hpo.testing.world import MakeLoss

MAKERS: dict[str, MakeLoss] = {
    **PAIR_LOSSES,
    "gaussian_mlp": partial(PAIR_LOSSES["gaussian"], regressor="mlp"),
    "hint_convolutions": partial(PAIR_LOSSES["hint"], regressor="convolutions"),
}
OWN_CLASS = {"ifm"}


class TestShipped(PairLossContract):
    @pytest.fixture(params=sorted(MAKERS.keys() - OWN_CLASS))
    def make(self, request: pytest.FixtureRequest) -> MakeLoss:
        return MAKERS[request.param]


class TestInformationFlow(PairLossContract):
    """Its t kernel is 1 / (1 + d) with d^2 = |a|^2 + |b|^2 - 2 ab + 1e-6: for an example with itself a difference of equal
    numbers, under a root that is steepest there.

    With u = 2^-24 the unit of rounding and |a|^2 <= 82, as here, a build that fuses these operations or takes them in another
    order leaves up to 4 u |a|^2 = 2e-5 in place of 0: d is then 4.5e-3 and not 1e-3, a share of 3.5e-3 of the kernel. The loss
    is of the differences of two kernels, so it and its gradient move by more than that: noise of this size on the diagonal moved
    the loss by a share of 3e-2 and the gradient by one of 5e-3. Where the diagonal cancels exactly, both agree to 2e-6.
    """

    loss = PAIR_LOSSES["ifm"]
    single_precision = 5e-2
