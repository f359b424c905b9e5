"""How long the dashboard's first page takes with 1,000 trials: python studies/bench/dashboard.py --runs /tmp/big --trials 1000

The study is made up (no network is trained), but written through MLflow's client into a SQLite database, every epoch of
every pair, as a study writes it.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from playwright.sync_api import sync_playwright

from dashboards.tracked import Tracking
from kd_hpo.cli.servers import listens
from kd_hpo.study.read import load_study
from kd_hpo.study.tracking import PairLayers, open_experiment

LAYERS = PairLayers([f"layer{i}" for i in range(1, 7)], [f"block{i}" for i in range(1, 7)])


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
        settings = {path: 10 ** dice.uniform(-2, 0) for path in study.search.space}
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


def first_pages(uri: str, port: int, times: int) -> None:
    """Starts the dashboard, then visits its first page in new browsers, one after the other, each with an empty cache."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
    began = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "dashboards", "--port", str(port)], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        while not listens(port):
            time.sleep(0.05)
        began_at = time.perf_counter() - began
        print(f"the server answers after {began_at:.1f} s, {cpu_s(server.pid):.1f} s of CPU: imports, and the newest study read")
        for _ in range(times):
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                page = chromium.new_page()
                began, cpu = time.perf_counter(), cpu_s(server.pid)
                page.goto(f"http://127.0.0.1:{port}/")
                page.get_by_test_id("stDataFrame").first.wait_for(timeout=120_000)
                table, table_cpu = time.perf_counter() - began, cpu_s(server.pid) - cpu
                page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=120_000)
                figure = time.perf_counter() - began
                page.wait_for_timeout(1500)
                print(
                    f"first page: leaderboard after {table:.2f} s, first figure after {figure:.2f} s; the server's CPU: "
                    f"{table_cpu:.2f} s up to the leaderboard, {cpu_s(server.pid) - cpu:.2f} s in all"
                )
                chromium.close()
    finally:
        server.terminate()
        server.wait()


def cpu_s(pid: int) -> float:
    """What the process has used so far: on a machine that does much else, wall time says little."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


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
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    database = given.runs.absolute() / "mlflow.db"
    if not database.is_file():
        made_up_study(given.runs.absolute(), given.trials, given.epochs)
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    readings(f"sqlite:///{database}")
    first_pages(f"sqlite:///{database}", given.port, given.times)


if __name__ == "__main__":
    main()
