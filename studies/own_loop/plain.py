"""Lambda learned in a plain PyTorch loop: python studies/own_loop/plain.py"""

import torch
import torch.nn.functional as F
from small_digits import accuracy, digits, forever, network, trained_teacher

from kd_hpo import Distiller


def main(epochs: int = 10) -> tuple[float, Distiller]:
    train, outer, val = digits()
    teacher, student, held_out = trained_teacher(train), network(4), forever(outer)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    example, steps = next(iter(train))[0], epochs * len(train)
    kd = Distiller(teacher, student, example, task=F.cross_entropy, optimizer=optimizer, steps=steps)
    for _ in range(epochs):
        for x, y in train:
            taught = kd(x, y, outer=lambda: next(held_out))
            loss = F.cross_entropy(taught.logits, y) + taught.loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            kd.step()
        kd.end_epoch()
    return accuracy(student, val), kd


if __name__ == "__main__":
    reached, kd = main()
    print(f"accuracy {reached:.3f}", kd.layers, kd.weights, sep="\n")
