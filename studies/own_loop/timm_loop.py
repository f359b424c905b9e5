"""Lambda learned with timm's training pieces: mixup, its optimisers and schedules: python studies/own_loop/timm_loop.py"""

import torch.nn.functional as F
from small_digits import accuracy, digits, forever, network, trained_teacher
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

from kd_hpo import Distiller


def main(epochs: int = 10) -> tuple[float, Distiller]:
    train, outer, val = digits()
    teacher, student, held_out = trained_teacher(train), network(4), forever(outer)
    mixup = Mixup(mixup_alpha=0.2, label_smoothing=0.1, num_classes=10)
    optimizer = create_optimizer_v2(student, opt="adamw", lr=3e-3, weight_decay=0.05)
    schedule, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs)
    average = ModelEmaV3(student, decay=0.9)
    example, steps = next(iter(train))[0], epochs * len(train)
    kd = Distiller(teacher, student, example, task=F.cross_entropy, optimizer=optimizer, steps=steps)
    for epoch in range(epochs):
        for images, labels in train:
            x, y = mixup(images, labels)  # y (B, 10): the teacher sees the mixed images, too
            taught = kd(x, y, outer=lambda: next(held_out))
            loss = F.cross_entropy(taught.logits, y) + taught.loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            kd.step()
            average.update(student)
        schedule.step(epoch + 1)
        kd.end_epoch()
    return accuracy(average.module, val), kd


if __name__ == "__main__":
    reached, kd = main()
    print(f"accuracy {reached:.3f}", kd.layers, kd.weights, sep="\n")
