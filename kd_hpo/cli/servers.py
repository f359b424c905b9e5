"""Several servers of this machine as one: started together, told as they answer, ended together, even by `kill -9`."""

import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

from kd_hpo.cli.guard import GRACE_S, guarded
from kd_hpo.errors import StudyError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    name: str
    command: Sequence[str]
    port: int
    address: str
    """What a person opens once something listens at the port."""
    environment: Mapping[str, str] = field(default_factory=dict)
    host: str = LOOPBACK
    opens: Callable[[], str] | None = None
    """What a person opens instead; asked for when the server answers."""


def serve(servers: Sequence[Server], tell: Callable[[str], None]) -> None:
    """Runs the servers until it is told to stop, by Ctrl-C, SIGTERM or the end of its terminal; they have ended then.

    Raises StudyError where one of them ends by itself; the others have ended then, too.
    """
    waiting = list(servers)
    with told_to_stop() as stop, ExitStack() as ends:
        guard = ends.enter_context(guarded())
        running = {server.name: ends.enter_context(_running(server, guard)) for server in servers}
        ends.callback(_ask_to_end, [process for process, _ in running.values()])
        while not stop.wait(0.2):
            for name, (process, log) in running.items():
                if process.poll() is not None:
                    raise StudyError(f"{name} has ended with exit code {process.returncode}: {_last_line(log)}")
            for server in [server for server in waiting if listens(server.port, server.host)]:
                tell(f"{server.name}: {server.opens() if server.opens else server.address}")
                waiting.remove(server)
                if not waiting:
                    tell("stop with Ctrl-C")


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """Gives an event that is set by the first of the signals.

    A second one changes nothing, since the servers are ended by then.
    """
    stop = threading.Event()
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def listens(port: int, host: str = LOOPBACK) -> bool:
    try:
        socket.create_connection((host, port), 0.5).close()
    except OSError:
        return False
    return True


@contextmanager
def _running(server: Server, guard: IO[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """In a session of its own: Ctrl-C reaches this process alone, and what the server started ends with it."""
    with tempfile.TemporaryFile() as log:
        environment = os.environ | server.environment
        process = subprocess.Popen(server.command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            guard.write(b"%d\n" % process.pid)  # of its group, too
            yield process, log
        finally:
            _signal_all(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            _signal_all(process, signal.SIGKILL)  # those that the server left behind, too
            process.wait()


def _ask_to_end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """All before any is waited for."""
    for process in processes:
        _signal_all(process, signal.SIGTERM)


def _signal_all(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, number)


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
