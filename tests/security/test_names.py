"""Names of studies, trials, methods, layers and folders are text wherever they go: they lead nowhere and act on nothing."""

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow import MlflowClient
from pydantic import ValidationError

from kd_hpo.cli import main
from kd_hpo.config.study import TAKEN, StudyConfig
from kd_hpo.config.task import Classification
from kd_hpo.errors import ConfigError, ExportError, FeatureMismatch, KdHpoError, StudyError
from kd_hpo.files import only_one_process, write_atomically
from kd_hpo.nets.features import FeatureTap
from kd_hpo.nets.plain_conv import PlainConv
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.report.matrix import MatrixHistory, matrix_image, matrix_page
from kd_hpo.study.report.plots import settings_figure, svg
from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.tracking.descriptions import trial_note
from kd_hpo.study.tracking.runs import PairLayers, RunLog, all_runs, open_experiment, tracking_uri
from tests.conftest import digits_study
from tests.study.helpers import record

HOSTILE = [
    "../x",
    "..",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:\\x",
    "' OR 1=1 --",
    'a"b',
    "`a`",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(1)//",
    "&lt;b&gt;",
    "{{7*7}}",
    "${HOME}",
    "$title",
    "%s%n",
    "a\nb",
    "a\r\nb",
    "a\0b",
    "a\x1b[2Jb",
    "a\u202eb",
    "a\u2028b",
    "\u200b",
    "é",
    "[link](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "[red]x[/red]",
    "CON:",
    ".hidden",
    "-rf",
    "a b",
    "",
    "x" * 65,
]
by_name = pytest.mark.parametrize("name", HOSTILE, ids=map(ascii, range(len(HOSTILE))))


# ---- names that are folders


@by_name
def test_of_a_study(folder: StudyFolder, export: Path, name: str) -> None:
    """Neither a study file, nor a Python call, nor an export has a study of that name."""
    with pytest.raises(ValidationError):
        digits_study(folder.root.parent, name=name)
    study = folder.root.parent / "named.yaml"
    study.write_text(json.dumps(json.loads(folder.settings.read_text()) | {"name": name}))
    with pytest.raises(ConfigError, match="name is") as caught:
        load_study(study, ["search.trials=0"])
    require_one_printable_line(caught.value)
    export.write_text(json.dumps(json.loads(export.read_text()) | {"study": name}))
    with pytest.raises(ExportError, match="study: ") as refused:
        load_export(export)
    require_one_printable_line(refused.value)


@by_name
def test_of_a_method_and_of_a_trial(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError):
        digits_study(tmp_path, compare={"methods": [{"name": name, "base": "kd"}]})
    with pytest.raises(ValidationError):
        TrialSpec(id="a", kind="search", method=name, seed=0)
    if name != "x" * 65:
        with pytest.raises(ValidationError):
            TrialSpec(id=name, kind="search", method="kd", seed=0)


def test_a_trial_whose_record_names_another_one(folder: StudyFolder) -> None:
    """What is written about a trial goes to the folder that its id names."""
    status = folder.statuses()[0]
    (folder.root / "trials" / "moved").mkdir()
    (folder.root / "trials" / "moved" / "status.json").write_text(status.model_dump_json())
    with pytest.raises(StudyError, match=r"moved/status\.json is of another trial, hetero-t000"):
        folder.statuses()


@pytest.mark.parametrize("name", TAKEN)
def test_a_study_is_not_called_as_what_else_lies_in_its_runs_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError, match="another name"):
        digits_study(tmp_path, name=name)


def test_links_in_a_runs_folder_are_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("status.json", ".lock"):
        (tmp_path / name).symlink_to(victim)
    write_atomically(tmp_path / "status.json", "new")
    with only_one_process(tmp_path / ".lock"):
        pass
    assert victim.read_text() == "mine"
    assert (tmp_path / "status.json").read_text() == "new" and not (tmp_path / "status.json").is_symlink()


def test_the_driver_takes_no_lock_through_a_link(folder: StudyFolder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (folder.root / ".lock").symlink_to(victim)
    with pytest.raises(StudyError, match="is a symbolic link"), folder.only_driver():
        pass
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027])
def test_files_are_as_open_as_the_user_wants_and_never_writable_by_all(folder: StudyFolder, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder.write_status(TrialStatus(spec=TrialSpec(id="new", kind="search", method="kd", seed=0), state="running"))
        with folder.only_driver():
            pass
    finally:
        os.umask(before)
    for path in (folder.trial("new"), folder.trial("new") / "status.json", folder.root / ".lock"):
        assert path.stat().st_mode & 0o777 & umask == 0
        assert path.stat().st_mode & 0o002 == 0


# ---- names in MLflow


@pytest.mark.parametrize("name", ["a b", "a#b", "a'b\"c", "{x};b&c=d", "a:b@é\n"])
def test_a_runs_folder_of_any_name_holds_its_database_and_artefacts(tmp_path: Path, database: Path, name: str) -> None:
    runs = tmp_path / name
    runs.mkdir()
    (runs / "mlflow.db").write_bytes(database.read_bytes())
    study = digits_study(runs)
    client, experiment = MlflowClient(tracking_uri(study)), open_experiment(study)
    client.log_text(client.create_run(experiment).info.run_id, "told", "artefact.txt")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (artefact,) = (runs / "mlflow-artifacts" / "small").rglob("artefact.txt")
    assert artefact.read_text() == "told"


@pytest.mark.parametrize("name", ["a?mode=memory", "a%2F..%2Fb", "100%"])
def test_a_runs_folder_whose_database_would_lie_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError, match=r"without '\?' and '%' in its path"):
        digits_study(tmp_path / name)


