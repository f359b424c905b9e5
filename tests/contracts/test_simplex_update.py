"""Every step on the simplex that ships keeps the contract of kd_hpo.testing; a new one is a line in SIMPLEX_UPDATES."""

import pytest

from kd_hpo.core.simplex import SIMPLEX_UPDATES, SimplexUpdate
from kd_hpo.testing import SimplexUpdateContract


class TestShipped(SimplexUpdateContract):
    @pytest.fixture(params=SIMPLEX_UPDATES)
    def move(self, request: pytest.FixtureRequest) -> SimplexUpdate:
        return SIMPLEX_UPDATES[request.param]
