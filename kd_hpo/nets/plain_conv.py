"""The seed paper's networks."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from kd_hpo.errors import ConfigError


class PlainConv(nn.Sequential):
    """Blocks of 3x3 convolution, BN, ReLU, max-pool 2, then one hidden layer and the logits.

    Layers by name: conv1, conv2, ..., fc, logits. The paper uses no padding (`padding=0`), which needs 32-pixel images for
    three blocks. Raises ConfigError for images that the blocks leave nothing of.
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
