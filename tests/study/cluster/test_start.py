"""Processes of trials find files and modules as the driver does."""

import os
from pathlib import Path

import pytest
import ray
from rich.console import Console

from kd_hpo.study.cluster.connection import ray_running
from kd_hpo.study.cluster.start import go_to_start, starting_in
from tests.conftest import digits_study


def test_the_driver_is_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyboardInterrupt), starting_in(tmp_path / "empty"):
        assert Path.cwd() == tmp_path / "empty"
        go_to_start()
        assert Path.cwd() == tmp_path
        raise KeyboardInterrupt
    assert Path.cwd() == tmp_path
    go_to_start()  # nobody has said where
    assert Path.cwd() == tmp_path


@pytest.mark.service
def test_a_trial_opens_what_lies_where_the_study_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> tuple[str, str, str]:
        from kd_hpo.callables import import_callable
        from kd_hpo.study.cluster.start import go_to_start

        go_to_start()
        import profile

        return str(Path.cwd()), str(profile.__file__), import_callable("own_code_of_a_trial:read")()

    (tmp_path / "profile.py").write_text("1 / 0\n")
    (tmp_path / "labels.csv").write_text("of the user")
    (tmp_path / "own_code_of_a_trial.py").write_text("def read():\n    return open('labels.csv').read()\n")
    monkeypatch.chdir(tmp_path)
    with ray_running(digits_study(tmp_path / "runs"), Console(quiet=True)):
        here, profile, read = ray.get(ray.remote(look).remote())
    assert (here, read) == (str(tmp_path), "of the user")
    assert Path(profile).is_relative_to(os.path.realpath(Path(os.__file__).parent))
