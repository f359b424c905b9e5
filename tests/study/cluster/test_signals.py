"""SIGTERM stops a study at any time, while Ray starts too, which has handlers of its own."""

import os
import signal

import pytest

from kd_hpo.study.cluster.signals import sigterm_kept, stopped_by_sigterm


def test_sigterm_stops_as_an_interrupt_also_where_ray_would_end_the_process() -> None:
    before = signal.getsignal(signal.SIGTERM)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), stopped_by_sigterm(), sigterm_kept():
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("ended as Ray does it"))
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGINT, interrupt)  # a test before this one may have left another
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_signals_are_rays() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with sigterm_kept():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    signal.signal(signal.SIGUSR1, before)
