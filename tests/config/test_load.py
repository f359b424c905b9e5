import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kd_hpo.config.data import ImageFolder, TorchvisionData
from kd_hpo.config.load import read_study, with_settings
from kd_hpo.config.methods import METHODS
from kd_hpo.config.study import StudyConfig
from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.weightings import OnePair
from kd_hpo.errors import ConfigError

STUDIES = Path(__file__).parents[2] / "studies"
DIGITS = Path(__file__).with_name("digits.yaml")
ONE_OF = f"it should be one of {', '.join(METHODS)}"
SPACE = "search.space={training.optimizer.lr: {kind: loguniform, low: 0.01, high: 0.2}}"


def load(*overrides: str, path: Path = DIGITS) -> StudyConfig:
    return read_study(path, overrides, methods=METHODS)


def complaint(*overrides: str, path: Path = DIGITS) -> str:
    """What read_study says of a file, without the folder."""
    with pytest.raises(ConfigError) as caught:
        load(*overrides, path=path)
    return str(caught.value).replace(f"{path.parent}/", "")


def line(text: str) -> int:
    return next(i for i, each in enumerate(DIGITS.read_text().split("\n"), 1) if text in each)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_come_with_kd_hpo_load(path: Path) -> None:
    assert load(path=path).runs == Path("runs").absolute()


def test_loading_needs_neither_torch_nor_ray() -> None:
    code = "import sys, kd_hpo.config.load; print(*{'torch', 'ray', 'mlflow', 'optuna', 'numpy'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"


