"""What a network is called with: a batch of images, or whatever a network of one's own takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from kd_hpo.core.plan import Size
from kd_hpo.errors import FeatureMismatch

DRY_BATCH = 2
"""The examples of a dry run."""


@dataclass(frozen=True)
class Example:
    """The first examples of a real batch, for dry runs of networks that read anything but images of one size."""

    inputs: Any

    @classmethod
    def of(cls, inputs: Any) -> "Example":
        """Takes DRY_BATCH examples of a batch. Raises FeatureMismatch where it has fewer, or no tensor."""
        if (count := examples_in(inputs)) < DRY_BATCH:
            raise FeatureMismatch(
                f"the example batch has {count} examples; give one of at least {DRY_BATCH}, as training has them"
            )
        return cls(tree_map(lambda each: each[:DRY_BATCH] if isinstance(each, Tensor) else each, plain(inputs)))

    @property
    def image(self) -> Size | None:
        """Height and width, where exactly one of the inputs is a batch of images (B, C, H, W)."""
        sizes = [leaf.shape[2:] for leaf in tensors_of(self.inputs) if leaf.dim() == 4]
        return (sizes[0][0], sizes[0][1]) if len(sizes) == 1 else None


Given = tuple[int, int, int] | Example
"""What a dry run is of: noise images of C x H x W, or an example."""


def image_of(given: Given) -> Size | None:
    """Tells the height and width of the images; None where there are none."""
    return given.image if isinstance(given, Example) else given[1:]


def plain(inputs: Any) -> Any:
    """The inputs as torch's own tools for nested tensors know them: any mapping as a dict, a list as a tuple."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return tuple(inputs) if isinstance(inputs, list) else inputs


def tensors_of(inputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(plain(inputs)) if isinstance(leaf, Tensor)]


def examples_in(inputs: Any) -> int:
    """Tells the number of examples of a batch, the first side of its first tensor. Raises FeatureMismatch where it has none."""
    for tensor in tensors_of(inputs):
        if tensor.dim():
            return len(tensor)
    raise FeatureMismatch(
        f"a batch of inputs is {type(inputs).__name__} without a tensor; give a tensor, or a mapping or tuple of them"
    )


def call(network: nn.Module, inputs: Any) -> Any:
    """Calls a network: of a mapping by the names of its arguments, of a tuple by their places."""
    if isinstance(inputs, Mapping):
        return network(**inputs)
    return network(*inputs) if isinstance(inputs, tuple) else network(inputs)
