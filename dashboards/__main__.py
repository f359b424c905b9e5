"""Serves the dashboard on 127.0.0.1, by `MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python -m kd_hpo.dashboards --port 5001`."""

import argparse
import gc
import os
import sys
from pathlib import Path
from typing import Any

from kd_hpo.dashboards.gate import AsgiGate, Gate
from kd_hpo.dashboards.options import add_options, gate_of, origins
from kd_hpo.study.environment import prepare_environment

APP = Path(__file__).with_name("app.py")
WARMING_S = 600.0
CONFIG: dict[str, Any] = {
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.enableAgentApi": False,
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "runner.magicEnabled": False,
    "theme.baseFontSize": 15,
    "theme.headingFontSizes": ["1.7rem", "1.4rem", "1.15rem"],
    "theme.metricValueFontSize": "1.6rem",
    "theme.light.primaryColor": "#0072b2",
    "theme.dark.primaryColor": "#1a7fc1",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_hpo.dashboards", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="beyond loopback, whoever reaches the port sees every study")
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--study", help="the one that is read before anybody visits; the newest if not given")
    add_options(parser, writes=False)
    given = parser.parse_args()
    prepare_environment()
    warm_up(os.environ.get("MLFLOW_TRACKING_URI", ""), given.study)
    serve(given.host, given.port, gate_of(given.host, given))


def serve(host: str, port: int, gate: Gate) -> None:
    """Runs Streamlit's server behind the gate, before its pages and its websocket; returns when it is told to stop."""
    from starlette.middleware import Middleware
    from streamlit.starlette import App

    app = App(APP, middleware=[Middleware(AsgiGate, gate=gate)])
    app.run(config=CONFIG | {"server.address": host, "server.port": port, "server.corsAllowedOrigins": origins(gate)})


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
