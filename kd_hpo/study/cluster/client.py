"""A study on a cluster that this machine reaches by Ray's client alone (ray://host:port): its driver runs on the cluster's head.

Tune's own way through the client would leave the driver on one machine, and the folder that it writes on another.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from queue import Empty
from tempfile import TemporaryDirectory

import ray
from ray.exceptions import RayError
from ray.util.queue import Queue
from rich.console import Console
from rich.text import Text

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.cluster.connection import code_for_nodes, first_line, shut_down
from kd_hpo.study.status_line import say

_COMMAND = (sys.executable, "-c", "from kd_hpo.cli.main import main; main()", "run")


def run_on_head(study: StudyConfig, options: Sequence[str], console: Console) -> int:
    """Runs the study on the cluster's head, whose paths it has, prints here what it prints, and returns its exit code.

    An interrupt here interrupts it there. Raises StudyError where no cluster answers.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = study.resources.address
    with TemporaryDirectory(prefix="kd-hpo-code-") as staged:
        if code := code_for_nodes(study):
            say(console, str(code))
            code.copy_to(Path(staged))
        try:
            ray.init(address, runtime_env={"working_dir": staged} if code else {}, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise StudyError(f"no Ray cluster answers at resources.address {address!r}: {first_line(error)}") from error
    try:
        lines = Queue(actor_options={"num_cpus": 0})
        on_head = ray.remote(num_cpus=0, max_retries=0, resources={"node:__internal_head__": 1e-3})(_run_here)
        running = on_head.remote(study, options, lines, console.width)
        try:
            _print_until_ended(running, lines, console)
        except KeyboardInterrupt:
            ray.cancel(running)
            _print_until_ended(running, lines, console)
        return int(ray.get(running))
    except RayError as error:
        raise StudyError(f"the study's driver on the head of {address} ended: {first_line(error)}") from error
    finally:
        shut_down()


def _run_here(study: StudyConfig, options: Sequence[str], lines: Queue, width: int) -> int:
    """In a process of Ray on the head: the command as it is, whose signals and exit code mean what they mean elsewhere."""
    here = study.resources.model_dump() | {"address": ray.get_runtime_context().gcs_address}  # `auto` may find another cluster
    with TemporaryDirectory(prefix="kd-hpo-") as folder:
        file = Path(folder) / "study.json"
        file.write_text(study.replace(resources=here).model_dump_json())
        environment = os.environ | {"COLUMNS": str(width), "PYTHONUNBUFFERED": "1"}
        command = subprocess.Popen(
            [*_COMMAND, str(file), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        try:
            return _pass_on(command, lines)
        except KeyboardInterrupt:  # ray.cancel
            command.send_signal(signal.SIGINT)
            return _pass_on(command, lines)


def _pass_on(command: "subprocess.Popen[str]", lines: Queue) -> int:
    assert command.stdout is not None
    for line in command.stdout:
        lines.put(line)
    return command.wait()


def _print_until_ended(running: ray.ObjectRef, lines: Queue, console: Console) -> None:
    ended = False
    while not ended:
        ended = bool(ray.wait([running], timeout=0)[0])
        try:
            while True:
                console.print(Text(lines.get(timeout=0.5)), end="")
        except Empty:
            continue
