"""Every loss of the logits that ships keeps the contract; a new one is a line in LOGIT_LOSSES and a pass of it."""

import pytest

from kd_hpo.core.logit_losses import LOGIT_LOSSES, LogitLoss
from kd_hpo.testing import LogitLossContract


class TestShipped(LogitLossContract):
    @pytest.fixture(params=sorted(LOGIT_LOSSES))
    def made(self, request: pytest.FixtureRequest) -> LogitLoss:
        return LOGIT_LOSSES[request.param]()
