"""Arrays of a cache: read as numbers alone, and only where they are what was written."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_hpo.errors import DataError


def read_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int | None, ...], *, mapped: bool = False) -> npt.NDArray[Any]:
    """Reads an array of a cache. Raises DataError for another array than is due, or none.

    shape   None in it where any length will do
    mapped  leaves the values on disk
    """
    try:
        array: npt.NDArray[Any] = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
        given = array.dtype, array.shape
    except Exception as error:  # for broken headers numpy raises nearly any type
        raise _broken(file, f"{type(error).__name__}: {error}") from error
    if given[0] != dtype or len(given[1]) != len(shape) or any(e not in (None, n) for e, n in zip(shape, given[1], strict=True)):
        raise _broken(file, f"{given[1]} of {given[0]} where {shape} of {np.dtype(dtype)} is due")
    return array


def _broken(file: Path, problem: str) -> DataError:
    return DataError(
        f"{file} of the cache is broken ({' '.join(problem.split())[:200]}). Remove the folder {file.parent} and start again."
    )
