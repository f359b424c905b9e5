"""Contract suites: what kd_hpo relies on in a part that you write yourself, as tests that you inherit.

In a file of tests:

    from kd_hpo.testing import PairLossContract


    class TestMyLoss(PairLossContract):
        loss = MyLoss
"""

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "kd_hpo.testing runs under pytest, which is not installed: pip install pytest", name="pytest"
    ) from error

for _suite in ("world", "pair_loss", "direction", "simplex_update"):
    pytest.register_assert_rewrite(f"{__name__}.{_suite}")  # before they are imported, so that failures show the values

from kd_hpo.testing.direction import DirectionContract as DirectionContract  # noqa: E402
from kd_hpo.testing.pair_loss import PairLossContract as PairLossContract  # noqa: E402
from kd_hpo.testing.simplex_update import SimplexUpdateContract as SimplexUpdateContract  # noqa: E402
