"""Forward-mode derivatives through every kind of network, in train mode, against central differences in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp
from torchvision.models.convnext import CNBlockConfig

from kd_hpo.core.derivatives import hessian_product, hessian_product_by_differences, slope_by_backward
from kd_hpo.core.hypergradient import slope
from kd_hpo.nets.forward_mode import ShortTangents, TwiceDifferentiable, plain_attention
from kd_hpo.nets.zoo import build_network

VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "drop_rate": 0.1, "drop_path_rate": 0.3}
SMALL: dict[str, Any] = {"stem": "small"}
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("cifar_resnet", {"depth": 8}),
    ("wrn", {"depth": 10}),
    ("resnet18", {}),
    ("torchvision.models:DenseNet", {"growth_rate": 8, "block_config": [2, 2], "num_init_features": 16}),
    ("mobilenet_v3_small", SMALL),
    ("shufflenet_v2_x0_5", SMALL),
    ("efficientnet_b0", {}),
    (
        "torchvision.models:ConvNeXt",
        {"block_setting": [CNBlockConfig(12, 24, 2), CNBlockConfig(24, None, 2)], "stochastic_depth_prob": 0.3},
    ),
    (
        "torchvision.models:SwinTransformer",
        {"patch_size": [4, 4], "embed_dim": 24, "depths": [2, 2], "num_heads": [3, 6], "window_size": [4, 4], "dropout": 0.1},
    ),
    (
        "torchvision.models:VisionTransformer",
        {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 48},
    ),
    ("timm/vit_tiny_patch16_224", VIT),
    ("timm/vit_tiny_patch16_224", VIT | {"attn_drop_rate": 0.2}),
    ("timm.models:MlpMixer", {"patch_size": 8, "embed_dim": 24, "num_blocks": 2}),
    ("timm/levit_128s", {}),
    ("timm/mobilenetv3_small_050", SMALL),
]


@pytest.mark.parametrize(("name", "arguments"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_forward_mode_is_the_derivative(name: str, arguments: dict[str, Any]) -> None:
    network = build_network(name, arguments, (3, 32, 32), 5, seed=0).double().train()
    draw = torch.Generator().manual_seed(0)
    # No weight is exactly 0, as the start's biases and some heads are: that is the kink of a ReLU whose channel is constant.
    w = {n: p.detach() + 0.01 * torch.randn(p.shape, generator=draw, dtype=p.dtype) for n, p in network.named_parameters()}
    q = {n: 0.01 * torch.randn(p.shape, generator=draw, dtype=p.dtype) for n, p in w.items()}
    x = torch.rand(4, 3, 32, 32, generator=draw, dtype=torch.float64)

    def logits(w: dict[str, Tensor]) -> Tensor:
        torch.manual_seed(0)  # the same dropout each time
        buffers = {n: b.clone() for n, b in network.named_buffers()}
        return functional_call(network, {**w, **buffers}, (x,))

    def moved(step: float) -> Tensor:
        return logits({n: p + step * q[n] for n, p in w.items()})

    with torch.no_grad(), plain_attention():
        plain = logits(w)
        with ShortTangents():
            torch.testing.assert_close(logits(w), plain)
            along_q = slope(logits, w, q)
        difference = (moved(1e-7) - moved(-1e-7)) / 2e-7
    assert along_q.norm() > 1e-3
    torch.testing.assert_close(along_q, difference, rtol=0, atol=1e-5 * along_q.norm().item())


def test_without_it_a_fused_attention_has_no_forward_mode() -> None:
    """If this fails, torch has learned it: `plain_attention` may go."""
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(NotImplementedError, match="forward AD"), torch.no_grad():
        jvp(lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x), (q,), (q,))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("fixed", ["nothing", "input", "scale"])
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (6, 3, 4, 5), (6, 3, 2, 4, 5)])
def test_short_batch_norm_is_batch_norm(shape: tuple[int, ...], fixed: str, affine: bool, training: bool) -> None:
    """Value, tangent and running moments, in both orders of memory."""
    draw = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=draw, dtype=torch.float64)

    x, dx, (weight, dweight, bias, dbias) = normal(*shape), normal(*shape), (normal(3) for _ in range(4))
    parameters = [(weight, None if fixed == "scale" else dweight), (bias, dbias)] if affine else []

    def along(x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        mean, variance = torch.zeros(3, dtype=x.dtype), torch.ones(3, dtype=x.dtype)
        with torch.no_grad(), forward_ad.dual_level():
            moved = [p if dp is None else forward_ad.make_dual(p, dp) for p, dp in parameters]
            x = x if fixed == "input" else forward_ad.make_dual(x, dx)
            y = torch.nn.functional.batch_norm(x, mean, variance, *moved, training=training, momentum=0.3, eps=1e-3)
            return *forward_ad.unpack_dual(y), mean, variance

    expected = along(x, dx)
    with ShortTangents():
        torch.testing.assert_close(along(x, dx), expected)
        last = [v.movedim(1, -1).contiguous().movedim(-1, 1) for v in (x, dx)]
        torch.testing.assert_close(along(*last), expected)


class ByName(nn.Module):
    """Calls with arguments by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(input=x, weight=self.weight, bias=None, stride=2)
        return F.batch_norm(input=y, running_mean=None, running_var=None, weight=self.scale, training=True).mean((2, 3))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(9, 4, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.rnn(x.mean(1))[0][:, -1]
        return found


@pytest.mark.parametrize("build", [ByName, *(partial(Recurrent, kind) for kind in (nn.LSTM, nn.GRU, nn.RNN))])
def test_what_torch_gives_no_tangent_as_it_is_has_that_of_its_backward_pass(build: Callable[[], nn.Module]) -> None:
    """In float32, in which oneDNN has kernels of its own for recurrent layers."""
    torch.manual_seed(0)
    network, x = build(), torch.rand(5, 3, 9, 9)
    w = {name: p.detach() for name, p in network.named_parameters()}
    q = {name: torch.randn_like(p) for name, p in w.items()}

    def logits(w: dict[str, Tensor]) -> Tensor:
        with ShortTangents():
            return functional_call(network, w, (x,))

    torch.testing.assert_close(slope(logits, w, q), slope_by_backward(logits, w, q), rtol=1e-4, atol=1e-4)

    def gradient(w: dict[str, Tensor]) -> dict[str, Tensor]:
        found = torch.autograd.grad(logits(w).square().sum(), list(w.values()), create_graph=True)
        return dict(zip(w, found, strict=True))

    with TwiceDifferentiable():
        product, other = (each(gradient, w, q) for each in (hessian_product, hessian_product_by_differences))
    largest = max(float(each.abs().max()) for each in product.values())
    for name in w:
        torch.testing.assert_close(product[name], other[name], rtol=0, atol=0.02 * largest)
