"""The running average of a network's weights that `training.ema` asks for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kd_hpo.config.training import Ema
from kd_hpo.trial.checkpoint import require_alike


class Average:
    """An exponential moving average of all floating-point numbers of a network's state; of others the last values.

    a <- d a + (1 - d) w,   d = decay, or at first (1 + n) / (10 + n) after n steps where there is a warm-up
    """

    def __init__(self, settings: Ema, network: nn.Module) -> None:
        self._settings, self._network, self._steps = settings, network, 0
        self._values = {name: value.detach().clone() for name, value in _tensors(network).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the network as it is after a step."""
        decay = self._settings.decay
        if self._settings.warmup:
            decay = min(decay, (1 + self._steps) / (10 + self._steps))
        for name, value in _tensors(self._network).items():
            if value.is_floating_point():
                self._values[name].lerp_(value, 1 - decay)
            else:
                self._values[name].copy_(value)
        self._steps += 1

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Puts the average into the network inside; after, the network is as it was, to the bit."""
        own = {name: value.detach().clone() for name, value in _tensors(self._network).items()}
        self._put(self._values)
        try:
            yield
        finally:
            self._put(own)

    def stay(self) -> None:
        """Puts the average into the network for good."""
        self._put(self._values)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in _tensors(self._network).items():
            tensor.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        return {**self._values, "#steps": torch.tensor(self._steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads a state. Raises KeyError or ValueError for one that is not of this network."""
        require_alike(state, self._values)
        self._steps = int(state["#steps"])
        for name, value in self._values.items():
            value.copy_(state[name])


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, those that are not saved too."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
