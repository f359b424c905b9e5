"""A pickle that would run code, in every form in which a file may bring one."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


class Evil:
    """Makes the file `ran`, whoever unpickles it."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.ran,)


def write_pickle(evil: Evil, path: Path) -> None:
    path.write_bytes(pickle.dumps({"evil": evil}))


def write_torch(evil: Evil, path: Path) -> None:
    torch.save({"0.weight": evil, "version": 2, "config": evil, "state": {"student": evil}}, path)


def write_old_torch(evil: Evil, path: Path) -> None:
    torch.save({"0.weight": evil}, path, _use_new_zipfile_serialization=False)


def write_numpy(evil: Evil, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([evil], dtype=object), allow_pickle=True)


WRITERS = {"pickle": write_pickle, "torch": write_torch, "old torch": write_old_torch, "numpy": write_numpy}
