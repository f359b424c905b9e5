"""SIGTERM stops a study as SIGINT does: Ray ends its trials, and what had ended is kept."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Has SIGTERM stop the study inside, on the main thread only, which alone may say what a signal does."""
    before = signal.getsignal(signal.SIGTERM)
    if _on_main_thread():
        signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        if _on_main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Keeps what SIGTERM does while Ray starts inside, which would have the signal end this process at once, without a word."""
    handle = signal.signal

    def handle_others(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number == signal.SIGTERM else handle(number, handler)

    with patch.object(signal, "signal", handle_others):
        yield


@contextmanager
def a_group_of_its_own() -> Iterator[None]:
    """Keeps the processes of Ray that start inside out of this one's process group.

    A signal to that, as systemd and `timeout` send it, would end them at once, and this process could only wait for them in
    vain; it ends them itself when it stops.
    """

    start = subprocess.Popen.__init__

    def start_in_its_own_group(process: Any, *args: Any, **options: Any) -> None:
        start(process, *args, **{"process_group": 0} | options)

    with patch.object(subprocess.Popen, "__init__", start_in_its_own_group):
        yield


def _stop(*_: object) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
