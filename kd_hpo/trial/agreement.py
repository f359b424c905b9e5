"""What the study's own teacher says of held-out images, computed once: students are judged by how far they are from it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd_hpo.data.arrays import read_array
from kd_hpo.data.batches import ImageBatches, Indices
from kd_hpo.data.teacher_sample import Sample
from kd_hpo.errors import ConfigError
from kd_hpo.files import cached, digest
from kd_hpo.nets.identity import network_digest
from kd_hpo.trial.evaluate import outputs

_VERSION = 1


@dataclass(frozen=True)
class Opinion:
    """A teacher's opinion of some images."""

    batches: ImageBatches
    images: Indices
    outputs: Tensor
    """(N, ...), in the order of the images; on the CPU."""


def opinion_of(teacher: nn.Module, batches: ImageBatches, images: Indices, cache: Path, what: str) -> Opinion:
    """What a frozen teacher gives for the images: from the cache, or computed now and kept there.

    what  the images, in words
    Raises ConfigError for a teacher whose outputs are no numbers: no student can agree with it.
    """
    told = [_VERSION, network_digest(teacher), batches.images.digest, batches.precision, str(batches.dtype)]
    told += [list(batches.normalisation.mean), list(batches.normalisation.std)]
    key = digest(*told, images.astype("<i8").tobytes())
    sample = Sample(teacher, (), batches, images)
    folder = cached(
        cache / f"teacher-outputs-{key}",
        read=sample.holds,
        make=lambda new: sample.keep(new, lambda: _write(teacher, batches, images, new)),
    )
    few = outputs(teacher, batches, images[:1])
    said = torch.from_numpy(read_array(folder / "outputs.npy", few.numpy().dtype, (len(images), *few.shape[1:])))
    if wrong := int((said.isnan() | said.isposinf()).flatten(1).any(1).sum()):
        raise ConfigError(
            f"the teacher gives what is no number for {wrong} of {len(images)} {what}, so that nothing can agree with it; look "
            "at its weights"
        )
    return Opinion(batches, images, said)


def _write(teacher: nn.Module, batches: ImageBatches, images: Indices, folder: Path) -> None:
    folder.mkdir()
    np.save(folder / "outputs.npy", outputs(teacher, batches, images).numpy())
