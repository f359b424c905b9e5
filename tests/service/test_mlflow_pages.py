"""MLflow's pages as a person goes through them, in a headless Chromium against a real server: all within three clicks."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed: pip install 'kd_hpo[dev]'")
from playwright.sync_api import Browser, Page, expect, sync_playwright

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.store.folder import TrialSpec
from kd_hpo.study.tracking.runs import MATRIX_SECTION, experiment_link, open_experiment
from kd_hpo.trial.parts import Prepared
from tests.study.shown import add_comparison, add_search, add_trial, finish, show, shown_study

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.service,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is found on the PATH: apt-get install chromium"),
]
BEST_FIRST = ["hetero-s0", "kd-s0", "hetero-t001", "uniform-s0", "hetero-t000"]
SLOW_MS = 60_000
"""How long a page may take: MLflow's are several megabytes of JavaScript, and cores are shared."""


@dataclass(frozen=True)
class Served:
    """Two studies in one database: one has come to its end, the other is on its way."""

    server: str
    finished: StudyConfig
    running: StudyConfig
    experiments: dict[str, str]

    def link(self, study: StudyConfig) -> str:
        """What the command prints."""
        return experiment_link(study, self.experiments[study.name]).replace("http://127.0.0.1:5000", self.server)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Iterator[Served]:
    runs = tmp_path_factory.mktemp("pages")
    finished, running = shown_study(runs, name="finished"), shown_study(runs, name="running")
    for study in (finished, running):
        add_search(study, prepared)
    add_comparison(finished, prepared)
    experiment, _ = finish(finished, prepared)
    mirror = show(running)
    begun = TrialSpec(id="hetero-t003", kind="search", method="hetero", seed=0, settings={"kd.weight": 1.0})
    add_trial(running, prepared, begun, 0.65, state="running")  # only now: what runs before the driver looks has died
    mirror.bring_up_to_date(closing=False)
    experiments = {"finished": experiment, "running": open_experiment(running)}
    with serving(runs / "mlflow.db") as server:
        yield Served(server, finished, running, experiments)


class serving:
    """MLflow's server on a database, at a free port of this machine."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def __enter__(self) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
        self._server = subprocess.Popen(
            [*command, "--backend-store-uri", f"sqlite:///{self._database}"],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + 120
        while time.monotonic() < until and self._server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            else:
                return f"http://127.0.0.1:{port}"
        self.__exit__()
        raise RuntimeError("MLflow's server did not start")

    def __exit__(self, *_: object) -> None:
        if self._server.poll() is None:
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(SLOW_MS)
    expect.set_options(timeout=SLOW_MS)
    yield context.new_page()
    context.close()


def follow(page: Page, link: str) -> Page:
    """The page that a link of a description opens, in a tab of its own."""
    with page.context.expect_page() as opened:
        page.locator(f"a[target=_blank]:text-is('{link}')").first.click()
    return opened.value


def test_printed_link_opens_the_trials_best_first(page: Page, served: Served) -> None:
    page.goto(served.link(served.finished))
    expect(page.get_by_text("val/accuracy").first).to_be_visible()
    expect(page.get_by_role("link", name="kd-s0").first).to_be_visible()
    below = {name: page.get_by_role("link", name=name, exact=True).last.bounding_box() for name in BEST_FIRST}
    assert sorted(BEST_FIRST, key=lambda name: (below[name] or {"y": 0.0})["y"]) == BEST_FIRST
    expect(page.get_by_text("Best: hetero-s0")).to_be_visible()


def test_one_click_leads_to_the_matrix_over_time_of_the_best_trial(page: Page, served: Served) -> None:
    page.goto(served.link(served.finished))
    matrix = follow(page, "its matrix").frame_locator("iframe")
    expect(matrix.get_by_text("epoch 4 of 4")).to_be_visible()
    expect(matrix.get_by_text("conv2").first).to_be_visible()


def test_summary_gives_the_verdict_and_leads_to_the_model(page: Page, served: Served) -> None:
    page.goto(served.link(served.finished))
    summary = follow(page, "summary")
    expect(summary.get_by_text("Learned lambda (hetero): accuracy on test 0.7300")).to_be_visible()
    summary.get_by_text("Show more").first.click()
    model = follow(summary, "finished")
    expect(model.get_by_text("Version 1").first).to_be_visible()
    expect(model.get_by_text("best", exact=False).first).to_be_visible()


def test_study_on_its_way_shows_its_best_trial(page: Page, served: Served) -> None:
    page.goto(served.link(served.running))
    expect(page.get_by_text("Best: hetero-t001")).to_be_visible()
    matrix = follow(page, "its matrix").frame_locator("iframe")
    expect(matrix.get_by_text("conv2").first).to_be_visible()


def test_two_clicks_lead_to_the_matrix_so_far_of_a_trial_that_runs(page: Page, served: Served) -> None:
    page.goto(served.link(served.running))
    page.get_by_role("link", name="hetero-t003", exact=True).last.click()
    metrics = follow(page, "The matrix so far")
    metrics.get_by_text(MATRIX_SECTION).first.scroll_into_view_if_needed()  # MLflow draws what is in view
    expect(metrics.get_by_text("01 conv1 to 01 conv1").first).to_be_visible()
