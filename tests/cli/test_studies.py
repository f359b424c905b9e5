"""kd-hpo run, compare, resume and teacher: what they print, and each mistake as one line."""

import json
from pathlib import Path

import pytest
import yaml

from kd_hpo.cli import studies
from kd_hpo.config.study import Compare, StudyConfig
from kd_hpo.study.design.study_file import load_study
from tests.cli.conftest import Command
from tests.conftest import digits_study

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


@pytest.fixture
def study_file(kd_hpo: Command) -> Path:
    path = kd_hpo.folder / "study.yaml"
    path.write_text(yaml.safe_dump(json.loads(digits_study(kd_hpo.folder / "runs").model_dump_json())))
    return path


def test_missing_study_file(kd_hpo: Command) -> None:
    error = kd_hpo("run", "none.yaml").error
    assert error.startswith("none.yaml") and "No such file" in error


def test_unknown_key_is_told_with_its_line_and_the_nearest(kd_hpo: Command, study: Path) -> None:
    lines = study.read_text().splitlines()
    at = lines.index("  trials: 8")
    lines[at] = "  trails: 8"
    study.write_text("\n".join(lines))
    error = kd_hpo("run", study).error
    assert error.startswith(f"{study}:{at + 1}: search.trails") and "did you mean search.trials" in error


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.trials", "there is no `=` in it"),
        ("search.trails=3", "did you mean search.trials"),
        ("search.trials=none", "search.trials is 'none'"),
        ("search.trials=[", "not accepted as YAML"),
        ("name=../x", "name is '../x'"),
        ("compare.methods=[learnt]", "learnt"),
    ],
)
def test_bad_override_is_told(kd_hpo: Command, study: Path, override: str, words: str) -> None:
    error = kd_hpo("run", study, "--set", override).error
    assert words in error and f"--set {override}" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "ce,vdi"], "'vdi'"),
        (["--methods", ","], "no methods"),
        (["--seeds", "0"], "compare.seeds is 0"),
        (["--set", "compare.tune=-1"], "--set compare.tune=-1: compare.tune is -1"),
    ],
)
def test_comparison_that_is_refused(kd_hpo: Command, study: Path, arguments: list[str], words: str) -> None:
    assert words in kd_hpo("compare", study, *arguments).error


def test_comparison_takes_its_methods_seeds_and_tuning(kd_hpo: Command, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[StudyConfig] = []
    monkeypatch.setattr(studies, "run_and_tell", lambda study, output: asked.append(study))
    given = ["--methods", "ce, kd,vid", "--seeds", "5", "--tune", "2", "--set", "training.epochs=7"]
    given += ["--set", "search.scheduler.grace_epochs=2"]
    assert kd_hpo("compare", study, *given).code == 0
    assert kd_hpo("compare", study).code == 0
    assert asked[0].compare == Compare(methods=("ce", "kd", "vid"), seeds=5, tune=2)
    assert (asked[0].search.trials, asked[0].training.epochs) == (0, 7)
    assert asked[1].compare == load_study(study).compare


@pytest.mark.parametrize("words", ["", "the search was stopped with 3 of 8 trials to go"])
def test_interrupted_study_tells_how_to_go_on(kd_hpo: Command, study: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    import kd_hpo.study.run.driver as module

    def interrupted(*arguments: object, verbose: bool, again: bool) -> None:
        raise module.Interrupted(words) if words else KeyboardInterrupt

    monkeypatch.setattr(module, "run_study", interrupted)
    told = kd_hpo("run", study)
    assert told.code == 130
    assert told.err.startswith(f"{words or 'stopped'}. ") and told.err.endswith("kd-hpo resume digits\n")
    told = kd_hpo("run", study, "--set", "runs=other")
    assert told.err.endswith(f"kd-hpo resume digits --runs {kd_hpo.folder}/other\n")


@pytest.mark.parametrize(
    ("override", "words"),
    [("data={kind: image_folder, path: /nowhere}", "/nowhere"), ("student.layers=[conv9]", "no layer 'conv9'")],
)
def test_study_that_is_refused_leaves_no_folder(kd_hpo: Command, override: str, words: str) -> None:
    path = kd_hpo.folder / "study.yaml"
    path.write_text(yaml.safe_dump(json.loads(digits_study(kd_hpo.folder / "runs").model_dump_json())))
    told = kd_hpo("run", path, "--set", override, "-q")
    assert words in told.error
    assert not (kd_hpo.folder / "runs" / "small").exists()


def test_teacher_is_trained_once_and_told(kd_hpo: Command, study_file: Path) -> None:
    first = kd_hpo("teacher", study_file)
    assert first.code == 0
    training, accuracy, reads, weights, following = first.out.splitlines()
    assert "epoch 1 of 4" in training
    assert accuracy.startswith("plain_conv") and "val 0." in accuracy and "120 images" in accuracy
    assert reads.startswith("it reads ")
    file = Path(weights.removeprefix("its weights: "))
    assert file.is_file()
    assert following.endswith(f"next: kd-hpo run {study_file}")
    written = file.stat().st_mtime_ns
    assert kd_hpo("teacher", study_file).out == first.out.removeprefix(f"{training}\n")
    assert file.stat().st_mtime_ns == written


def test_layer_that_does_not_exist_is_told_before_the_training(kd_hpo: Command, study_file: Path) -> None:
    told = kd_hpo("teacher", study_file, "--set", "student.layers=[conv9]")
    assert told.code == 1
    assert told.out == ""
    assert told.error.startswith("student: ") and "'conv9'" in told.error


def test_teacher_that_is_taken_as_it_comes(kd_hpo: Command, study_file: Path) -> None:
    told = kd_hpo("teacher", study_file, "--set", "teacher.training=null", "--set", "teacher.accept_weak=true")
    assert "as the network comes" in told.out


def test_network_of_ones_own_is_found_in_the_current_folder(kd_hpo: Command, study_file: Path) -> None:
    (kd_hpo.folder / "network_of_this_test.py").write_text(
        "from torch import nn\n\n\ndef small(classes, hidden):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes))\n"
    )
    network = "teacher.network={name: 'network_of_this_test:small', arguments: {hidden: 8}}"
    told = kd_hpo("teacher", study_file, "--set", network, "--set", "teacher.layers=auto")
    assert "network_of_this_test:small" in told.out
    wrong = kd_hpo("teacher", study_file, "--set", "teacher.network.name=network_of_this_test:smal")
    assert "no callable 'smal'" in wrong.error and "it has small" in wrong.error


def test_teacher_as_json_whatever_a_users_code_prints(kd_hpo: Command) -> None:
    (kd_hpo.folder / "printing_network.py").write_text(
        "from torch import nn\n\n\ndef loud(classes):\n"
        "    print('this is loud')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))\n"
    )
    path = kd_hpo.folder / "study.yaml"
    settings = json.loads(digits_study(kd_hpo.folder / "runs").model_dump_json())
    settings["teacher"] |= {"network": {"name": "printing_network:loud"}, "layers": "auto"}
    path.write_text(yaml.safe_dump(settings))
    told = kd_hpo("teacher", path, "--json")
    document = json.loads(told.out)
    assert document["val_images"] == 120 and 0 < document["val"] < 1 and Path(document["weights"]).is_file()
    assert "this is loud" in told.err and "epoch 1 of 4" in told.err
    quiet = kd_hpo("teacher", path, "--quiet")
    assert "training" not in quiet.out and "accuracy on val 0." in quiet.out and "next:" not in quiet.out
