"""Serves the dashboard, on 127.0.0.1 unless told: MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python -m dashboards --port 5001"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from kd_hpo.study.environment import prepare_environment

FLAGS = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "runner.magicEnabled": "false",
    "theme.baseFontSize": "15",
    "theme.headingFontSizes": "1.7rem,1.4rem,1.15rem",
    "theme.metricValueFontSize": "1.6rem",
    "theme.light.primaryColor": "#0072b2",
    "theme.dark.primaryColor": "#56b4e9",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="beyond loopback, whoever reaches the port sees every study")
    parser.add_argument("--port", type=int, default=5001)
    given = parser.parse_args()
    prepare_environment()
    warm_up(os.environ.get("MLFLOW_TRACKING_URI", ""))
    from streamlit.web.cli import main as streamlit

    flags = [f"--{name}={value}" for name, value in FLAGS.items()]
    flags += [f"--server.address={given.host}", f"--server.port={given.port}"]
    sys.argv = ["streamlit", "run", str(Path(__file__).with_name("app.py")), *flags]
    streamlit()


def warm_up(uri: str) -> None:
    """Imports what pages need and reads the newest study, so that the first visitor need not wait for it."""
    importlib.import_module("dashboards.frame")
    from dashboards.tracked import UNREADABLE, tracking

    if not uri:
        return  # the page says so
    try:
        tracked = tracking(uri)
        for newest in list(tracked.studies().values())[:1]:
            tracked.read(newest)
    except UNREADABLE as error:
        print(f"MLflow at {uri} cannot be read yet: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
