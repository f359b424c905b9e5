"""The report of a study: it tells the findings, needs no network, and does not trust names."""

import re
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from kd_hpo.config.weightings import NoPairs
from kd_hpo.errors import ConfigError
from kd_hpo.study.report.report import write_report
from kd_hpo.study.results.comparison import compared
from kd_hpo.study.results.final_scores import shared_scores
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.result import LayerRecord
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import LEARNED, add_compared, add_search, record, result_of

EVIL = '<script>alert("1")</script>|`x` [a](http://b) **c** ]]> & "quoted" \'single\''
NOW = datetime(2026, 11, 26, 12, 0)
MATRIX = ((0.7, 0.0), (0.0, 0.3), (0.0, 0.0))


class Page(HTMLParser):
    """Elements, what they would fetch, and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.pages: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.fetched += [str(given[name]) for name in ("src", "href", "data") if name in given]
        self.pages += [str(given["srcdoc"])] if "srcdoc" in given else []

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> StudyFolder:
    """A finished study whose layers have a name that is not to be trusted. Learned lambda is better than ce, ties with kd."""
    methods = {"methods": ["ce", "kd", LEARNED], "seeds": 3}
    study = digits_study(tmp_path_factory.mktemp("runs"), search={"trials": 6}, compare=methods, augment=["flip"])
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    add_search(folder, LEARNED, [0.5, 0.6, 0.7, 0.8, 0.85, 0.9])
    plain = result_of([record(1, 0.4, ()), record(2, 0.5, ())], digits_trial(weighting=NoPairs()))
    add_compared(folder, "ce", [0.40, 0.49, 0.58], plain)
    add_compared(folder, "kd", [0.51, 0.60, 0.69], plain)
    learned = result_of([record(1, 0.6, MATRIX), record(2, 0.7, MATRIX)])
    names = (LayerRecord(name=EVIL, shape=(8, 4, 4)), *learned.teacher_layers[1:])
    add_compared(folder, LEARNED, [0.5, 0.6, 0.7], learned.replace(teacher_layers=names))
    compared(study, folder, shared_scores(prepared), {}).write(folder)
    return folder


def page_of(folder: StudyFolder) -> str:
    path = folder.root / "report.html"
    write_report(folder, path, NOW)
    return path.read_text()


def markdown_of(folder: StudyFolder) -> str:
    path = folder.root / "report.md"
    write_report(folder, path, NOW)
    return path.read_text()


def test_page_tells_the_story(folder: StudyFolder) -> None:
    page = Page(page_of(folder))
    words = re.sub(r"\s+", " ", page.words)
    for said in (
        "KD + learned lambda reaches 0.6000 ±.1000 on test (3 seeds).",
        "It is better than student alone.",
        "It ties with KD: a difference may be chance.",
        "6 trials for 1 method by Optuna (TPE)",
        "plain_conv {channels: [8, 16], hidden: 16, padding: 1}",
        "augmented by flip",
        "conv2 (8 x 8 x 8)",
        "accuracy rises with kd.weight (rank correlation +1.00, 6 trials)",
        "0.9000 (hetero-t005)",
        "Of 6 pairs, 1 holds half of the weight; 4 weigh nothing.",
        "0.700 (0.700 to 0.700 over the seeds)",
        "a tie",
        "better",
        "kd-hpo export small --top 3",
        "compare.seeds=5",
        "python 3.11",
    ):
        assert said in words, (said, words)
    assert "What is still missing" not in words
    assert page.tags.count("svg") == 4 and len(page.pages) == 1


def test_page_needs_no_network_and_is_small(folder: StudyFolder) -> None:
    text = page_of(folder)
    page = Page(text)
    assert all(place.startswith("#") for place in page.fetched)
    assert all(Page(inner).fetched == [] for inner in page.pages)
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(text) < 500_000


def test_page_does_not_trust_names(folder: StudyFolder) -> None:
    text = page_of(folder)
    page = Page(text)
    assert '<script>alert("1")' not in text
    assert page.tags.count("script") == 1  # our own
    assert EVIL in page.words
    assert all('<script>alert("1")' not in inner for inner in page.pages)
    assert [Page(inner).tags.count("script") for inner in page.pages] == [2]


def test_markdown_tells_the_story_and_does_not_trust_names(folder: StudyFolder) -> None:
    text = markdown_of(folder)
    html = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    page = Page(html)
    assert "<script>" not in html and "a" not in page.tags and "strong" in page.tags
    assert page.tags.count("table") == 6
    assert EVIL.replace("|", "¦") in page.words and "It ties with KD: a difference may be chance." in page.words
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in html.split("<tr>")]
    (ours,) = [row for row in cells if row and row[0] == "<strong>KD + learned lambda</strong>"]
    assert ours[1:3] == ["3", "0.6000 ±.1000"]
    (first,) = [row for row in cells if len(row) == 3 and "alert" in row[0]]
    assert first[1:] == ["0.700", "0.000"]


@pytest.mark.parametrize("begun", [False, True])
def test_unfinished_study_says_what_is_missing(tmp_path: Path, begun: bool) -> None:
    study = digits_study(tmp_path, search={"trials": 6}, compare={"methods": ["ce", LEARNED], "seeds": 3})
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    if begun:
        add_search(folder, LEARNED, [0.5, 0.6], MATRIX)
    page = Page(page_of(folder))
    for said in ("What is still missing", "The comparison has not been made yet.", "kd-hpo resume small", "unfinished, "):
        assert said in page.words
    assert ("The search has 4 of 6 trials to go" in page.words) == begun
    assert ("too few trials to say" in page.words) == begun
    assert len(page.pages) == begun
    text = markdown_of(folder)
    assert "What is still missing" in text and ("| `conv1` | 0.700 |" in text) == begun


def test_comparison_by_itself_has_no_search(tmp_path: Path, prepared: Prepared) -> None:
    study = digits_study(tmp_path, search={"trials": 0}, compare={"methods": ["ce", "kd"], "seeds": 1})
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    plain = result_of([record(1, 0.4, ())], digits_trial(weighting=NoPairs()))
    add_compared(folder, "ce", [0.4], plain)
    add_compared(folder, "kd", [0.5], plain)
    compared(study, folder, shared_scores(prepared), {}).write(folder)
    words = Page(page_of(folder)).words
    assert "There was no search" in words and "No trial that learns lambda has been completed." in words
    assert "No method of this study learns pair weights" in words
    assert "student alone" in markdown_of(folder)


def test_other_kind_of_file_is_refused(folder: StudyFolder) -> None:
    with pytest.raises(ConfigError, match=r"report\.pdf ends in '\.pdf'; give a file that ends in \.html or \.md"):
        write_report(folder, folder.root / "report.pdf", NOW)
