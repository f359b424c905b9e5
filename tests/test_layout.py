"""The tests' folders are those of the code: `kd_hpo/core/maps.py` has `tests/core/test_maps.py`, and no test file stands alone.

`test_maps_of_tokens.py` is the module's too: an aspect of it, where one file would be long.
"""

from pathlib import Path

import pytest

import kd_hpo

CODE, TESTS = Path(kd_hpo.__file__).parent, Path(__file__).parent
ROOMS = ["", "cli", "config", "core", "core/gaussian", "data", "distiller", "nets", "trial"]
ROOMS += [
    f"study/{room}" for room in ("store", "design", "results", "matrices", "report", "tracking", "cluster", "search", "run")
]
"""The rooms that are looked at; "" is the package's own folder."""

WITHOUT = {
    "config/data": "settings, as files give them: tests/config/test_read.py, test_paths.py",
    "config/directions": "settings, as files give them: tests/config/test_read.py",
    "config/explain": "the words of what is refused: tests/config/test_read.py, tests/test_sentences.py",
    "config/pairs": "settings, as files give them: tests/config/test_read.py, test_methods.py",
    "config/search": "settings, as files give them: tests/config/test_load.py, tests/study/search",
    "config/trial": "settings, as files give them: tests/config/test_read.py, test_methods.py",
    "config/wording": "the words of what is refused: tests/config/test_read.py",
    "config/yaml_source": "lines and limits of a file: tests/config/test_read.py, tests/security/test_fuzz.py",
    "data/arrays": "files of a cache that are broken: tests/security/test_no_code_from_data.py",
    "data/batches": "what trials see: tests/trial/test_passes_views.py, tests/data/test_augment.py",
    "data/content": "what the key of a data set holds: tests/data/test_callable_set.py",
    "data/images": "images of all kinds, read into the cache: tests/data/test_callable_set.py, test_image_folder.py",
    "data/items": "the items of a data set: tests/data/test_callable_set.py",
    "data/teacher_sample": "features that are checked at each start: tests/data/test_teacher_targets.py",
    "study/cluster/client": "a cluster for real: tests/service/test_cluster.py",
    "study/cluster/loopback": "what listens where: tests/security/test_listening.py",
    "study/cluster/prometheus": "what Grafana asks for: tests/docker/test_files.py, tests/service/test_cluster.py",
    "study/cluster/stopper": "a study that cannot go on: tests/study/run, tests/service/test_faults_disk.py",
    "study/report/colours": "the matrices that they are in: tests/study/report/test_matrix.py",
    "study/report/list_studies": "what `list` prints: tests/cli/test_records.py",
    "study/results/findings": "what `show` and `report` say: tests/study/report/test_report.py",
    "study/run/failure": "trials that raise: tests/study/run/test_worker.py",
    "study/run/phase": "trials by Ray for real: tests/service/test_study.py, tests/test_readme.py",
    "study/run/retry": "trials that run again: tests/service/test_study.py, tests/study/search",
    "study/store/lease": "who may write: tests/study/run/test_worker.py, tests/service/test_faults_nodes.py",
    "study/tracking/best_student": "models in MLflow: tests/study/tracking/test_overview.py",
    "study/tracking/sync": "MLflow kept up to date: tests/study/tracking/test_runs.py, test_tracker.py",
    "study/tracking/uri": "where MLflow is: tests/study/tracking/test_mlflow_tracker.py, tests/security/test_secrets.py",
    "cli/guard": "ends processes for real: tests/dashboards/test_ui.py",
    "cli/servers": "starts servers for real: tests/dashboards/test_ui.py",
    "cli/entry": "the command without what it needs: tests/test_light.py",
    "distiller/needs": "what is refused: tests/distiller/test_distiller.py, tests/test_sentences.py",
    "distiller/parts": "the same steps as a trial's: tests/distiller/test_distiller.py",
    "distiller/problem": "the same: tests/distiller/test_distiller.py",
    "distiller/settings": "what is refused: tests/distiller/test_distiller.py",
    "distiller/steps": "the same steps as a trial's: tests/distiller/test_distiller.py",
    "nets/inputs": "networks that read tensors, mappings and tuples: tests/distiller/test_networks.py",
    "nets/precision": "a protocol: tests/distiller/test_networks.py",
    "nets/teacher_view": "what targets hold: tests/data/test_teacher_targets.py",
    "nets/weights_file": "what is found in files: tests/nets/test_weights.py",
    "trial/inner": "the step as a direction sees it, against central differences: tests/trial/test_steps.py",
    "trial/learning": "lambda's learning against the formulas, step by step: tests/trial/test_steps.py",
    "trial/pair_term": "the step's gradient, against central differences: tests/trial/test_steps.py",
    "trial/parts": "what is prepared, as trials read it: tests/trial/test_teacher.py, test_given_teacher.py, tests/data",
    "trial/prepare": "the same, with assistants: tests/trial/test_assistants.py",
    "trial/problem": "what a trial and a loop of one's own are: tests/trial/test_steps.py, tests/distiller/test_distiller.py",
    "trial/rehearsal": "first steps before anything is trained: tests/trial/test_check.py",
    "trial/run": "the door of the loop: tests/trial/test_loop.py",
    "trial/start": "a trial at its start: tests/trial/test_steps.py",
}
"""Modules without a test file of their name, and where they are tested."""

OF_NO_MODULE = {
    "test_docs": "the reference that pdoc makes",
    "test_floors": "imports between rooms",
    "test_layout": "this file",
    "test_light": "the library with its light dependencies alone",
    "test_own_loop": "the examples of studies/own_loop",
    "test_package": "wheel and sources",
    "test_readme": "commands and code of the README",
    "test_sentences": "the words of every error",
    "test_tour": "the notebook",
}
"""Test files of what is no module."""


def modules(room: str) -> set[str]:
    return {path.stem for path in (CODE / room).glob("*.py")} - {"__init__"}


def files_of_tests(room: str) -> set[str]:
    return {path.stem for path in (TESTS / room).glob("test_*.py")}


def of(file: str, names: set[str]) -> str | None:
    """The module that a test file is of: the longest name that it starts with."""
    found = [name for name in names if f"{file}_".startswith(f"test_{name}_")]
    return max(found, key=len, default=None)


def test_the_longest_name_counts() -> None:
    assert of("test_pair_losses", {"pair", "pair_losses"}) == "pair_losses"
    assert of("test_maps_of_tokens", {"maps", "map"}) == "maps"
    assert of("test_mapsy", {"maps"}) is None


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_has_its_test_file(room: str) -> None:
    names = modules(room)
    tested = {of(file, names) for file in files_of_tests(room)}
    missing = [f"{room}/{name}".strip("/") for name in sorted(names - tested)]
    unexplained = [name for name in missing if name not in WITHOUT]
    assert not unexplained, f"without a test file of their name: {unexplained}; write tests/{room}/test_NAME.py"


@pytest.mark.parametrize("room", ROOMS)
def test_every_test_file_has_its_module(room: str) -> None:
    names = modules(room)
    alone = {file for file in files_of_tests(room) if of(file, names) is None} - (set() if room else OF_NO_MODULE.keys())
    assert not alone, f"tests/{room} has {sorted(alone)}, and kd_hpo/{room} has no such modules: move or rename them"


def test_exceptions_are_still_needed() -> None:
    for name in WITHOUT:
        room, _, module = name.rpartition("/")
        assert module in modules(room), f"{name} is gone"
        assert module not in {of(file, modules(room)) for file in files_of_tests(room)}, f"{name} has a test file now"
    assert OF_NO_MODULE.keys() <= files_of_tests("")
