"""What a data set holds beside its items: labels and contents that can be told without reading every item."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LABELS = ("targets", "labels", "_labels", "y")
"""What data sets call the labels of their items, in order, torchvision's among them."""
_SAMPLES = ("samples", "imgs", "_samples")
"""Likewise, lists of (file, label)."""
_NESTED = 8


def labels_of(data_set: Any, depth: int = 0) -> npt.NDArray[np.int64] | None:
    """Finds labels that a data set seems to hold, (len(data_set),), to be compared with some items; None where it holds none."""
    if depth > _NESTED:
        return None
    found = _whole_numbers(_nested_labels(data_set, depth))
    held = vars(data_set) if hasattr(data_set, "__dict__") else {}
    for name in LABELS:
        found = found if found is not None else _whole_numbers(held.get(name))
    for name in _SAMPLES:
        pairs = held.get(name)
        if found is None and isinstance(pairs, list | tuple) and all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            found = _whole_numbers([pair[1] for pair in pairs])
    return found if found is not None and len(found) == len(data_set) else None


def _nested_labels(data_set: Any, depth: int) -> Any:
    """Those of torch's Subset, ConcatDataset and TensorDataset, and of a list of pairs."""
    from torch.utils.data import ConcatDataset, Subset, TensorDataset

    if isinstance(data_set, Subset):
        inner = labels_of(data_set.dataset, depth + 1)
        return None if inner is None else inner[np.asarray(data_set.indices, np.int64)]
    if isinstance(data_set, ConcatDataset):
        parts = [labels_of(part, depth + 1) for part in data_set.datasets]
        return None if any(part is None for part in parts) else np.concatenate([part for part in parts if part is not None])
    if isinstance(data_set, TensorDataset) and len(data_set.tensors) == 2:
        return data_set.tensors[1]
    return None


def _whole_numbers(values: Any) -> npt.NDArray[np.int64] | None:
    if values is None or isinstance(values, str | bytes | dict):
        return None
    try:
        array = np.asarray(values)
    except Exception:  # whatever a class of the user's own raises
        return None
    return array.astype(np.int64) if array.ndim == 1 and array.dtype.kind in "iub" else None


def digest_of_content(data_set: Any, depth: int = 0) -> bytes:
    """The sha256 of what a data set holds a value an item: arrays, tensors, words or paths, and sizes and times of files."""
    digest = hashlib.sha256()
    held = vars(data_set) if hasattr(data_set, "__dict__") else {}
    for name, value in sorted(held.items()):
        if (told := _told(value, data_set)) is not None:
            digest.update(name.encode() + told)
    for inner in (held.get("dataset"), *_parts(held)) if depth < _NESTED else ():
        if inner is not None:
            digest.update(digest_of_content(inner, depth + 1))
    return digest.digest()


def _parts(held: dict[str, Any]) -> Sequence[Any]:
    """Of a ConcatDataset, its parts; of a TensorDataset, none."""
    datasets = held.get("datasets")
    return datasets if isinstance(datasets, list | tuple) else ()


def _told(value: Any, data_set: Any) -> bytes | None:
    from torch import Tensor

    if isinstance(value, tuple) and value and all(isinstance(each, Tensor) for each in value):  # of a TensorDataset
        return b"".join(_told(each, data_set) or b"" for each in value)
    if not isinstance(value, np.ndarray | Tensor | list | tuple) or len(value) != len(data_set):
        return None
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.view(_bytes()) if value.is_contiguous() else value.contiguous().view(_bytes())).numpy()
    if isinstance(value, np.ndarray):
        return None if value.dtype.hasobject else hashlib.sha256(np.ascontiguousarray(value).data).digest()
    if not all(map(_is_plain, value)) or not any(map(_has_words, value)):
        return None  # numbers may be what it counts as it is read; labels are told by themselves
    return hashlib.sha256("\0".join(map(_plain, value)).encode()).digest()


def _bytes() -> Any:
    import torch

    return torch.uint8


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bytes | bool | int | float | os.PathLike | np.generic)


def _has_words(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) or (isinstance(value, list | tuple) and any(map(_has_words, value)))


def _plain(value: Any) -> str:
    """As it is written, with size and time of the file where it is the path of one."""
    if isinstance(value, list | tuple):
        return repr([_plain(each) for each in value])
    if isinstance(value, str | os.PathLike) and os.sep in os.fspath(value):
        try:
            stat = Path(value).stat()
        except (OSError, ValueError):
            return repr(value)
        return f"{value!r} {stat.st_size} {stat.st_mtime_ns}"
    return repr(value)
