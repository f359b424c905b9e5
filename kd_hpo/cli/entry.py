"""The command `kd-hpo`, where what it needs is installed."""

import sys


def main() -> None:
    """Runs the command; ends with one line where the light core of kd_hpo is all that is installed."""
    try:
        from kd_hpo.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "kd_hpo":
            raise
        sys.exit(f"error: the command kd-hpo needs {error.name}, which is not installed: pip install 'kd_hpo[study]'")
    run()
