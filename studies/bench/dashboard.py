"""How long the dashboard's first page takes with 1,000 trials: python studies/bench/dashboard.py --runs /tmp/big --trials 1000

The study is made up (no network is trained), but written through MLflow's client into a SQLite database, every epoch of
every pair, as a study writes it.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from figures import machine, tell
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from playwright.sync_api import sync_playwright

from kd_hpo.cli.servers import listens
from kd_hpo.dashboards.tracked import Tracking
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.tracking.runs import PairLayers, open_experiment

LAYERS = PairLayers([f"layer{i}" for i in range(1, 7)], [f"block{i}" for i in range(1, 7)])
GRID = "[data-testid=stDataFrame]"
LEADERBOARD = "[data-testid=stMarkdownContainer] td"
"""The best trials, which the page tells before it has a grid of all."""
ALONE = {
    "an empty page": ('streamlit.title("nothing")', "h1"),
    "a table alone": ('streamlit.dataframe({f"column {i}": range(1000) for i in range(14)})', GRID),
}
"""What Streamlit shows, and how one knows that it does."""
GOAL_S = 2.0


def made_up_study(runs: Path, trials: int, epochs: int) -> None:
    study = load_study(Path(__file__).parents[1] / "digits.yaml", ()).replace(name="made-up", runs=runs)
    runs.mkdir(parents=True, exist_ok=True)
    experiment, client, dice = open_experiment(study), MlflowClient(f"sqlite:///{runs / 'mlflow.db'}"), random.Random(0)
    begin = int(time.time() * 1000) - trials * 60_000
    for number in range(trials):
        start, name = begin + number * 60_000, f"hetero-t{number:03d}"
        tags = {"kd.study": study.name, "kd.kind": "search", "kd.method": "hetero", "kd.trial": name, "kd.teacher": "0" * 64}
        tags["kd.state"] = "completed" if dice.random() < 0.4 else "stopped"
        run = client.create_run(experiment, start_time=start, run_name=name, tags=tags).info.run_id
        settings = {path: 10 ** dice.uniform(-2, 0) for path in study.space}
        goal = 0.9 - 0.1 * abs(settings["training.optimizer.lr"] - 0.1) - 0.05 * dice.random()
        weights = [[dice.random() for _ in LAYERS.names[1]] for _ in LAYERS.names[0]]
        total = sum(map(sum, weights))
        metrics = []
        for epoch in range(1, (epochs if tags["kd.state"] == "completed" else epochs // 3) + 1):
            accuracy = goal * (1 - 0.5 / epoch)
            values = {"val/accuracy": accuracy, "val/loss": 1 - accuracy, "train/loss": 1 - accuracy, "outer/loss": 1 - accuracy}
            values |= LAYERS.cells([[weight / total for weight in row] for row in weights])
            metrics += [Metric(key, value, start + epoch * 2_000, epoch) for key, value in values.items()]
        params = [Param(key, f"{value:.6g}") for key, value in settings.items()]
        client.log_batch(run, metrics, [Param("method", "hetero"), Param("seed", "0"), *params])
        client.set_terminated(run, "FINISHED", start + epochs * 2_000)


@dataclass
class Page:
    """A page of a server of Streamlit that runs, which is there once it has an element."""

    server: psutil.Process
    port: int
    element: str
    later: Mapping[str, str] = field(default_factory=dict)
    """What comes after it, by name."""
    costs: list[Mapping[str, float]] = field(default_factory=list)
    """Seconds, of each visit."""

    def visit(self) -> None:
        """In a new browser, whose cache is empty."""
        others = below(set())
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = chromium.new_page()
            wall, by_server, by_browser = time.perf_counter(), cpu_s(self.server), cpu_s(*below(others))
            page.goto(f"http://127.0.0.1:{self.port}/", wait_until="commit")
            page.locator(self.element).first.wait_for(timeout=120_000)
            cost = {
                "wall time": time.perf_counter() - wall,
                "CPU of the server": cpu_s(self.server) - by_server,
                "CPU of the browser": cpu_s(*below(others)) - by_browser,
            }
            for what, element in self.later.items():
                page.locator(element).first.wait_for(timeout=120_000)
                cost[f"wall time to {what}"] = time.perf_counter() - wall
            self.costs.append(cost)
            chromium.close()


def first_pages(uri: str, port: int, times: int) -> None:
    """Of the dashboard, and of pages that say what Streamlit itself takes here: no dashboard of it can be faster."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
        pages = dict[str, Page]()
        for i, (name, (code, element)) in enumerate(ALONE.items(), port + 1):
            script = Path(folder) / f"{i}.py"
            script.write_text(f"import streamlit\n{code}\n")
            quiet = ["--server.headless=true", "--server.fileWatcherType=none", "--browser.gatherUsageStats=false"]
            flags = [*quiet, "--server.address=127.0.0.1", f"--server.port={i}"]
            pages[name] = Page(started(ends, "streamlit", "run", str(script), *flags, port=i), i, element)
        began = time.perf_counter()
        dashboard = started(ends, "kd_hpo.dashboards", f"--port={port}", port=port, uri=uri)
        print(f"the dashboard answers after {time.perf_counter() - began:.1f} s, {cpu_s(dashboard):.1f} s of CPU")
        later = {"the grid of all trials": GRID, "the first figure": ".js-plotly-plot .main-svg"}
        pages["leaderboard"] = Page(dashboard, port, LEADERBOARD, later)
        for _ in range(times):
            for page in pages.values():
                page.visit()
    for name, page in pages.items():
        for what in page.costs[0]:
            goal = GOAL_S if (name, what) == ("leaderboard", "wall time") else None
            tell(f"{name}: {what}", [cost[what] for cost in page.costs], "s", goal=goal)


def started(ends: contextlib.ExitStack, *module: str, port: int, uri: str = "") -> psutil.Process:
    """A server, which answers at the port; it ends with `ends`."""
    environment, silent = os.environ | {"MLFLOW_TRACKING_URI": uri}, subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-m", *module], env=environment, stdout=silent, stderr=silent)
    ends.callback(process.wait)
    ends.callback(process.terminate)
    while not listens(port):
        if process.poll() is not None:
            raise SystemExit(f"python -m {' '.join(module)} has ended with exit code {process.returncode}")
        time.sleep(0.05)
    return psutil.Process(process.pid)


def below(but: set[psutil.Process]) -> set[psutil.Process]:
    """All that this process has started, and what they have."""
    return set(psutil.Process().children(recursive=True)) - but


def cpu_s(*processes: psutil.Process) -> float:
    """What they have used so far: on a machine that does much else, wall time says little."""
    used = [process.cpu_times() for process in processes if process.is_running()]
    return sum(each.user + each.system for each in used)


def readings(uri: str) -> None:
    """What reading MLflow costs by itself: all trials, then what has changed since."""
    tracked = Tracking(uri)
    newest = next(iter(tracked.studies().values()))
    for what in ("all trials", "what has changed", "what has changed"):
        wall, cpu = time.perf_counter(), time.process_time()
        found = len(tracked.read(newest).trials)
        print(f"reading {what} of {found}: {time.perf_counter() - wall:.2f} s, {time.process_time() - cpu:.2f} s of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="a folder; the study is made there unless it has one")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    database = given.runs.absolute() / "mlflow.db"
    if not database.is_file():
        made_up_study(given.runs.absolute(), given.trials, given.epochs)
    print(machine())
    readings(f"sqlite:///{database}")
    first_pages(f"sqlite:///{database}", given.port, given.times)


if __name__ == "__main__":
    main()
