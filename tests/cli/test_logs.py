"""kd-hpo logs."""

import json

from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.study.store.trial_log import opened
from tests.cli.conftest import Command


def test_the_log_of_a_trial(kd_hpo: Command, searched: StudyFolder) -> None:
    with opened(searched.log("hetero-t001")) as log:
        log.begin_attempt("hetero-t001", "here:1")
        with log.file.open("a") as file:
            file.write("one\ntwo\n")
    told = kd_hpo("logs", "small", "hetero-t001")
    assert told.code == 0 and told.lines[0].startswith("--- attempt 1 of hetero-t001") and told.lines[1:3] == ["one", "two"]
    assert str(log.file) in told.lines[-1] and "completed" in told.lines[-1]
    assert kd_hpo("logs", "small", "hetero-t001", "-f", "--lines", 1, "-q").out == "two\n"
    document = json.loads(kd_hpo("logs", "small", "hetero-t001", "--json", "--lines", 1).out)
    assert (document["state"], document["text"], document["log"]) == ("completed", "two\n", str(log.file))


def test_what_has_no_log_is_told_with_the_nearest_name(kd_hpo: Command, searched: StudyFolder) -> None:
    assert "did you mean hetero-t001?" in kd_hpo("logs", "small", "hetero-t01").error
    assert "'../x'; it has 2, from hetero-t000 to hetero-t001" in kd_hpo("logs", "small", "../x").error
    assert "did you mean small?" in kd_hpo("logs", "smal", "hetero-t001").error
    assert "hetero-t000" in (error := kd_hpo("logs", "small", "hetero-t000").error) and "has no log" in error
