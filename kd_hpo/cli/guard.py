"""Ends what a process leaves behind when it is killed: it reads process groups from it, and ends them when it reads no more.

`kill -9` gives no time to clean up; what is left of the killed process is that its end of a pipe is closed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

GRACE_S = 5.0
"""From being asked to end until being killed."""


@contextmanager
def guarded() -> Iterator[IO[bytes]]:
    """Gives a pipe that takes process groups, a number a line: they end if this process ends before the block does."""
    command = [sys.executable, "-m", "kd_hpo.cli.guard"]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, bufsize=0)
    assert guard.stdin is not None
    try:
        yield guard.stdin
    finally:
        guard.kill()  # the block has ended its groups itself, and their numbers may be others' by now
        guard.wait()
        guard.stdin.close()


def main() -> None:
    groups = [int(line) for line in sys.stdin.buffer]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, number)
        time.sleep(GRACE_S if number is signal.SIGTERM else 0)


if __name__ == "__main__":
    main()
