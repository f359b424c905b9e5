"""The table over repeats in words: on a terminal, in the report, and what its numbers depend on."""

from datetime import datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.design.repeats import repeats_of
from kd_hpo.study.report.repeats import HEADS, repeats_caption, repeats_rows
from kd_hpo.study.report.report import write_report
from kd_hpo.study.report.summary import render_findings
from kd_hpo.study.results.comparison import compared
from kd_hpo.study.results.final_scores import shared_scores
from kd_hpo.study.results.findings import read_findings
from kd_hpo.study.store.folder import StudyFolder, TestScores, TrialSpec
from kd_hpo.trial.parts import Prepared
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import add_completed, record, result_of

TESTS = {"ce": [[0.4, 0.5], [0.5, 0.6]], "kd": [[0.6, 0.7], [0.7, 0.9]]}
ROWS = [
    # means .45 and .55; .65 and .8; deviations .0707 and .0707, .0707 and .1414: pooled .1118. Differences -.2 and -.25 have
    # t = -.225 / .025 = -9 at one degree of freedom, where p = 1 - (2 / pi) atan 9 = .0704; with the margin one side of p is
    # 1 / 2 + atan(.22 / .025) / pi = .964, above .95
    ("ce", "2", "4", "0.5000", "0.0707", "0.0707", "-0.2250", "0.070", "no"),
    ("kd", "2", "4", "0.7250", "0.1061", "0.1118", "control", "-", "-"),
]


@pytest.fixture
def study(tmp_path: Path, prepared: Prepared) -> StudyConfig:
    study = digits_study(tmp_path, search={"trials": 0, "repeats": 2}, compare={"methods": ["ce", "kd"], "seeds": 2})
    for number, each in enumerate(repeats_of(study)):
        folder = StudyFolder.of(each)
        folder.write_settings(each)
        for method, tests in TESTS.items():
            for more, test in enumerate(tests[number]):
                spec = TrialSpec(id=f"{method}-s{each.seed + more}", kind="compare", method=method, seed=each.seed + more)
                add_completed(folder, spec, result_of([record(1, test, ())], digits_trial(weighting={"kind": "none"})))
                folder.write_test_scores(spec.id, TestScores(last=test, best=test))
        compared(each, folder, shared_scores(prepared), {}).write(folder)
    return study


def test_the_table_is_shown_and_reported(study: StudyConfig, tmp_path: Path) -> None:
    findings = read_findings(StudyFolder.of(study))
    assert findings.repeated and repeats_rows(findings.repeated) == ROWS
    assert "(small, small-r2)" in repeats_caption(findings.repeated) and "degrees of freedom 1" in repeats_caption(
        findings.repeated
    )
    Console(file=(file := StringIO()), width=120).print(render_findings(findings, 120))
    assert [tuple(line.split()) for line in file.getvalue().splitlines() if "-0.2250" in line] == [ROWS[0]]
    for suffix in (".md", ".html"):
        write_report(StudyFolder.of(study), tmp_path / f"report{suffix}", datetime(2026, 1, 1))
        text = (tmp_path / f"report{suffix}").read_text()
        assert "How that holds over independent repeats" in text and all(word in text for row in ROWS for word in row)
    (head, line, *rows) = [each for each in (tmp_path / "report.md").read_text().splitlines() if each.count("|") == 10][-4:]
    assert [cell.strip() for cell in head.strip("|").split("|")] == list(HEADS) and set(line) == {"|", "-"}
    assert len(rows) == 2
    alone = read_findings(StudyFolder.of(repeats_of(study)[1]))
    assert alone.repeated is None and alone.document()["repeated"] is None
