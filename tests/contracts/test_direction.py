"""Every direction that ships keeps the contract of kd_hpo.testing; a new one is a line in DIRECTIONS and a pass of it."""

from functools import partial

import pytest

from kd_hpo.core.directions import DIRECTIONS
from kd_hpo.testing import DirectionContract
from kd_hpo.testing.direction import MakeDirection

MAKERS: dict[str, MakeDirection] = {
    **DIRECTIONS,
    **{f"{kind}_of_three": partial(DIRECTIONS[kind], steps=3) for kind in ("unrolled", "drmad")},
}


class TestShipped(DirectionContract):
    @pytest.fixture(params=MAKERS)
    def make(self, request: pytest.FixtureRequest) -> MakeDirection:
        return MAKERS[request.param]
