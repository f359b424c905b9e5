"""A teacher that was not trained here: how it reads images, what it gives, and whether it is worth learning from."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd_hpo.config.task import Goal
from kd_hpo.config.trial import Teacher
from kd_hpo.core.tasks import Task
from kd_hpo.data.batches import ImageBatches, Indices
from kd_hpo.data.normalise import Normalisation, Renormalise, of_unit_pixels
from kd_hpo.errors import ConfigError, Note
from kd_hpo.files import cached, digest
from kd_hpo.nets.identity import network_digest
from kd_hpo.trial.evaluate import score
from kd_hpo.trial.teacher import TrainedTeacher

_SAMPLE = 128
"""Images of `val` on which other normalisations are tried."""
_FAR_BETTER = 0.1
"""By how much one of them is."""
_TRIED: dict[str, tuple[Any, Any]] = {
    "none": (0.0, 1.0),
    "{mean: 0.5, std: 0.5}": (0.5, 0.5),
    "{mean: 0, std: 0.00392157}": (0.0, 1 / 255),
    "{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""What training scripts do, as `teacher.normalise` says it: mean and std of pixels from 0 to 1."""


def is_given(teacher: Teacher) -> bool:
    """Whether a teacher's weights are not of a training of kd_hpo's."""
    return teacher.weights is not None or teacher.training is None


def logarithm(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
    """Turns probabilities into logits, as a hook of the network that gives them; none is so small that it has no logarithm."""
    return output.clamp_min(torch.finfo(output.dtype).tiny).log()


def of_logarithm(refuses: Callable[[object], str | None], output: object) -> str | None:
    """Tells what is wrong with probabilities, by what is wrong with their logarithms."""
    return refuses(output.log() if isinstance(output, Tensor) and output.is_floating_point() else output)


def where_to_look(batches: ImageBatches) -> str:
    """Words, after `look`, what usually is wrong with a given teacher that knows too little, and how to go on with it."""
    classes = batches.images.classes
    order = f"{', '.join(classes[:3])}{', ...' * (len(classes) > 3)}"
    return (
        f"at the order of the classes (here {order}) and of the channels (red, green, blue), at the weights, and at what the "
        "network returns. To go on with it as it is, set teacher.accept_weak: true"
    )


@dataclass(frozen=True)
class Judge:
    """The judge of a given teacher on `val`: whether it is worth learning from.

    The verdict is kept in the cache, so that the trials of a study need not ask again.
    """

    teacher: TrainedTeacher
    name: str
    task: Task
    goal: Goal
    batches: ImageBatches
    val: Indices
    as_told: bool
    """Whether the study says how it reads images: another way that looks better is then told, and the user's stands."""

    def __str__(self) -> str:
        return (
            f"the teacher {self.name}: {self.goal.name} on val {self.teacher.val.value:.4f} ({len(self.val)} images); "
            f"it reads {self.teacher.reads}"
        )

    def require_worthy(self, cache: Path, tell: Callable[[str], None]) -> None:
        """Checks that the teacher is worth learning from.

        Raises ConfigError for one that is near chance, or that would be far better with a normalisation it was not given.
        """
        images, reads = self.batches.images.digest, self.batches.normalisation
        told = [images, self.goal.metric, list(reads.mean), list(reads.std), network_digest(self.teacher.network)]
        cached(
            cache / f"teacher-judged-{digest(told, self.val.tobytes())}.json",
            read=lambda there: True if there.is_file() else None,
            make=partial(self._judge, tell=tell),
        )

    def _judge(self, verdict: Path, tell: Callable[[str], None]) -> None:
        value = self.teacher.val.value
        knows = self.task.knows(value, self.batches.labels(self.val))
        own, others = self._on_sample(), self._with_others()
        best = max(others, key=lambda how: self.goal.worth(others[how]), default=None)
        gain = 0.0 if best is None else self.goal.worth(others[best]) - self.goal.worth(own)
        better = ""
        if best is not None and gain >= _FAR_BETTER:
            better = f"With {best} it reaches {others[best]:.4g} of {len(self._sample)} of them, where it has {own:.4g} now"
        if not knows or (better and not self.as_told):
            what = "" if knows else ", hardly better than the same answer for every image"
            remedy = f"{better}. Else look" if better else "No other normalisation that was tried helps: look"
            raise ConfigError(f"{self}{what}. {remedy} {where_to_look(self.batches)}")
        if better:
            tell(Note(f"{better}; it is taken as teacher.normalise says"))
        verdict.write_text(json.dumps({self.goal.on("val"): value}))

    @property
    def _sample(self) -> Indices:
        chosen: Indices = self.val[np.linspace(0, len(self.val) - 1, min(_SAMPLE, len(self.val))).astype(int)]
        return chosen

    def _on_sample(self) -> float:
        return score(self.teacher.network, self.task, self.batches, self._sample).value

    def _with_others(self) -> dict[str, float]:
        """What it reaches on some images where they are normalised otherwise, or their channels stand in the other order."""
        if isinstance(self.teacher.network, torch.jit.ScriptModule):
            return {}
        channels, reads, device = self.batches.input_shape[0], self.teacher.reads, self.batches.device
        others = {f"teacher.normalise: {how}": between for how, between in self._other_ways(channels, reads, device).items()}
        if channels == 3:
            others["its channels in the order blue, green, red (by a callable of yours around it)"] = _turned
        found = {}
        for how, before in others.items():
            hook = self.teacher.network.register_forward_pre_hook(before)
            try:
                found[how] = self._on_sample()
            finally:
                hook.remove()
        return found

    def _other_ways(self, channels: int, reads: Normalisation, device: torch.device) -> dict[str, Callable[..., Any]]:
        ways = {"train": self.batches.train_normalisation}
        ways |= {
            how: of_unit_pixels("given", mean, std, channels)
            for how, (mean, std) in _TRIED.items()
            if isinstance(mean, float) or len(mean) == channels
        }
        return {
            how: Renormalise.between(reads, way, device)
            for how, way in ways.items()
            if not np.allclose([way.mean, way.std], [reads.mean, reads.std], atol=0.01)
        }


def _turned(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (arguments[0].flip(1), *arguments[1:])
