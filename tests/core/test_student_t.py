"""Quantiles of Student's t against SciPy's."""

import pytest
from scipy.special import stdtrit

from kd_hpo.core.student_t import t_quantile


@pytest.mark.parametrize("free", [1.5, 9.0, 10.7, 40.0, 300.0])
@pytest.mark.parametrize("chance", [0.6, 0.95, 0.999, 1 - 1e-6])
def test_quantiles_are_scipys(free: float, chance: float) -> None:
    assert t_quantile(free, chance) == pytest.approx(float(stdtrit(free, chance)), rel=1e-10)
