"""How many trials the nodes of a cluster run at once, and which of them."""

import gc
from pathlib import Path
from typing import Any

import pytest

from kd_hpo.errors import StudyError
from kd_hpo.study.cluster.connection import nodes_for_trials, resources_of_trial, shut_down, slots
from tests.conftest import digits_study


def node(name: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": f"id-{name}", "NodeName": name, "Alive": alive, "Resources": resources}


NODES = [
    node("head", memory=1e9),
    node("big", CPU=8, GPU=2, fast=4),
    node("small", CPU=3),
    node("lost", alive=False, CPU=64, GPU=8, fast=8),
]


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.nodes", lambda: NODES)


@pytest.mark.parametrize(("resources", "count", "names"), [
    ({}, 11, ["big", "small"]),
    ({"cpus_per_trial": 2}, 5, ["big", "small"]),
    ({"cpus_per_trial": 0.5, "gpus_per_trial": 0.25}, 8, ["big"]),
    ({"custom_per_trial": {"fast": 2}}, 2, ["big"]),
])  # fmt: skip
def test_a_trial_has_all_that_it_wants_on_one_node(
    tmp_path: Path, resources: dict[str, object], count: int, names: list[str]
) -> None:
    study = digits_study(tmp_path, resources=resources)
    assert slots(study) == count
    assert nodes_for_trials(study) == {f"id-{name}": name for name in names}


def test_ray_reserves_custom_resources_by_their_names(tmp_path: Path) -> None:
    study = digits_study(tmp_path, resources={"cpus_per_trial": 2, "custom_per_trial": {"fast": 0.5}})
    assert resources_of_trial(study) == {"cpu": 2, "gpu": 0, "fast": 0.5}


def test_trial_that_fits_on_no_node_is_told(tmp_path: Path) -> None:
    """The two nodes together would have 11 CPUs."""
    with pytest.raises(StudyError) as told:
        slots(digits_study(tmp_path, resources={"cpus_per_trial": 9, "custom_per_trial": {"fast": 1}}))
    assert str(told.value) == (
        "a trial wants 9 CPU and 0 GPU, 1 fast of one node, and no node has that (CPU and GPU of each: head 0 and 0; "
        "big 8 and 2; small 3 and 0); lower resources.cpus_per_trial or resources.gpus_per_trial, or join a larger cluster "
        "(resources.address)"
    )


def test_nothing_of_ray_is_left_to_be_collected_while_it_shuts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle that another thread collects meanwhile would end the process."""
    collected, seen = list[str](), list[object]()

    class Handle:
        def __init__(self) -> None:
            self.itself = self  # a cycle, as those of Ray's are in

        def __del__(self) -> None:
            collected.append("before" if not seen else "too late")

    def shutdown() -> None:
        seen.append(gc.isenabled())

    monkeypatch.setattr("ray.shutdown", shutdown)
    gc.disable()
    Handle()
    gc.enable()
    shut_down()
    assert (collected, seen, gc.isenabled()) == (["before"], [False], True)
