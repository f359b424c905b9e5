"""What kd_hpo raises, and what it notes: each message says what was given, what is accepted and what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

_CREDENTIALS = re.compile(
    r"""(?<=://)[^\s'"<>]*@|(?<=[?&;])((?:[a-z]+[_-])*(?:password|passwd|pwd|token|secret|key)=)[^\s'"<>&;]+""", re.IGNORECASE
)
"""What stands before the host in a URI, and the values of parameters that are called secret."""


def without_secrets(text: str) -> str:
    """The text with `***` for the credentials in any URI."""
    return _CREDENTIALS.sub(lambda found: f"{found[1]}***" if found[1] else "***@", text)


def printable(text: str, *, kept: str = "") -> str:
    """The text without credentials, on one line but for characters that are `kept`."""
    return "".join(each if each.isprintable() or each in kept else repr(each)[1:-1] for each in without_secrets(text))


class Note(str):
    """Words about what goes on that should be read, and stay on a terminal: no error, but nothing to pass over in silence.

    As those of an error, they hold no credentials, and no character that acts on a terminal.
    """

    def __new__(cls, words: str) -> "Note":
        return super().__new__(cls, printable(words))


class KdHpoError(Exception):
    """Base of every error that kd_hpo raises on purpose; the command line prints it as one line.

    Its words end up on terminals, in logs and in MLflow: they hold no credentials, and no character that acts on a terminal.
    """

    _ends_lines = False

    def __init__(self, words: str) -> None:
        super().__init__(printable(words, kept="\n" if self._ends_lines else ""))


class ConfigError(KdHpoError):
    """A study file, an override or an argument that cannot be used; a line for each mistake."""

    _ends_lines = True


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
