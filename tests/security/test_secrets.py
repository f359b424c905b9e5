"""What opens the tracking server stays in the environment: no file, no line, no run and no export has it."""

import json
import traceback
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kd_hpo.cli import main
from kd_hpo.errors import ConfigError, KdHpoError, StudyError, without_secrets
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.run.failure import failure_of, log_traceback
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.study.tracking.runs import experiment_link, tracking_uri
from kd_hpo.study.tracking.sync import mirrored
from tests.conftest import digits_study

SECRET = "s3cr3t"
WITH_SECRET = [
    f"http://user:{SECRET}@127.0.0.1:5597",
    f"https://{SECRET}@mlflow.example.org",
    f"http://user:{SECRET}/x@127.0.0.1:5597/path",
    f"http://127.0.0.1:5597/?token={SECRET}",
    f"http://127.0.0.1:5597/?a=b&access_token={SECRET}&c=d",
    f"postgresql://user:{SECRET}@127.0.0.1:5597/db",
    f"postgresql+psycopg://user:{SECRET}@127.0.0.1/db?sslmode=require",
    f"postgresql://127.0.0.1/db?user=u&password={SECRET}",
    f"mysql+pymysql://user:p@{SECRET}@127.0.0.1/db",
    f"mssql+pyodbc://user:{SECRET}@host/db",
    f"sqlite:////tmp/x.db?key={SECRET}",
    f"${{USER}}://user:{SECRET}@host",
]


@pytest.mark.parametrize("uri", WITH_SECRET)
def test_a_secret_in_a_study_is_refused_and_not_repeated(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    study = folder.root.parent / "study.yaml"
    good = json.loads(folder.settings.read_text())
    for tracking in ({"uri": uri}, {"uri": [uri]}, uri, [uri], {"url": uri}, {"uri": uri, "more": {"x": uri}}):
        study.write_text(json.dumps(good | {"tracking": tracking}))
        with pytest.raises(ConfigError, match="tracking") as caught:
            load_study(study, ["search.trials=0"])
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    study.write_text(f"name: x\ntracking: {{uri: {uri}}}\n  tracking: [")  # no YAML: the line is told
    with pytest.raises(ConfigError) as broken:
        load_study(study)
    assert SECRET not in str(broken.value)
    study.write_text(json.dumps(good))
    for override in (f"tracking.uri={uri}", f"tracking={uri}", f"trakcing.uri={uri}", f"tracking.uri=[{uri}"):
        monkeypatch.setattr("sys.argv", ["kd-hpo", "run", str(study), "--set", override])
        with pytest.raises(SystemExit) as ended:
            main.main()
        told = capsys.readouterr()
        assert ended.value.code == 1 and SECRET not in told.out + told.err, told.err
    assert "MLFLOW_TRACKING_PASSWORD" in refusal(folder, uri)


def refusal(folder: StudyFolder, uri: str) -> str:
    study = folder.root.parent / "study.yaml"
    study.write_text(json.dumps(json.loads(folder.settings.read_text()) | {"tracking": {"uri": uri}}))
    with pytest.raises(ConfigError) as caught:
        load_study(study, ["search.trials=0"])
    return str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000",
        "https://mlflow.example.org/team/a@b",
        "postgresql://user@host/db",
        "postgresql://user:${KD_PASSWORD}@host/db",
        "https://${KD_TOKEN}@host",
        "http://host/?token=${KD_TOKEN}",
        "${KD_URI}",
        "sqlite:////runs/a@b/mlflow.db",
        "databricks://profile",
    ],
)
def test_what_holds_no_secret_is_accepted(tmp_path: Path, uri: str) -> None:
    assert digits_study(tmp_path, tracking={"uri": uri}).tracking.uri == uri


def test_a_variable_stands_for_what_it_holds_when_mlflow_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = digits_study(tmp_path, tracking={"uri": "postgresql://user:${KD_PASSWORD}@host/${KD_DB}"})
    with pytest.raises(StudyError, match=r"KD_PASSWORD.* not set"):
        tracking_uri(study)
    monkeypatch.setenv("KD_PASSWORD", SECRET)
    monkeypatch.setenv("KD_DB", "${KD_PASSWORD}")  # it is not looked at again
    assert tracking_uri(study) == f"postgresql://user:{SECRET}@host/${{KD_PASSWORD}}"


@pytest.mark.parametrize(
    ("uri", "value"),
    [
        ("${KD_URI}", f"http://user:{SECRET}@127.0.0.1:5597"),
        ("${KD_URI}", f"http://127.0.0.1:5597/?token={SECRET}"),
        ("${KD_URI}", f"mssql+none://user:{SECRET}@127.0.0.1/db"),
        ("${KD_URI}", f"none://user:{SECRET}@127.0.0.1/db"),
        ("http://user:${KD_URI}@127.0.0.1:5597", SECRET),
        ("mysql+none://user:${KD_URI}@127.0.0.1/db", SECRET),
    ],
)
def test_mlflow_that_does_not_answer_tells_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], uri: str, value: str
) -> None:
    monkeypatch.setenv("KD_URI", value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    study = digits_study(tmp_path, tracking={"uri": uri, "patience_s": 0.1})
    StudyFolder.of(study).write_settings(study)
    said = StringIO()
    try:
        with mirrored(study, Console(file=said)):
            pass
    except StudyError as error:
        said.write("".join(traceback.format_exception(error)))
    assert "MLflow" in said.getvalue() or "tracking.uri" in said.getvalue()
    told = capfd.readouterr()
    assert SECRET not in said.getvalue() + told.out + told.err
    assert SECRET not in experiment_link(study, "1")
    require_no_secret_below(tmp_path)


def test_the_link_to_a_server_has_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_URI", f"https://user:{SECRET}@mlflow.example.org:8443/team/?token={SECRET}")
    link = experiment_link(digits_study(tmp_path, tracking={"uri": "${KD_URI}"}), "7")
    assert link.startswith("https://mlflow.example.org:8443/team/#/experiments/7/runs?")


def test_an_unforeseen_error_is_kept_without_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError(f"cannot reach postgresql://user:{SECRET}@host/db\nor http://host/?password={SECRET}")
    except RuntimeError as error:
        told = failure_of(error, tmp_path / "log.txt")
        log_traceback(error)
    printed = capsys.readouterr().err  # which is the trial's log
    for text in (told, printed):
        assert "postgresql://***@host/db" in text and SECRET not in text
    assert "Traceback" in printed


def test_every_error_of_ours_is_without_secrets() -> None:
    assert str(KdHpoError(f"at http://a:{SECRET}@h/?x=1&token={SECRET} and so on")) == "at http://***@h/?x=1&token=*** and so on"
    for text in ("see https://a.b/c#d", "a@b", "package.module:callable", "ray://h:10001", "x?y", "tokens=3; key=4"):
        assert without_secrets(text) == text


def require_no_secret_below(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
