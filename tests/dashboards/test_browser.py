"""Every page in a real browser, from the dashboard that `kd-hpo ui` has started: drawn, by keyboard, in both schemes, shared."""

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Browser, Page, expect, sync_playwright

from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import TrialSpec
from tests.dashboards.conftest import CHROMIUM, PATIENCE_S, Served, Studies
from tests.dashboards.made_up import ENDED, HOSTILE, RUNNING

pytestmark = [
    pytest.mark.service,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; on Debian: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """A page, and what went wrong on it."""

    def __init__(self, browser: Browser, served: Served, *, dark: bool = False) -> None:
        context = browser.new_context(viewport={"width": 1300, "height": 900}, color_scheme="dark" if dark else "light")
        context.set_default_timeout(PATIENCE_S * 1000)
        self.page: Page = context.new_page()
        self.outside: list[str] = []
        self.dialogs: list[str] = []
        self.root = f"http://127.0.0.1:{served.ports[1]}"
        self.page.on("request", lambda r: None if r.url.startswith((self.root, "data:", "blob:")) else self.outside.append(r.url))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))

    def open(self, path: str) -> "Visit":
        self.page.goto(f"{self.root}/{path}")
        expect(self.page.get_by_test_id("stCaptionContainer").first).to_be_visible()
        return self

    def drawn(self, charts: int) -> None:
        """Plotly has drawn so many figures, and nothing went wrong."""
        expect(self.page.locator(".js-plotly-plot .main-svg:first-of-type")).to_have_count(charts)
        expect(self.page.get_by_test_id("stException")).to_have_count(0)
        assert not self.outside and not self.dialogs

    @property
    def state(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(str(self.page.evaluate("location.href"))).query)


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Visit]:
    made = Visit(browser, served)
    yield made
    made.page.context.close()


def test_study_page(visit: Visit) -> None:
    visit.open("")
    expect(visit.page.get_by_role("heading", name="Leaderboard")).to_be_visible()
    visit.open(f"?study={ENDED}").drawn(5)
    expect(visit.page.get_by_text("11 trials · ended")).to_be_visible()


def test_lambda_page_by_keyboard_and_its_address_brings_back_what_was_seen(
    visit: Visit, browser: Browser, served: Served
) -> None:
    visit.open(f"?study={ENDED}").drawn(5)
    link = visit.page.get_by_role("link", name="Lambda")
    link.focus()
    visit.page.keyboard.press("Enter")
    slider = visit.page.get_by_role("slider")
    expect(slider).to_have_attribute("aria-valuetext", "3")
    slider.focus()
    visit.page.keyboard.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "2")
    visit.page.wait_for_function("location.search.includes('epoch=2')")
    visit.drawn(4)
    assert (visit.state["study"], visit.state["epoch"]) == ([ENDED], ["2"])
    other = Visit(browser, served)
    other.page.goto(str(visit.page.evaluate("location.href")))
    expect(other.page.get_by_role("slider")).to_have_attribute("aria-valuetext", "2")
    other.page.context.close()


def test_lambda_page_plays(visit: Visit) -> None:
    visit.open(f"lambda?study={ENDED}&epoch=1&right=hetero-t000")
    slider = visit.page.get_by_role("slider")
    expect(slider).to_have_attribute("aria-valuetext", "1")
    visit.page.get_by_role("button", name="Play").click()
    expect(slider).to_have_attribute("aria-valuetext", "3")
    expect(visit.page.get_by_role("button", name="Play")).to_be_visible()  # it has stopped
    visit.drawn(7)


def test_hostile_layer_names_do_nothing(visit: Visit) -> None:
    visit.open(f"lambda?study={RUNNING}").drawn(3)
    assert visit.page.locator("img[src=x], img[src*='evil']").count() == 0
    expect(visit.page.get_by_text(re.compile(re.escape(HOSTILE[0]))).first).to_be_attached()


def test_compare_page(visit: Visit) -> None:
    visit.open(f"compare?study={ENDED}&score=val").drawn(1)
    expect(visit.page.get_by_role("heading", name="Against KD")).to_be_visible()
    expect(visit.page.get_by_text("accuracy on val", exact=True)).to_be_attached()


def test_export_page_downloads_what_apply_takes(visit: Visit, tmp_path: Path) -> None:
    visit.open(f"export?study={ENDED}&export=hetero-s0").drawn(1)
    with visit.page.expect_download() as downloading:
        visit.page.get_by_role("button", name=f"Download {ENDED}-lambda.json").click()
    file = tmp_path / downloading.value.suggested_filename
    downloading.value.save_as(file)
    assert [matrix.trial for matrix in load_export(file).matrices] == ["hetero-s0"]
    expect(visit.page.get_by_text(f"kd-hpo apply {file.name}")).to_be_visible()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_scheme_is_that_of_the_reader(browser: Browser, served: Served, dark: bool) -> None:
    visit = Visit(browser, served, dark=dark).open(f"compare?study={ENDED}")
    paper, ink = (
        visit.page.evaluate(
            "([where, what]) => getComputedStyle(document.querySelector(where))[what].match(/\\d+/g).slice(0, 3).map(Number)",
            each,
        )
        for each in (["[data-testid=stApp]", "backgroundColor"], ["[data-testid=stApp] h1", "color"])
    )
    assert (sum(paper) < sum(ink)) == dark
    visit.page.context.close()


def test_page_follows_a_study_that_runs(visit: Visit, studies: Studies) -> None:
    client = MlflowClient(studies.uri)
    experiment = client.get_experiment_by_name(RUNNING).experiment_id
    tags = {"kd.study": RUNNING, "kd.kind": "search", "kd.method": "hetero", "kd.state": "running", "kd.trial": "hetero-t002"}
    running = client.create_run(experiment, run_name="hetero-t002", tags=tags).info.run_id
    visit.open(f"?study={RUNNING}")
    expect(visit.page.get_by_text("3 trials · 1 trial running")).to_be_visible()
    studies.running.trial(
        TrialSpec(id="hetero-t003", kind="search", method="hetero", seed=0, settings={}), "completed", [0.6, 0.8], 0.5
    )
    studies.running.to_mlflow()
    expect(visit.page.get_by_text("4 trials · 1 trial running")).to_be_visible()
    expect(visit.page.get_by_text("0.8000")).to_be_visible()
    client.delete_run(running)


def test_mlflows_link_opens_the_studys_trials_best_first(browser: Browser, served: Served) -> None:
    page = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    page.goto(served.addresses["MLflow"])
    expect(page.get_by_text("Best: hetero-s1")).to_be_visible()
    rows = [page.get_by_role("link", name=name, exact=True).last for name in ("hetero-s1", "hetero-s0", "kd-s1")]
    boxes = [row.bounding_box() for row in rows]
    assert [box["y"] for box in boxes if box] == sorted(box["y"] for box in boxes if box) and all(boxes)
    page.context.close()


def test_mlflow_and_optunas_own_dashboard_answer_beside_it(served: Served) -> None:
    assert list(served.addresses) and served.process.poll() is None
    for address in served.addresses.values():
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            assert answer.status == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{served.ports[2]}/api/studies", timeout=PATIENCE_S) as answer:
        assert b'"hetero"' in answer.read()
