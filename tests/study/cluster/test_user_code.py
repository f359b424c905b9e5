"""Which files of one's own go to the nodes of a cluster."""

from pathlib import Path

import pytest

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.cluster import user_code
from kd_hpo.study.cluster.user_code import user_modules
from tests.conftest import digits_study


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("own.py", "helper.py", "package/__init__.py", "package/net.py", "package/words.txt", "runs/cache/images.npy",
                 ".git/config", "venv/pyvenv.cfg", "venv/lib/module.py", "images/cat/1.png", "package/__pycache__/net.pyc",
                 ".secret", "package/.secret", "docker/secrets/token", "id_rsa", "package/id_rsa", "package/server.pem",
                 "mlflow.db", "unrelated.py", "passwords.txt", "labels.csv"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}")
    (tmp_path / "own.py").write_text("import math\nimport helper\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study_in(root: Path, **changes: object) -> StudyConfig:
    own = {"name": "mine", "base": "hetero", "set": {"pairs.loss": {"kind": "callable", "callable": "own:loss"}}}
    data = {"kind": "image_folder", "path": str(root / "images")}
    return digits_study(root / "runs", **({"data": data, "compare": {"methods": [own]}} | changes))


def sent(study: StudyConfig, root: Path) -> list[str]:
    code = user_code.user_code(study, root)
    assert code is not None
    return [str(file.relative_to(root)) for file in code.files]


NETWORK = {"network": {"name": "package.net:small"}, "layers": ["a"]}


def test_modules_are_found_wherever_a_study_names_them(root: Path) -> None:
    tracking = {"uri": "http://mlflow:5000"}
    assert user_modules(study_in(root, student=NETWORK, tracking=tracking)) == ["own", "package.net"]
    assert user_modules(study_in(root, compare={"methods": ["ce"]})) == []


def test_what_a_study_names_goes_with_what_it_imports_and_nothing_else(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert sent(study_in(root), root) == ["helper.py", "own.py"]
    packaged = study_in(root, compare={"methods": ["ce"]}, student=NETWORK)
    assert sent(packaged, root) == ["package/__init__.py", "package/net.py", "package/words.txt"]
    code = user_code.user_code(packaged, root)
    assert code is not None and str(code).startswith("3 files, 0 kB, of ")
    there = tmp_path_factory.mktemp("there")
    code.copy_to(there)
    assert (there / "package" / "net.py").read_text() == "# package/net.py"


def test_files_go_that_the_settings_name(root: Path) -> None:
    arguments = {"file": "labels.csv", "key": "id_rsa", "gone": "no.csv", "outside": "../x", "folder": "docker"}
    data = {"kind": "callable", "callable": "own:data", "arguments": arguments}
    assert sent(study_in(root, data=data), root) == ["helper.py", "labels.csv", "own.py"]


def test_what_is_too_large_to_be_code_stays(root: Path) -> None:
    (root / "package" / "table.bin").write_bytes(bytes(user_code.LARGEST_FILE + 1))
    code = user_code.user_code(study_in(root, student=NETWORK), root)
    assert code is not None and str(code).endswith("over 1 MB and left here: package/table.bin")


def test_nothing_goes_where_a_study_imports_nothing_from_there(root: Path) -> None:
    assert user_code.user_code(study_in(root, compare={"methods": ["ce"]}), root) is None
    (root / "own.py").unlink()  # so that it is an installed module, if any
    assert user_code.user_code(study_in(root), root) is None


def test_too_much_to_be_code_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_code, "LARGEST_CODE", 10)
    with pytest.raises(StudyError, match=r"helper\.py, own\.py are more than"):
        user_code.user_code(study_in(root), root)
