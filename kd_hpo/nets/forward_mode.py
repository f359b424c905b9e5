"""What `torch.func.jvp` through a network needs."""

from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel


def plain_attention() -> AbstractContextManager[None]:
    """Attention is plain matrix products inside: torch's fused kernels have no forward-mode derivative.

    A step and the Jacobian of that step belong inside alike, so that both draw the same dropout.
    """
    return sdpa_kernel(SDPBackend.MATH)
