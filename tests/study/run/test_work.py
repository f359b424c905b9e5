"""Where a study computes: in this process on this machine, never on the driver of a cluster."""

import ast
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch

from kd_hpo.errors import ConfigError
from kd_hpo.study.run import driver
from kd_hpo.study.run import work as module
from kd_hpo.study.run.work import Work, computing
from kd_hpo.trial import data
from tests.conftest import digits_study

GPU_NODE = threading.local()
"""Whether this process stands for a node with an accelerator."""


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A cluster whose head has no accelerator: `device: cuda` is refused but on its node, which computes on the CPU here."""
    steps = list[str]()

    def on_node(study: Any, work: Callable[[Any], Any], tell: Any) -> Any:
        GPU_NODE.here, threads = True, torch.get_num_threads()
        try:
            steps.append(f"{torch.get_num_threads()}")
            there = cloudpickle.loads(cloudpickle.dumps(work))
            return cloudpickle.loads(cloudpickle.dumps(there(tell)))
        finally:
            GPU_NODE.here = False
            torch.set_num_threads(threads)

    def device(name: str) -> torch.device:
        if not getattr(GPU_NODE, "here", False):
            raise ConfigError("device: cuda was asked for, but torch sees no CUDA device here")
        return torch.device("cpu")

    monkeypatch.setattr(module, "on_a_node", on_node)
    monkeypatch.setattr(data, "choose_device", device)
    yield steps


def test_a_driver_without_an_accelerator_has_all_of_it_computed_on_a_node(
    tmp_path: Path, cache: Path, far_away: list[str]
) -> None:
    (tmp_path / "cache").symlink_to(cache)  # with a teacher
    study = digits_study(tmp_path, resources={"address": "auto"}, device="cuda")
    compute, told = computing(study), list[str]()
    looked = compute(Work.look, told.append)
    assert (looked.teacher, looked.student) == (("conv1", "conv2", "fc"), ("conv1", "fc")) and looked.shape == (3, 2)
    compute(Work.make_ready, told.append, new=True, trials=True)
    assert "reading the teacher's features" in told
    shared = compute(Work.score_on_test, told.append)
    assert 0 <= shared.teacher["test"] <= 1 and shared.splits["train"][0] == study.splits.train
    compute(Work.export_best_student, told.append)
    assert len(far_away) == 4
    with pytest.raises(ConfigError, match="no CUDA"):
        Work(study).look(told.append)


def test_on_this_machine_the_teacher_is_prepared_once_and_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, made = digits_study(tmp_path), list[object]()
    monkeypatch.setattr(module, "on_a_node", lambda *_: pytest.fail("asked a node"))
    monkeypatch.setattr(module, "prepare", lambda *given: made.append(given) or object())
    monkeypatch.setattr(module, "open_test_split", lambda *_: None)
    monkeypatch.setattr(module, "shared_scores", lambda prepared: prepared)
    compute = computing(study)
    compute(Work.make_ready, lambda _: None, new=False, trials=False)
    assert compute(Work.score_on_test, lambda _: None) is compute(Work.score_on_test, lambda _: None)
    assert len(made) == 1


def test_the_driver_itself_has_nothing_that_computes() -> None:
    tree = ast.parse(Path(driver.__file__).read_text())
    told = [each for node in tree.body if isinstance(node, ast.If) for each in ast.walk(node)]  # `if TYPE_CHECKING`
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node not in told]
    computing_rooms = ("torch", "kd_hpo.core", "kd_hpo.nets", "kd_hpo.data", "kd_hpo.trial")
    assert [name for name in imported if name.startswith(computing_rooms)] == []
