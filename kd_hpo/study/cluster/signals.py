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
    heed_sigterm()
    try:
        yield
    finally:
        if _on_main_thread():
            signal.signal(signal.SIGTERM, before)


def heed_sigterm() -> None:
    """Has SIGTERM stop the study, again after Ray has started, which has the signal end the process at once."""
    if _on_main_thread():
        signal.signal(signal.SIGTERM, _stop)


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
