"""The accuracy of a network of these tests, worked out from its file and the raw images: none of it is kd_hpo's own code."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

Array = npt.NDArray[np.float64]


def accuracy_by_hand(weights: Path, images: npt.NDArray[np.int64], train: npt.NDArray[np.int64]) -> float:
    """Of a plain_conv of two blocks with padding 1, on scikit-learn's digits.

    weights  its safetensors
    images   which of the digits it is asked for
    train    those whose mean and deviation bring the pixels to 0 and 1
    """
    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16)
    x = ((pixels - pixels[train].mean()) / pixels[train].std())[images][:, None]
    w = {name: value.astype(float) for name, value in load_file(weights).items()}
    for block in ("conv1", "conv2"):
        x = convolved(x, w[f"{block}.0.weight"]) + w[f"{block}.0.bias"][:, None, None]
        scale = w[f"{block}.1.weight"] / np.sqrt(w[f"{block}.1.running_var"] + 1e-5)
        x = (x - w[f"{block}.1.running_mean"][:, None, None]) * scale[:, None, None] + w[f"{block}.1.bias"][:, None, None]
        x = np.maximum(x, 0)
        b, c, height, width = x.shape
        x = x.reshape(b, c, height // 2, 2, width // 2, 2).max((3, 5))
    hidden = np.maximum(x.reshape(len(x), -1) @ w["fc.0.weight"].T + w["fc.0.bias"], 0)
    logits = hidden @ w["logits.weight"].T + w["logits.bias"]
    return int((logits.argmax(1) == digits.target[images]).sum()) / len(images)


def convolved(x: Array, kernel: Array) -> Array:
    """(B, C, H, W) with a kernel (D, C, 3, 3) and a border of zeros -> (B, D, H, W)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # (B, C, H, W, 3, 3)
    return np.einsum("bchwij,dcij->bdhw", windows, kernel)
