"""Lambda learned under Lightning, by a callback and one line of the module: python studies/own_loop/lightning_callback.py"""

from collections.abc import Iterable
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from small_digits import accuracy, digits, forever, network, trained_teacher
from torch import Tensor, nn

from kd_hpo import Distiller


class Distil(lightning.Callback):
    """Gives the module `kd`, whose loss its training step adds, and ends the steps that the trainer takes."""

    def __init__(self, teacher: nn.Module, example: Tensor) -> None:
        self.teacher, self.example, self.steps, self.kept = teacher, example, 0, None

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        steps, device = int(trainer.estimated_stepping_batches), module.device
        optimizer, inputs = trainer.optimizers[0], self.example.to(device)
        module.kd = Distiller(
            self.teacher.to(device), module.student, inputs, task=F.cross_entropy, optimizer=optimizer, steps=steps
        )
        if self.kept:
            module.kd.load_state_dict(self.kept)
        self.steps = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step > self.steps:  # not where gradients are only accumulated
            module.kd.step()
        self.steps = trainer.global_step

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        module.kd.end_epoch()

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["kd"] = module.kd.state_dict()

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        self.kept = checkpoint["kd"]


class Student(lightning.LightningModule):
    def __init__(self, held_out: Iterable[Any]) -> None:
        super().__init__()
        self.student, self.held_out = network(4), iter(held_out)

    def training_step(self, batch: Any, number: int) -> Tensor:
        x, y = batch
        taught = self.kd(x, y, outer=lambda: self.transfer_batch_to_device(next(self.held_out), self.device, 0))
        return F.cross_entropy(taught.logits, y) + taught.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.student.parameters(), lr=0.05, momentum=0.9)


def main(epochs: int = 10, **settings: Any) -> tuple[float, Distiller]:
    train, outer, val = digits()
    module, distil = Student(forever(outer)), Distil(trained_teacher(train), next(iter(train))[0])
    lightning.Trainer(max_epochs=epochs, callbacks=[distil], logger=False, **settings).fit(module, train)
    return accuracy(module.student, val), module.kd


if __name__ == "__main__":
    reached, kd = main(accelerator="auto")
    print(f"accuracy {reached:.3f}", kd.layers, kd.weights, sep="\n")
