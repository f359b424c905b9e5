"""The kd-hpo command: parse, call, print, exit code. Heavy imports wait until a command needs them."""

import errno
import os
import sys

from cyclopts import App, CycloptsError
from rich.text import Text
from rich.traceback import Traceback

from kd_hpo.cli.bench import bench
from kd_hpo.cli.cluster import submit
from kd_hpo.cli.console import Output, Result, err
from kd_hpo.cli.logs import logs
from kd_hpo.cli.matrices import apply, export
from kd_hpo.cli.networks import layers, networks
from kd_hpo.cli.records import list_, report, show
from kd_hpo.cli.serve import ui
from kd_hpo.cli.studies import compare, resume, run, teacher
from kd_hpo.errors import KdHpoError

app = App(name="kd-hpo", help="Learn which teacher layer should teach which student layer, and how much.")
app.command(list_, name="list")
for command in (run, compare, resume, submit, teacher, show, logs, report, export, apply, layers, networks, bench, ui):
    app.command(command)
app.register_install_completion_command(help="Complete commands, options and names of studies in this shell from now on.")


def main() -> None:
    """Runs a command; exit codes are 0 done, 1 an error in the last line, 2 a command not understood, 130 interrupted."""
    output = Output()
    try:
        command, bound, _ = app.parse_args(exit_on_error=False)
        output = next((given for given in bound.arguments.values() if isinstance(given, Output)), output)
        with output.kept_apart():
            result = command(*bound.args, **bound.kwargs)
        if result is not None:
            _print(result, output)
    except CycloptsError:
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except KdHpoError as error:
        _fail(str(error), output)
    except OSError as error:
        if error.filename is None:
            _fail(f"{error.strerror or error}", output)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space, and go on with the same command" if full else "give a place that can be read and written"
        _fail(f"{error.filename2 or error.filename}: {error.strerror}; {remedy}", output)


def _print(result: Result, output: Output) -> None:
    try:
        output.print(result)
        sys.stdout.flush()
    except BrokenPipeError:  # who read the result wants no more of it; ends as rich does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(words: str, output: Output) -> None:
    if output.verbose:
        err.print(Traceback())
    err.print(Text(f"error: {words}", style="red"))
    sys.exit(1)
