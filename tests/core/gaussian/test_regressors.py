"""Regressors of all pairs: where they start."""

import torch

from kd_hpo.core.gaussian.formula import gaussian_nll
from kd_hpo.core.gaussian.regressors import LinearGaussian
from kd_hpo.core.plan import LayerShape, pair_plan


def test_variance_starts_where_it_is_told_and_stays_there_unless_it_learns() -> None:
    plan = pair_plan([LayerShape("t", 3, 2, 2)], [LayerShape("s", 2, 2, 2)])
    for learned in (True, False):
        module = LinearGaussian(plan, start=0.4, learned=learned, floor=0.1, generator=torch.Generator().manual_seed(0)).double()
        target, zeros = (
            torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
            torch.zeros(3, 2, 2, 2, dtype=torch.float64),
        )
        (losses,) = module([zeros], {(2, 2): target}, [None])
        # A student of zeros predicts the bias, 0: the loss is that of N(0, 0.4).
        expected = gaussian_nll(torch.zeros_like(target), target, torch.full((3,), 0.4, dtype=torch.float64)).mean(
            1, keepdim=True
        )
        torch.testing.assert_close(losses, expected, rtol=1e-6, atol=0)
        assert any(name.endswith("rho") for name, _ in module.named_parameters()) == learned
