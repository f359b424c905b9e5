"""Lambda learned under Hugging Face's Trainer, by a subclass: python studies/own_loop/hugging_face_trainer.py"""

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from small_digits import accuracy, digits, forever
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

from kd_hpo import Distiller


class DistillingTrainer(Trainer):
    """Adds the distiller's loss to that of the labels; `outer` gives batches as the training data does."""

    def __init__(self, teacher: nn.Module, outer: Iterator[dict[str, Tensor]], **given: Any) -> None:
        super().__init__(**given)
        self.teacher, self.outer, self.kd = teacher, outer, None
        self.add_callback(EndSteps(self))

    def distiller(self, inputs: dict[str, Tensor]) -> Distiller:
        return Distiller(
            self.teacher.to(self.args.device),
            self.model_wrapped,
            inputs,
            task=F.cross_entropy,
            optimizer=self.optimizer,
            steps=self.state.max_steps,
            teacher_output="logits",
            student_output="logits",
        )

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs)
        images, labels = _parted(inputs)
        self.kd = self.kd or self.distiller(images)
        taught = self.kd(images, labels, outer=lambda: _parted(self._prepare_inputs(next(self.outer))))
        loss = F.cross_entropy(taught.logits, labels) + taught.loss
        return (loss, {"logits": taught.logits}) if return_outputs else loss


class EndSteps(TrainerCallback):
    def __init__(self, trainer: DistillingTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trainer.kd.step()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.trainer.kd.end_epoch()


def _parted(batch: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]


def vit(width: int, depth: int) -> nn.Module:
    shape = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": depth, "num_attention_heads": 2}
    return ViTForImageClassification(ViTConfig(**shape, **sizes))


def main(folder: str, epochs: int = 10) -> tuple[float, Distiller]:
    train, outer, val = digits()

    def arguments(epochs: int) -> TrainingArguments:
        batch = {"per_device_train_batch_size": 64, "dataloader_drop_last": True, "max_grad_norm": 0.0}
        return TrainingArguments(folder, num_train_epochs=epochs, learning_rate=2e-3, report_to=[], save_strategy="no", **batch)

    def items(data: TensorDataset) -> list[dict[str, Any]]:
        return [{"pixel_values": x, "labels": y} for x, y in data]

    teacher, student = vit(32, 4), vit(16, 2)
    Trainer(teacher, arguments(epochs), train_dataset=items(train.dataset)).train()
    held_out = ({"pixel_values": x, "labels": y} for x, y in forever(outer))
    given = {"model": student, "args": arguments(epochs), "train_dataset": items(train.dataset)}
    trainer = DistillingTrainer(teacher, held_out, **given)
    trainer.train()
    return accuracy(student.cpu(), val), trainer.kd


if __name__ == "__main__":
    reached, kd = main("runs/own_loop")
    print(f"accuracy {reached:.3f}", kd.layers, kd.weights, sep="\n")
