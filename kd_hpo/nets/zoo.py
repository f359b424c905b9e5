"""Networks by name, and their weights as safe files."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kd_hpo.errors import ConfigError
from kd_hpo.files import write_atomically


class PlainConv(nn.Sequential):
    """The seed paper's networks: blocks of 3x3 convolution, BN, ReLU, max-pool 2, then one hidden layer and the logits.

    Layers by name: conv1, conv2, ..., fc, logits. The paper uses no padding (`padding=0`), which needs 32-pixel images for
    three blocks.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        classes: int,
        channels: Sequence[int] = (16, 32, 64),
        hidden: int = 128,
        padding: int = 0,
    ) -> None:
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        c, h, w = input_shape
        for i, out in enumerate(channels, 1):
            conv = nn.Conv2d(c, out, 3, padding=padding)
            blocks[f"conv{i}"] = nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2))
            c, h, w = out, (h - 2 + 2 * padding) // 2, (w - 2 + 2 * padding) // 2
            if min(h, w) < 1:
                raise ConfigError(
                    f"plain_conv with channels {list(channels)} and padding {padding} is too deep for "
                    f"{input_shape[1]}x{input_shape[2]} images: nothing is left after conv{i}. Use fewer channels or padding: 1"
                )
        blocks["flatten"] = nn.Flatten()
        blocks["fc"] = nn.Sequential(nn.Linear(c * h * w, hidden), nn.ReLU())
        blocks["logits"] = nn.Linear(hidden, classes)
        super().__init__(blocks)


NETWORKS: dict[str, Callable[..., nn.Module]] = {"plain_conv": PlainConv}


def build_network(
    name: str, arguments: Mapping[str, Any], input_shape: tuple[int, int, int], classes: int, *, seed: int
) -> nn.Module:
    """A network with fresh weights that depend on the seed alone.

    Raises ConfigError for an unknown name, or arguments that the network does not take.
    """
    if name not in NETWORKS:
        raise ConfigError(f"no network is called {name!r}; there are {', '.join(NETWORKS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return NETWORKS[name](input_shape, classes, **arguments)
        except TypeError as error:
            raise ConfigError(f"network {name!r} cannot be built with {dict(arguments)}: {error}") from error


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Writes a state dict as safetensors, atomically."""
    write_atomically(path, save({name: t.detach().cpu().contiguous() for name, t in state.items()}))


def load_weights(network: nn.Module, path: Path) -> None:
    """Reads a safetensors file, or a torch file of tensors alone, into the network.

    Raises ConfigError if the file is missing or broken, or names or shapes do not fit.
    """
    if not path.is_file():
        raise ConfigError(f"no weights at {path}; give a safetensors file, or a torch file of tensors")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True, map_location="cpu")
        network.load_state_dict(state)
    except Exception as error:
        reason = str(error).splitlines()
        raise ConfigError(
            f"{path} does not hold weights of this {type(network).__name__}: {' '.join(reason[:3])[:300]}"
        ) from error


def weights_digest(network: nn.Module) -> str:
    """sha256 of a network's weights and buffers, by name: what an export names a teacher by."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
