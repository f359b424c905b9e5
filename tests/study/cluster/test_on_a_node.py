"""What a study has a node compute, on a Ray that is stood in for; tests/service/test_cluster.py has a real one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from kd_hpo.errors import DataError, Note, StudyError
from kd_hpo.study.cluster import on_a_node as module
from kd_hpo.study.cluster.on_a_node import Progress, on_a_node
from tests.conftest import digits_study


class Lines(list[str]):
    """In the place of Ray's queue."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    put = list.append

    def qsize(self) -> int:
        return len(self)

    def get_nowait_batch(self, count: int) -> list[str]:
        taken, self[:] = self[:count], self[count:]
        return taken

    def shutdown(self, force: bool) -> None: ...


class Ray:
    """In the place of Ray: what is called runs at once, and is lost as often as `lost` says."""

    def __init__(self, lost: int = 0) -> None:
        self.lost, self.asked, self.cancelled = lost, list[dict[str, Any]](), list[object]()

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        self.asked.append(options)
        return lambda called: type("Remote", (), {"remote": staticmethod(lambda *given: (called, given))})

    def wait(self, running: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        called, given = running[0]
        try:
            self.ended: object = called(*given)
        except Exception as error:
            self.ended = RayTaskError("called", "a traceback", error)
        return running, []

    def get(self, running: Any) -> Any:
        if self.lost:
            self.lost -= 1
            raise WorkerCrashedError
        if isinstance(self.ended, Exception):
            raise self.ended
        return self.ended

    def cancel(self, running: object) -> None:
        self.cancelled.append(running)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    stand_in = Ray()
    monkeypatch.setattr(module, "ray", stand_in)
    monkeypatch.setattr(module, "Queue", Lines)
    return stand_in


RESOURCES = {"address": "auto", "cpus_per_trial": 3, "gpus_per_trial": 0.5, "custom_per_trial": {"large": 1}, "max_failures": 2}


def work(tell: Progress) -> str:
    tell("training the teacher: epoch 1 of 2")
    tell("training the teacher: epoch 2 of 2")
    return "made"


def test_it_has_what_a_trial_has_and_its_words_come_back(tmp_path: Path, ray: Ray) -> None:
    told = list[str]()
    assert on_a_node(digits_study(tmp_path, resources=RESOURCES), work, told.append) == "made"
    assert ray.asked == [{"num_cpus": 3, "num_gpus": 0.5, "resources": {"large": 1}, "max_retries": 0}]
    assert told == ["training the teacher: epoch 1 of 2", "training the teacher: epoch 2 of 2"]


def test_what_is_lost_is_computed_again_as_often_as_a_trial(tmp_path: Path, ray: Ray) -> None:
    study, told = digits_study(tmp_path, resources=RESOURCES), list[str]()
    ray.lost = 2
    assert on_a_node(study, work, told.append) == "made"
    assert sum(isinstance(words, Note) and "it is computed again" in words for words in told) == 2
    ray.lost = 3
    with pytest.raises(StudyError, match=r"a node has lost what it computed .*look at its memory"):
        on_a_node(study, work, told.append)


def test_its_own_error_is_the_studys_and_is_not_tried_again(tmp_path: Path, ray: Ray) -> None:
    called = list[object]()

    def refused(tell: Progress) -> None:
        called.append(tell)
        raise DataError("there are no images")

    with pytest.raises(DataError, match=r"^there are no images$"):
        on_a_node(digits_study(tmp_path, resources=RESOURCES), refused, lambda _: None)
    assert len(called) == 1


def test_an_interrupt_here_interrupts_it_there(tmp_path: Path, ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, timeout: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        on_a_node(digits_study(tmp_path, resources=RESOURCES), work, lambda _: None)
    assert len(ray.cancelled) == 1