# ---- paths


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "study.yaml"
    file.write_text((STUDIES / "seed_cifar10.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    study = load("data.path=pictures/of", "teacher.weights=~/teacher.safetensors", path=Path("study.yaml"))
    assert isinstance(study.data, ImageFolder)
    assert study.data.path == tmp_path / "pictures/of"
    assert study.teacher.weights == Path("/home/someone/teacher.safetensors")
    assert study.runs == tmp_path / "runs"
    study = load("data={kind: torchvision, name: CIFAR10, root: ~/data}", "runs=/there", path=file)
    assert isinstance(study.data, TorchvisionData)
    assert (study.data.root, study.runs) == (Path("/home/someone/data"), Path("/there"))


def test_a_home_that_does_not_exist() -> None:
    assert complaint("runs=~no-such-user/runs") == "runs is '~no-such-user/runs': there is no such home; write the path in full"


FOLDER = "data={{kind: image_folder, path: '{}'}}"


def test_what_is_in_storage_stays_as_it_is() -> None:
    study = load(FOLDER.format("s3://my-bucket/of/pets"), "teacher.weights=s3://my-bucket/teacher.safetensors")
    assert isinstance(study.data, ImageFolder)
    assert (study.data.path, study.teacher.weights) == ("s3://my-bucket/of/pets", "s3://my-bucket/teacher.safetensors")
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study == study.replace()


@pytest.mark.parametrize(
    "uri", ["s3://key:s3cr3t@bucket/x", "s3://bucket/x?access_key=key&secret_key=s3cr3t", "s3://s3cr3t@bucket/x"]
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    for override in (FOLDER.format(uri), f"student.weights={uri}"):
        told = complaint(override)
        assert "it should be s3://BUCKET/KEY and hold neither credentials nor options; those are AWS_ENDPOINT_URL" in told
        assert "s3cr3t" not in told and "\n" not in told


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3://b/x", "s3://Bucket/x", "s3://bucket/a/../b", "s3://bucket//x", "s3:///x"])
def test_other_uris_are_no_places(uri: str) -> None:
    assert complaint(f"teacher.weights={uri}").endswith(f"teacher.weights is {uri!r}; it should be a path or s3://BUCKET/KEY")


@pytest.mark.parametrize("override", ["runs=s3://bucket/runs", "data={kind: torchvision, name: CIFAR10, root: 's3://bucket/x'}"])
def test_what_is_written_is_on_disk(override: str) -> None:
    told = complaint(override)
    assert "it should be a path on disk, on a cluster one that every node shares; only an image folder and files of" in told
    assert "\n" not in told


# ---- methods


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("[ce, hetro]", f"compare.methods.1 is 'hetro'; {ONE_OF}; did you mean hetero?"),
        ("[{name: own, base: zzz}]", f"compare.methods.0.base is 'zzz'; {ONE_OF}"),
        ("[{name: own, base: kd}, {name: more, base: own}]", f"compare.methods.1.base is 'own'; {ONE_OF}"),
        ("[kd, ce, kd]", "compare.methods.2 is 'kd', as compare.methods.0 is; give each method a name of its own"),
        (
            "[kd, {name: kd, base: hetero}]",
            "compare.methods.1.name is 'kd', as compare.methods.0 is; give each method a name of its own",
        ),
        (
            "[{name: a, base: kd}, {name: a, base: ce}]",
            "compare.methods.1.name is 'a', as compare.methods.0.name is; give each method a name of its own",
        ),
    ],
)
def test_methods_that_are_refused(methods: str, message: str) -> None:
    assert complaint(f"compare.methods={methods}") == f"--set compare.methods={methods}: {message}"


def test_a_method_of_the_file_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "digits.yaml"
    file.write_text(DIGITS.read_text().replace("methods: [ce, kd,", "methods: [ce, kdd,"))
    message = f"compare.methods.1 is 'kdd'; {ONE_OF}; did you mean kd?"
    assert complaint(path=file) == f"digits.yaml:{line('methods: [')}: {message}"


def test_the_searched_method() -> None:
    own = "compare.methods=[ce, {name: own, base: hetero}]"
    assert load("search.method=vid").search.method == "vid"
    assert load(own, "search.method=own").search.method == "own"
    message = f"--set search.method=owm: search.method is 'owm'; {ONE_OF}, own; did you mean own?"
    assert complaint(own, "search.method=owm") == message


# ---- splits and scheduler


def test_fractions_of_more_than_all_images() -> None:
    asked = f"digits.yaml:{line('splits:')} with --set splits.train=0.4: splits takes train 0.4 + outer 0.2 + val 0.2 + test 0.3"
    assert complaint("splits.train=0.4") == f"{asked} = 1.1 of the images; these fractions should sum to at most 1"
    nothing_left = "splits={outer: 0.2, val: 0.2, test: 0.6}"
    asked = f"--set {nothing_left}: splits takes outer 0.2 + val 0.2 + test 0.6 = 1 of the images; these fractions should sum"
    assert complaint(nothing_left) == f"{asked} to less than 1, as train takes what they leave"


@pytest.mark.parametrize(
    "splits",
    [
        "{train: 0.3, outer: 0.2, val: 0.2, test: 0.3}",  # 1, or a little more in floats
        "{train: 0.7, outer: 0.1, val: 0.1, test: 0.1}",
        "{outer: 0.3, val: 0.3, test: 0.3}",
        "{train: 1000, outer: 0.5, val: 100, test: 0.5}",  # counts are compared with the images when they are known
    ],
)
def test_fractions_that_fit(splits: str) -> None:
    load(f"splits={splits}")


def test_a_fraction_of_a_test_half_is_no_share_of_the_other_images() -> None:
    folder = "data={kind: image_folder, path: here}"
    load(folder, "splits={train: 0.6, outer: 0.2, val: 0.2, test: 0.5}")
    assert "= 1.2 of the images" in complaint(folder, "splits={train: 0.8, outer: 0.2, val: 0.2}")


def test_grace_that_outlasts_the_trial() -> None:
    load("training.epochs=4")
    load("training.epochs=3", "search.scheduler={kind: none}")
    message = "search.scheduler.grace_epochs is 4; it should be at most 3, which is training.epochs: lower both"
    assert complaint("training.epochs=3") == f"digits.yaml:{line('grace_epochs')}: {message}"


# ---- ranges


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            "{training.optimizer.lrr: {kind: uniform, low: 1, high: 2}}",
            "search.space cannot choose 1.0: training.optimizer.lrr is not a path of TrialConfig; "
            "did you mean training.optimizer.lr?",
        ),
        (
            "{zzz: {kind: int, low: 1, high: 2}}",
            "search.space cannot choose 1: replacing zzz: zzz is not a key (given 1); "
            f"the keys there are {', '.join(TrialConfig.model_fields)}",
        ),
        (
            "{training.optimizer.lr: {kind: uniform, low: -1, high: 1}}",
            "search.space cannot choose -1.0: replacing training.optimizer.lr: training.optimizer.lr is -1.0; "
            "it should be greater than 0",
        ),
        (
            "{training.optimizer.momentum: {kind: uniform, low: 0.5, high: 1.5}}",
            "search.space cannot choose 1.5: replacing training.optimizer.momentum: training.optimizer.momentum is 1.5; "
            "it should be less than or equal to 1",
        ),
        (
            "{training.lr_schedule: {kind: choice, values: [cosine, linear]}}",
            "search.space cannot choose 'linear': replacing training.lr_schedule: training.lr_schedule is 'linear'; "
            "it should be 'one_cycle', 'cosine' or 'constant' or a mapping whose kind is one of constant, multi_step, cosine, "
            "one_cycle, torch",
        ),
    ],
)
def test_ranges_that_are_refused(space: str, message: str) -> None:
    assert complaint(f"search.space={space}") == f"--set search.space={space}: {message}"


