"""Serves the dashboard on 127.0.0.1: MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python -m kd_hpo.dashboards --port 5001"""

import argparse
import gc
import os
import sys
from pathlib import Path

from kd_hpo.study.environment import prepare_environment

APP = Path(__file__).with_name("app.py")
WARMING_S = 600.0
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
    "theme.dark.primaryColor": "#1a7fc1",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_hpo.dashboards", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="beyond loopback, whoever reaches the port sees every study")
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--study", help="the one that is read before anybody visits; the newest if not given")
    given = parser.parse_args()
    prepare_environment()
    warm_up(os.environ.get("MLFLOW_TRACKING_URI", ""), given.study)
    from streamlit.web.cli import main as streamlit

    flags = [f"--{name}={value}" for name, value in FLAGS.items()]
    flags += [f"--server.address={given.host}", f"--server.port={given.port}"]
    sys.argv = ["streamlit", "run", str(APP), *flags]
    streamlit()


def warm_up(uri: str, study: str | None) -> None:
    """Visits the first page, all of it, before anybody else does: imports, what MLflow holds and what follows from it stay.

    They stay out of the reach of Python's garbage collector, too, which would go through all of it after every page.
    """
    gc.disable()
    from streamlit.testing.v1 import AppTest

    from kd_hpo.dashboards.parts import ALL, DRAWN
    from kd_hpo.dashboards.tracked import UNREADABLE, refusal, tracking

    try:
        if uri:  # else the page says so
            tracking(uri).studies()
    except UNREADABLE as error:
        print(f"warning: {refusal(uri, error)}", file=sys.stderr)
    else:
        visit = AppTest.from_file(str(APP), default_timeout=WARMING_S)
        visit.query_params |= {"study": study} if study else {}
        visit.session_state[DRAWN] = ALL
        visit.run()
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    main()