def test_filters_find_the_run_of_the_trial_and_no_other(tracked: StudyConfig) -> None:
    client, experiment = MlflowClient(tracking_uri(tracked)), open_experiment(tracked)
    names = ["kd-s0", "kd-s00", "kd-s0.", "KD-s0", "kd_s0", "kd%s0"]
    ids = {
        name: RunLog.find_or_create(client, experiment, name, f"of {name}", {"kd.study": "small"}, Classification.goal).run_id
        for name in names[:5]
    }
    assert len(set(ids.values())) == 5 == len(list(all_runs(client, experiment)))
    for name, run_id in ids.items():
        assert RunLog.find_or_create(client, experiment, name, f"of {name}", {}, Classification.goal).run_id == run_id


@by_name
def test_layers_have_metrics_of_their_own_that_mlflow_takes(tracked: StudyConfig, name: str) -> None:
    layers = PairLayers([name or "layer", "conv"], ["fc"])
    cells = layers.cells([[0.25], [0.75]])
    assert sorted(cells.values()) == [0.25, 0.75]
    for cell in cells:
        assert all(c.isprintable() for c in cell) and not set(cell) & set("'\"`<>/\\") - {"/"}
        assert cell.count("/") == 1 and ".." not in cell.split("/")


@by_name
def test_a_description_is_text(name: str) -> None:
    """MLflow shows it as Markdown: what an error says in it makes no link, picture, heading or tag."""
    spec = TrialSpec(id="a", kind="search", method="kd", seed=0)
    status = TrialStatus(spec=spec, state="failed", message=f"layer {name} is wrong")
    told = trial_note(status, [record(1, 0.5, ())], "1", "run", ((), ()), Classification.goal)
    first = told.split("\n\n")[0]
    assert "\n" not in first
    said = first.partition("failed ")[2]
    for index, letter in enumerate(said):
        if letter in "<>[]!`":
            assert said[index - 1] == "\\", said


# ---- names in pages


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def elements(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """Every tag with the names of its attributes."""
    parser = Elements()
    parser.feed(page)
    parser.close()
    return parser.found


@by_name
def test_a_page_has_the_same_elements_whatever_the_names(name: str) -> None:
    def pages(said: str) -> list[str]:
        history = MatrixHistory((said, "b"), (said,), (1, 2), (((0.5,), (0.5,)), ((0.1,), (0.9,))))
        point = {"trial": said, "state": "completed", "score": 0.5, said: "x", "word": said}
        other = {"trial": "b", "state": "failed", "score": 0.4, said: "y", "word": "z"}
        return [matrix_page(said, history), svg(settings_figure([point, other], Classification.goal))]

    for page, plain in zip(pages(name or "e"), pages("layer"), strict=True):
        assert elements(page) == elements(plain)
        assert "\0" not in page and "\x1b" not in page and "\u202e" not in page
        data = page.partition('id="data">')[2].partition("</script>")[0]
        if data:
            assert json.loads(data)["teacher"] == [name or "e", "b"]
    assert matrix_image(name, (name or "e", "b"), (name or "e",), [[0.5], [0.5]], vmax=1).shape == (400, 480, 3)


# ---- names in errors and on the terminal


@by_name
def test_a_layer_that_does_not_exist(name: str) -> None:
    with pytest.raises(FeatureMismatch) as caught:
        FeatureTap(PlainConv((1, 8, 8), 10, channels=[4], hidden=4), [name])
    require_one_printable_line(caught.value)


@by_name
def test_what_is_given_on_the_command_line(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(folder.root)
    if "\0" in name or name.startswith("-"):
        pytest.skip("no argument holds it")
    for command in (["resume", name], ["export", name], ["apply", name or "e"], ["run", name or "e"]):
        monkeypatch.setattr("sys.argv", ["kd-hpo", *command])
        with pytest.raises(SystemExit) as ended:
            main.main()
        told = capsys.readouterr()
        assert ended.value.code == 1 and "Traceback" not in told.err
        assert told.err.startswith("error: ") and told.err.count("\n") == 1
        assert told.err[:-1].isprintable()


def require_one_printable_line(error: KdHpoError) -> None:
    assert str(error).isprintable(), str(error)
