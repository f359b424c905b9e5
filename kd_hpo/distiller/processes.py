"""Several processes that train one student, as torch's DistributedDataParallel has it."""

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

T = TypeVar("T")


class Processes:
    """The processes that train a student together: those of its DistributedDataParallel, or else all that torch knows of.

    A trainer may have wrapped more than the student, as Lightning does. Without torch.distributed it is this process alone.
    """

    def __init__(self, student: nn.Module) -> None:
        self._group: torch.distributed.ProcessGroup | None = None
        if isinstance(student, nn.parallel.DistributedDataParallel):
            self._group = student.process_group
        elif torch.distributed.is_available() and torch.distributed.is_initialized():
            self._group = torch.distributed.group.WORLD

    @property
    def several(self) -> bool:
        return self._group is not None and torch.distributed.get_world_size(self._group) > 1

    def mean(self, tensor: Tensor) -> Tensor:
        """Gives the mean over the processes, the same in each."""
        if not self.several:
            return tensor
        total = tensor.detach().clone()
        torch.distributed.all_reduce(total, group=self._group)
        return total / torch.distributed.get_world_size(self._group)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Puts the mean gradient in the place of each; one that no process has stays None."""
        if not self.several:
            return
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            had = self.mean(torch.tensor(float(parameter.grad is not None), device=parameter.device))
            parameter.grad = self.mean(gradient) if had > 0 else None

    def of_first(self, value: T) -> T:
        """Gives the first process' value to all of them."""
        if not self.several:
            return value
        told = [value]
        torch.distributed.broadcast_object_list(told, group=self._group, group_src=0)
        return told[0]
