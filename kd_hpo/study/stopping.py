"""SIGTERM stops a study as SIGINT does: Ray ends its trials, and what had ended is kept."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Only where the study runs on the main thread, which alone may say what a signal does."""
    before = signal.getsignal(signal.SIGTERM)
    heed_sigterm()
    try:
        yield
    finally:
        if _on_main_thread():
            signal.signal(signal.SIGTERM, before)


def heed_sigterm() -> None:
    """Again after Ray has started, which has the signal end the process at once."""
    if _on_main_thread():
        signal.signal(signal.SIGTERM, _stop)


def _stop(*_: object) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
