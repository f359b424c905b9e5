"""Nothing that kd_hpo reads runs code: not weights, checkpoints, caches, study files, exports or artefacts."""

import ast
import json
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn

import kd_hpo
from kd_hpo.callables import import_callable
from kd_hpo.cli import main
from kd_hpo.config.study import StudyConfig
from kd_hpo.data.cache import Labelling, new_images, open_or_build
from kd_hpo.data.teacher_targets import cached_targets
from kd_hpo.errors import CheckpointMismatch, ConfigError, DataError, ExportError, KdHpoError
from kd_hpo.nets.weights import load_weights
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.matrices.forms import applied_config, matrix_of_rank
from kd_hpo.study.search.journal import known_trials
from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.trial.checkpoint import load_checkpoint
from kd_hpo.trial.parts import Prepared
from tests.conftest import digits_trial
from tests.security.pickles import WRITERS, Evil
from tests.security.targets import copied_targets

Write = Callable[[Evil, Path], None]


@pytest.fixture(params=WRITERS.values(), ids=WRITERS)
def write(request: pytest.FixtureRequest) -> Write:
    return request.param


def test_weights(tmp_path: Path, write: Write) -> None:
    for name in ("weights.pt", "weights.safetensors"):
        write(Evil(tmp_path / "ran"), tmp_path / name)
        with pytest.raises(ConfigError, match="cannot be read as weights"):
            load_weights(nn.Sequential(nn.Linear(2, 2)), tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_checkpoint(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "checkpoint.pt"
    write(Evil(tmp_path / "ran"), path)
    signed = tmp_path / "signed.pt"
    content = path.read_bytes()
    signed.write_bytes(sha256(content).digest() + content)
    for file in (path, signed):
        with pytest.raises(CheckpointMismatch, match="not a whole checkpoint"):
            load_checkpoint(file, digits_trial())
    assert not (tmp_path / "ran").exists()


def test_image_cache(tmp_path: Path, write: Write) -> None:
    """What is no array is built again, as a truncated one is."""

    def build(folder: Path) -> Labelling:
        new_images(folder, (2, 1, 2, 2))[:] = 7
        return Labelling(torch.arange(2).numpy(), ("a", "b"), None)

    open_or_build(tmp_path, "set", "kind", "key", build)
    for name in ("images.npy", "labels.npy", "meta.json"):
        write(Evil(tmp_path / "ran"), tmp_path / "kind-key" / name)
        assert (open_or_build(tmp_path, "set", "kind", "key", build).images == 7).all()
    assert not (tmp_path / "ran").exists()


def test_teacher_targets(tmp_path: Path, cache: Path, prepared: Prepared, write: Write) -> None:
    images, reader, there = copied_targets(cache, tmp_path, prepared)
    for file in sorted(there.glob("*.npy")):
        whole = file.read_bytes()
        write(Evil(tmp_path / "ran"), file)
        with pytest.raises(DataError, match=f"{file}.*{there}"):
            cached_targets(reader, images, tmp_path)
        file.write_bytes(whole)
    cached_targets(reader, images, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_export_and_what_comes_from_mlflow(tmp_path: Path, write: Write) -> None:
    """kd_hpo reads no artefact by itself; one that a person downloads is an export or a study file."""
    write(Evil(tmp_path / "ran"), tmp_path / "export.json")
    with pytest.raises(ExportError, match="is not an export"):
        load_export(tmp_path / "export.json")
    write(Evil(tmp_path / "ran"), tmp_path / "study.yaml")
    with pytest.raises(ConfigError):
        load_study(tmp_path / "study.yaml")
    assert not (tmp_path / "ran").exists()


def test_records_of_a_study(folder: StudyFolder, write: Write) -> None:
    ran, trial = folder.root / "ran", folder.trial("hetero-t000")
    reads: dict[str, Callable[[], object]] = {
        "status.json": folder.statuses,
        "records.json": lambda: folder.records("hetero-t000"),
        "result.json": lambda: folder.result("hetero-t000"),
        "test.json": lambda: folder.test_scores("hetero-t000"),
    }
    for name, read in reads.items():
        whole = (trial / name).read_bytes() if (trial / name).exists() else b"{}"
        write(Evil(ran), trial / name)
        with pytest.raises(KdHpoError, match=f"{trial / name}.* remove {trial}"):
            read()
        (trial / name).write_bytes(whole)
    write(Evil(ran), folder.settings)
    with pytest.raises(KdHpoError):
        folder.read_settings()
    write(Evil(ran), folder.optuna)
    with pytest.raises(KdHpoError, match=rf"{folder.optuna} is broken"):
        known_trials(folder, "hetero")
    assert not ran.exists()


TAGS = [
    "!!python/object/apply:pathlib.Path.touch [RAN]",
    "!!python/object/new:pathlib.Path [RAN]",
    "!!python/object:pathlib.Path {}",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
    "!!python/tuple [1]",
    "!<tag:yaml.org,2002:python/object/apply:os.system> [touch RAN]",
    "!own {a: 1}",
    "!!binary aGk=",
    "!!timestamp 2001-01-01",
]


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags(tmp_path: Path, tag: str) -> None:
    ran, study = tmp_path / "ran", tmp_path / "study.yaml"
    for text in (f"name: {tag}", f"name: a\ndata: {tag}", f"? {tag}\n: 1"):
        study.write_text(text.replace("RAN", str(ran)))
        with pytest.raises(ConfigError, match="is not accepted") as caught:
            load_study(study)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"--set .* is not accepted"):
        load_study(study, [f"name={tag}".replace("RAN", str(ran))])
    assert not ran.exists()


# ---- code that an export names

NAMED = {
    "teacher.network.name": "evil_of_export:make",
    "student.network.name": "evil_of_export:make",
    "data": {"kind": "callable", "callable": "evil_of_export:make"},
    "pairs.loss": {"kind": "callable", "callable": "evil_of_export:make"},
    "assistants": [
        {"network": {"name": "evil_of_export:make"}, "training": {"epochs": 1}},
    ],
}


@pytest.fixture
def evil_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that lies where one starts kd-hpo, as one that an export came with might."""
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "evil_of_export.py").write_text(f"open({str(ran)!r}, 'w')\ndef make(*args, **named): ...\n")
    yield ran
    sys.modules.pop("evil_of_export", None)


@pytest.mark.parametrize("path", NAMED)
def test_an_export_that_names_code(
    export: Path, evil_module: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    content = json.loads(export.read_text())
    node, (*above, last) = content["matrices"][0]["config"], path.split(".")
    for key in above:
        node = node[key]
    node[last] = NAMED[path]
    export.write_text(json.dumps(content))

    read = load_export(export)  # reading it imports nothing
    assert "evil_of_export" not in sys.modules
    with pytest.raises(ExportError, match="'evil_of_export:make'"):
        applied_config(matrix_of_rank(read, 1), ())
    monkeypatch.setattr(sys, "argv", ["kd-hpo", "apply", str(export), "--runs", str(export.parent)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert "a file may not run code by itself" in capsys.readouterr().err
    assert not evil_module.exists() and "evil_of_export" not in sys.modules


def test_a_matrix_of_an_export_that_names_code_is_numbers(export: Path, evil_module: Path, folder: StudyFolder) -> None:
    """A study may take the matrix of any file: what else the file says plays no part."""
    content = json.loads(export.read_text())
    content["matrices"][0]["config"]["student"]["network"]["name"] = NAMED["student.network.name"]
    export.write_text(json.dumps(content))
    study = load_study(folder.settings, ["search.trials=0", f"weighting={{kind: exported, path: {export}}}"])
    assert isinstance(study, StudyConfig) and study.weighting.kind == "fixed"
    assert study.student.network.name == "plain_conv"
    assert not evil_module.exists()


def test_a_name_that_is_no_module_is_refused_before_anything_is_imported() -> None:
    for name in (":f", ".a:f", "a..b:f", "a/b:f", "a\0:f", "a b:f", "a:f()", "a:f.g", "a:", "../a:f", "a-b:f"):
        with pytest.raises(ConfigError, match="names no callable"):
            import_callable(name)


# ---- in the source

READERS = {
    "pickle": {"load", "loads", "Unpickler"},
    "cloudpickle": {"load", "loads"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "joblib": {"load"},
    "dill": {"load", "loads"},
    "yaml": {"load", "load_all", "full_load", "unsafe_load", "FullLoader", "UnsafeLoader", "Loader"},
}


def test_no_module_calls_what_runs_code() -> None:
    """torch.load only with weights_only, numpy.load only without pickles, nothing that evaluates text or a shell's command."""
    for path in Path(kd_hpo.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                require_safe(node, f"{path}:{node.lineno}")


def require_safe(call: ast.Call, where: str) -> None:
    called = ast.unparse(call.func)
    module, _, name = called.rpartition(".")
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    assert called not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"), where
    assert name not in READERS.get(module, set()), where
    assert given.get("shell", "False") == "False", where
    if called == "torch.load":
        assert given["weights_only"] == "True", where
    if called == "np.load":
        assert given["allow_pickle"] == "False", where
    assert not module.startswith("mlflow.") or not name.startswith("load"), where


def test_the_search_of_the_source_finds_what_it_should() -> None:
    for code in (
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "pickle.loads(b)",
        "eval(t)",
        "yaml.load(t)",
    ):
        with pytest.raises((AssertionError, KeyError)):
            require_safe(ast.parse(code).body[0].value, code)  # type: ignore[attr-defined, arg-type]
