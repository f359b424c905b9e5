"""The colours of a matrix: a scale for weights, and what can be read on it."""

import numpy as np
from numpy.typing import NDArray

VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
"""Ten even samples of matplotlib's viridis, from weight 0 to the largest: monotone in lightness, safe for colour-blind eyes."""


def colours(position: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Gives the colours (..., 3) of positions (...) on the scale, cut to [0, 1]; grey where not finite."""
    stops = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in VIRIDIS])
    places = np.linspace(0, 1, len(VIRIDIS))
    colour = np.stack([np.interp(position, places, stops[:, channel]) for channel in range(3)], axis=-1)
    return np.where(np.isfinite(position)[..., None], colour, 160).round().astype(np.uint8)


def ink_on(colour: NDArray[np.uint8]) -> str:
    """Gives black or white, whichever has more contrast on the colour (WCAG 2 relative luminance)."""
    channel = colour / 255
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ np.array([0.2126, 0.7152, 0.0722]) > 0.179 else "white"