def test_a_continuous_range_of_whole_numbers_is_refused() -> None:
    assert "a number with a fractional part" in complaint(
        "search.space={training.batch_size: {kind: uniform, low: 16, high: 64}}"
    )
    load("search.space={training.batch_size: {kind: int, low: 16, high: 64}}")


def test_a_range_of_the_file_has_the_line_of_its_end(tmp_path: Path) -> None:
    file = tmp_path / "digits.yaml"
    space = "search:\n  space:\n    training.optimizer.lr:\n      kind: uniform\n      high: 1\n      low: -1\n"
    file.write_text(DIGITS.read_text().replace("search:\n", space))
    assert complaint(path=file).startswith(f"digits.yaml:{line('search:') + 5}: search.space cannot choose -1.0: ")


def test_default_ranges_leave_out_what_the_trial_has_no_use_for() -> None:
    assert "weighting.step" in load().space
    assert load().space.keys() - load("weighting={kind: uniform}").space.keys() == {"weighting.step"}


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ("{training.optimizer.lr: {kind: loguniform, low: 0.06, high: 0.2}}", "from 0.06 to 0.2 for training.optimizer.lr"),
        ("{kd.weight: {kind: uniform, low: 0, high: 0.5}}", "from 0 to 0.5 for kd.weight, which is 1 itself"),
        ("{training.batch_size: {kind: int, low: 64, high: 128}}", "from 64 to 128 for training.batch_size, which is 32"),
    ],
)  # fmt: skip
def test_a_range_that_does_not_hold_the_files_own_number_is_refused(space: str, problem: str) -> None:
    assert complaint(f"search.space={space}").startswith(f"--set search.space={space}: search.space goes {problem}")
    load(f"search.space={space}", "search.trials=0")


def test_a_number_of_a_list_and_one_that_is_no_number(tmp_path: Path) -> None:
    matrix, low = "weighting={kind: fixed, matrix: [[1, 5], [1, 1]]}", "{kind: uniform, low: 0, high: 2}"
    assert "for weighting.matrix.0.1, which is 5" in complaint(matrix, f"search.space={{weighting.matrix.0.1: {low}}}")
    load(matrix, f"search.space={{weighting.matrix.1.1: {low}}}")
    load("search.space={weighting.keep: {kind: int, low: 1, high: 2}}")  # null itself, which no range can hold


def test_where_nothing_is_searched_ranges_and_scheduler_need_not_fit() -> None:
    idle = ("search.space={weighting.stepp: {kind: int, low: 1, high: 2}}", "training.epochs=2", "search.method=nobody")
    assert load(*idle, "search.trials=0").search.trials == 0
    tuned = complaint(*idle, "search.trials=0", "compare.tune=1")
    assert "weighting.step" in tuned and "grace_epochs" in tuned and "nobody" not in tuned


def test_every_mistake_between_settings_is_told() -> None:
    space = "search.space={kd.weight: {kind: uniform, low: 2, high: 3}, kd.wait: {kind: int, low: 2, high: 3}}"
    mistakes = complaint("compare.methods=[a]", "splits.train=0.9", "training.epochs=2", space).split("\n")
    subjects = ["compare.methods.0", "splits takes", "search.scheduler.grace_epochs", "search.space", "search.space"]
    assert len(mistakes) == len(subjects)
    assert all(subject in mistake for subject, mistake in zip(subjects, mistakes, strict=True))


# ---- settings in a trial


def test_settings_are_replaced_one_after_the_other() -> None:
    changes: dict[str, Any] = {
        "weighting": {"kind": "one_pair", "teacher": "conv1", "student": "conv1"},
        "weighting.student": "fc",
    }
    assert with_settings(load().trial(), changes).weighting == OnePair(teacher="conv1", student="fc")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("student.layers=[]", "student.layers is []; it should be 'auto' or a list with 1 item or more"),
        ("student.layers=conv1", "student.layers is 'conv1'; it should be 'auto' or a list"),
        ("search.space={}", "search.space is {}; it should be a mapping with 1 key or more"),
        ("name=a/b", "name is 'a/b'; it should be letters, digits, '.', '_' and '-', 64 at most, a letter or digit first"),
        ("data={kind: callable, callable: birds}", "data.callable is 'birds'; it should be package.module:callable"),
        ("teacher.weights=3", "teacher.weights is 3; it should be a path"),
        ("data={kind: image_folder}", "data.path is missing; add it: a path or s3://BUCKET/KEY"),
        ("weighting={kind: one_pair, student: x}", "weighting.teacher is missing; add it: a string"),
        ("search.space={seed: {kind: int, low: 1}}", "search.space.seed.high is missing; add it: a whole number"),
        ("compare.methods=[{name: x}]", "compare.methods.0.base is missing; add it: a string"),
    ],
)
def test_mistakes_are_told_in_words_of_a_study_file(override: str, words: str) -> None:
    assert complaint(override) == f"--set {override}: {words}"
