"""Reads a data set that a callable of the user's own returns into the cache."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kd_hpo.callables import code_digest, import_callable
from kd_hpo.data.cache import ImageSet, Labelling, Progress, open_or_build
from kd_hpo.data.images import kind_of, reason, write_images
from kd_hpo.data.items import DataSet, Items, class_names
from kd_hpo.data.pixels import require_size
from kd_hpo.errors import DataError, KdHpoError


def load_callable(
    cache: Path, callable: str, arguments: Mapping[str, Any], size: int | None = None, *, progress: Progress = lambda _: None
) -> ImageSet:
    """Reads the data set that `package.module:callable` returns for the arguments, or the tuple of two: train, test.

    A data set has len and [i], which is (image, label): `as_image` says what an image may be, a label is a whole number from
    0 up; its `classes`, where it has them, name the classes. Items are read once, in this thread, into the cache; all are
    grey (C = 1), or RGB (C = 3) if any has colour.
    size  as in load_image_folder
    The cache is keyed by reference, arguments, size, the source of the callable's module, the lengths, and the contents of
    64 evenly spread items of each half: a change that touches none of these is not seen.
    Raises ConfigError for a reference that leads nowhere, DataError for what cannot be called, read or used, and for a data
    set that comes out otherwise when it is called again.
    """
    require_size(size)
    reference = callable
    called = import_callable(reference)

    def call() -> Items:
        halves = _halves(reference, arguments, called)
        return Items(reference, halves, class_names(reference, halves), size)

    items = call()
    digest = items.digest()

    def build(folder: Path) -> Labelling:
        if call().digest() != digest:
            raise DataError(
                f"{reference} gave other items when it was called again. Leave random transforms out of it (`augment` makes "
                "random views in training) and seed what else is random, as random_split's generator."
            )
        return items.labelling(write_images(items, folder, progress))

    code = code_digest({reference.partition(":")[0], getattr(called, "__module__", None) or ""} - {""})
    told = [reference, dict(arguments), size, code, digest]
    key = hashlib.sha256(repr(told).encode()).hexdigest()
    return open_or_build(cache, reference, "callable", key, build)


def _halves(reference: str, arguments: Mapping[str, Any], called: Callable[..., Any]) -> tuple[DataSet, ...]:
    try:
        made = called(**arguments)
    except KdHpoError:
        raise
    except Exception as error:
        raise DataError(f"{reference} cannot be called with {dict(arguments)}: {reason(error)}") from error
    halves = made if isinstance(made, tuple) else (made,)
    if len(halves) not in (1, 2) or not all(map(_has_items, halves)):
        given = f"a tuple of {', '.join(map(kind_of, made))}" if isinstance(made, tuple) else kind_of(made)
        raise DataError(
            f"{reference} returned {given}; accepted are a data set with len and [i], which is (image, label), "
            "and a tuple of two, train and test. Make a list of what can only be iterated over."
        )
    return halves


def _has_items(half: Any) -> bool:
    from torch.utils.data import IterableDataset

    return hasattr(half, "__len__") and hasattr(half, "__getitem__") and not isinstance(half, dict | str | IterableDataset)
