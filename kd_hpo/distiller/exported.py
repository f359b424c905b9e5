"""A distiller's arguments from an exported matrix, and whether networks are those that it was learned with."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from kd_hpo.config.pairs import LogitLoss, Pairs
from kd_hpo.config.training import WarmUp
from kd_hpo.config.weightings import FixedMatrix
from kd_hpo.core.plan import LayerShape
from kd_hpo.errors import ExportError, FeatureMismatch
from kd_hpo.nets.features import LOGITS
from kd_hpo.study.matrices.forms import Form, forms_of, refuse_code, replayed
from kd_hpo.study.store.export_file import ExportedMatrix
from kd_hpo.trial.result import TOTAL, LayerRecord

S = TypeVar("S", LogitLoss, Pairs)


def arguments_of(
    entry: ExportedMatrix, form: Form, epochs: int | None, changes: Mapping[str, Any], *, with_task: bool
) -> dict[str, Any]:
    """Gives the arguments of a Distiller that an exported matrix stands for, with changes to them.

    Raises ExportError where the file names code, a loss of one's own, that the changes do not name.
    """
    forms_of(entry, form)
    config = entry.config
    told = {name: getattr(config, name).model_dump(mode="json") for name in ("kd", "pairs", "weighting")}
    refuse_code({name: told[name] for name in told if name not in changes and (name != "weighting" or form == "learned")}, ())
    whole = epochs or config.training.epochs
    kd, pairs, weighting = _counted(config.kd, whole), _counted(config.pairs, whole), config.weighting
    if form == "held":
        pairs = pairs.replace(strength=pairs.strength * entry.metrics.get(TOTAL, 1.0))  # where it was learned beside the matrix
        weighting = FixedMatrix(matrix=entry.held_mean)
    elif form == "replayed":
        if epochs is None:
            raise ExportError(
                "replayed follows epochs: give epochs, as many as the training has, and call end_epoch() after each"
            )
        weighting = replayed(entry, epochs)
    found: dict[str, Any] = {
        "teacher_layers": [layer.name for layer in entry.teacher_layers if layer.name != LOGITS],
        "student_layers": [layer.name for layer in entry.student_layers if layer.name != LOGITS],
        "kd": kd,
        "pairs": pairs,
        "weighting": weighting,
    }
    if not with_task and form != "learned":
        found["scales"] = torch.tensor(entry.scales)
    return found | dict(changes)


def _counted(settings: S, epochs: int) -> S:
    """The settings with a warm-up over a share of the trial's epochs as one over a number of them, which a loop can count."""
    schedule = settings.schedule
    return settings.replace(schedule=schedule.counted(epochs).model_dump()) if isinstance(schedule, WarmUp) else settings


def require_layers_of(entry: ExportedMatrix, teacher: Sequence[LayerShape], student: Sequence[LayerShape]) -> None:
    """Checks that the layers are those of the export, by name and shape. Raises FeatureMismatch for the first that is not.

    Of a teacher's layer, the export has the channels that vary on its own data: here there are as many, or more.
    """
    _require_alike("student", entry.student_layers, student, exact=True)
    _require_alike("teacher", entry.teacher_layers, teacher, exact=False)


def _require_alike(whose: str, exported: Sequence[LayerRecord], here: Sequence[LayerShape], *, exact: bool) -> None:
    if [record.name for record in exported] != [layer.name for layer in here]:
        raise FeatureMismatch(
            f"lambda was learned for the {whose} layers {', '.join(r.name for r in exported)}, and these are "
            f"{', '.join(layer.name for layer in here)}; name those, or learn lambda anew"
        )
    for record, layer in zip(exported, here, strict=True):
        channels, *size = record.shape
        fits = channels == layer.channels if exact else channels <= layer.channels
        if not fits or size != [layer.height, layer.width]:
            raise FeatureMismatch(
                f"{whose} layer {layer} is {'x'.join(map(str, record.shape))} in the export: lambda was learned for other "
                "networks or other inputs; give those, or learn lambda anew"
            )
