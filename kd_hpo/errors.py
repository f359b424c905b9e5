"""What kd_hpo raises: each message says what was given, what is accepted and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class KdHpoError(Exception):
    """Base of every error that kd_hpo raises on purpose; the command line prints it as one line."""


class ConfigError(KdHpoError):
    """A study file, an override or an argument that cannot be used."""


class DataError(KdHpoError):
    """Images that are missing, broken or too few for what the splits ask."""


class FeatureMismatch(KdHpoError):
    """Layers that do not exist, or a pair of features that its loss cannot compare."""


class Diverged(KdHpoError):
    """A loss that is not finite: the trial has failed."""


class CheckpointMismatch(KdHpoError):
    """A checkpoint that is truncated, or that another configuration wrote."""


class ExportError(KdHpoError):
    """An exported file that is truncated, of another version or not an export."""


class StudyError(KdHpoError):
    """A study that cannot be started, continued or found."""


@contextmanager
def about(what: str) -> Iterator[None]:
    """Puts what it is about before the words of an error of kd_hpo."""
    try:
        yield
    except KdHpoError as error:
        raise type(error)(f"{what}: {error}") from error
