"""The kd-hpo command: parse, call, print, exit code. Heavy imports wait until a command needs them."""

import sys

from cyclopts import App, CycloptsError
from rich.text import Text

from kd_hpo.cli.console import err
from kd_hpo.cli.matrices import apply, export
from kd_hpo.cli.networks import layers, networks
from kd_hpo.cli.serve import ui
from kd_hpo.cli.studies import compare, resume, run, teacher
from kd_hpo.errors import KdHpoError

app = App(name="kd-hpo", help="Learn which teacher layer should teach which student layer, and how much.")
for command in (run, compare, resume, teacher, export, apply, layers, networks, ui):
    app.command(command)


def main() -> None:
    """Exit codes: 0 done, 1 an error that the last line names, 2 a command that cannot be understood, 130 interrupted."""
    try:
        app(exit_on_error=False)
    except CycloptsError:
        sys.exit(2)
    except KdHpoError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename2 or error.filename}: {error.strerror}; give a place that can be read and written")


def _fail(words: str) -> None:
    err.print(Text(f"error: {words}", style="red"))
    sys.exit(1)
