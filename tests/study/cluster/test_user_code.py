"""Which files of one's own go to the nodes of a cluster."""

from pathlib import Path

import pytest

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.cluster import user_code
from kd_hpo.study.cluster.user_code import user_modules
from tests.conftest import digits_study


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("own.py", "package/net.py", "package/words.txt", "runs/cache/images.npy", ".git/config", "venv/pyvenv.cfg",
                 "venv/lib/module.py", "images/cat/1.png", "package/__pycache__/net.pyc", ".secret",
                 "docker/secrets/token", "id_rsa", "server.pem", "mlflow.db"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def study_in(root: Path, **changes: object) -> StudyConfig:
    own = {"name": "mine", "base": "hetero", "set": {"pairs.loss": {"kind": "callable", "callable": "own:loss"}}}
    data = {"kind": "image_folder", "path": str(root / "images")}
    return digits_study(root / "runs", **({"data": data, "compare": {"methods": [own]}} | changes))


def test_modules_are_found_wherever_a_study_names_them(root: Path) -> None:
    network = {"network": {"name": "package.net:small"}, "layers": ["a"]}
    tracking = {"uri": "http://mlflow:5000"}
    assert user_modules(study_in(root, student=network, tracking=tracking)) == ["own", "package"]
    assert user_modules(study_in(root, compare={"methods": ["ce"]})) == []


def test_code_goes_and_data_runs_keys_and_hidden_files_stay(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (root / "table.bin").write_bytes(bytes(user_code.LARGEST_FILE + 1))
    code = user_code.user_code(study_in(root), root)
    assert code is not None
    assert [str(file.relative_to(root)) for file in code.files] == ["own.py", "package/net.py", "package/words.txt"]
    assert str(code).startswith("3 files, 0 kB, of ") and str(code).endswith("over 1 MB and left here: table.bin")
    there = tmp_path_factory.mktemp("there")
    code.copy_to(there)
    assert (there / "package" / "net.py").read_text() == "package/net.py"


def test_nothing_goes_where_a_study_imports_nothing_from_there(root: Path) -> None:
    assert user_code.user_code(study_in(root, compare={"methods": ["ce"]}), root) is None
    (root / "own.py").unlink()  # so that it is an installed module, if any
    assert user_code.user_code(study_in(root), root) is None


def test_too_much_to_be_code_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_code, "LARGEST_CODE", 10)
    with pytest.raises(StudyError, match=r"small files there are more than .* start kd-hpo in a folder of the code alone$"):
        user_code.user_code(study_in(root), root)
