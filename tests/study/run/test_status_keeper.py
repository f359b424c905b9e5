"""What the driver writes of trials that cannot write themselves."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest

from kd_hpo.study.cluster.memory import NodeMemory
from kd_hpo.study.cluster.stopper import StudyStopper
from kd_hpo.study.run.status_keeper import StatusKeeper
from kd_hpo.study.search.method_search import EPOCH
from kd_hpo.study.store.folder import State, StudyFolder, TrialStatus
from kd_hpo.study.store.lease import Lease, Superseded
from tests.study.run.test_progress import RayTrial


class Kept:
    """A keeper over a folder."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder, self.keeper = folder, StatusKeeper(folder, StudyStopper())

    def start(self, trial: RayTrial) -> None:
        self.folder.write_status(TrialStatus(spec=trial.spec, state="running"))


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(StudyFolder(tmp_path))


def test_trial_that_ray_completes_while_it_runs_is_stopped_by_the_scheduler(kept: Kept) -> None:
    trial = RayTrial("trial-000")
    kept.start(trial)
    kept.keeper.on_trial_result(0, [], trial, {EPOCH: 3, "val/accuracy": 0.5})
    kept.keeper.on_trial_complete(0, [], trial)
    status = kept.folder.status("trial-000")
    assert status is not None and (status.state, status.message) == ("stopped", "after epoch 3, by the scheduler")
    assert kept.keeper.end_of("trial-000") == status


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Traceback\n  File x\nOSError: no space left on device\n\n"), "OSError: no space left on device"),
        (None, "its process ended without a word"),
    ],
)
def test_error_of_a_process_fails_its_trial(kept: Kept, error: Exception | None, words: str) -> None:
    trial = RayTrial("trial-000", error)
    kept.start(trial)
    kept.keeper.on_trial_error(0, [], trial)
    assert kept.folder.status("trial-000") == TrialStatus(spec=trial.spec, state="failed", message=words)
    assert kept.keeper.end_of("trial-000") == kept.folder.status("trial-000")


DIED = """Failure # 1 (occurred at 2026-11-30_19-34-09)
The actor died unexpectedly before finishing this task.
Worker exit type: SYSTEM_ERROR The actor is dead because its worker process has died. Worker exit detail: End of file.
"""


@pytest.mark.parametrize(
    ("kills", "words", "of_memory"),
    [
        ((3, 4), r"^killed by the system \(SIGKILL\) as memory ran out: its node has 8\.0 GB .*training\.batch_size", True),
        ((3, 3), r"^its process ended without a word: killed from outside \(SIGKILL\)", False),
        ((3, None), r"most often SIGKILL as memory ran out, which its node can tell no more; its node has 8\.0 GB", False),
    ],
)
def test_a_killed_process_is_told_with_signal_memory_and_remedy(
    tmp_path: Path, kills: tuple[int, int | None], words: str, of_memory: bool
) -> None:
    then, now = (NodeMemory(limit_bytes=8 * 10**9, kills=count, node="red") for count in kills)
    folder, trial, asked = StudyFolder(tmp_path), RayTrial("trial-000"), list[str]()
    trial.error_file = str(tmp_path / "error.txt")
    Path(trial.error_file).write_text(DIED)
    folder.write(folder.trial("trial-000") / ".memory", then.model_dump_json())

    def memory(node: str) -> NodeMemory | None:
        asked.append(node)
        return now if now.kills is not None else None

    keeper = StatusKeeper(folder, StudyStopper(), memory)
    keeper.on_step_begin(0, [trial])
    keeper.given_up("trial-000")  # by the search, which learns from it
    status = folder.status("trial-000")
    assert status is not None and re.search(words, status.message) and "\n" not in status.message
    assert (status.state, status.of_settings, asked) == ("failed", of_memory, ["red"])
    keeper.on_trial_error(0, [trial], trial)
    assert keeper.end_of("trial-000") == status and asked == ["red"]


def test_a_gpu_without_memory_left_is_told_with_the_remedy_and_is_of_the_settings(kept: Kept) -> None:
    trial = RayTrial("trial-000")
    kept.start(trial)
    said = "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB (conv.py:3, in f)"
    kept.folder.write_status(TrialStatus(spec=trial.spec, state="running", message=said))
    kept.keeper.on_trial_error(0, [], trial)
    status = kept.folder.status("trial-000")
    assert status is not None and status.of_settings
    assert status.message.startswith(said) and "resources.concurrent_trials" in status.message


def test_what_the_trial_wrote_of_its_error_is_kept(kept: Kept) -> None:
    trial = RayTrial("trial-000")
    kept.start(trial)
    kept.folder.write_status(TrialStatus(spec=trial.spec, state="running", message="ValueError: odd (own.py:3, in f)"))
    kept.keeper.on_trial_error(0, [], trial)
    status = kept.folder.status("trial-000")
    assert status is not None and (status.state, status.message) == ("failed", "ValueError: odd (own.py:3, in f)")


def test_error_before_the_trial_wrote_anything_fails_it_too(kept: Kept) -> None:
    trial = RayTrial("trial-000", RuntimeError("no module named x"))
    kept.keeper.on_trial_error(0, [], trial)
    status = kept.folder.status("trial-000")
    assert status is not None and (status.state, status.message) == ("failed", "no module named x")


def test_process_that_ray_has_given_up_cannot_change_the_end(kept: Kept) -> None:
    trial = RayTrial("trial-000")
    kept.start(trial)
    lost = Lease.begin(kept.folder.trial("trial-000"))
    kept.keeper.on_trial_error(0, [], trial)
    with pytest.raises(Superseded):
        replace(kept.folder, write=lost.write).write_status(TrialStatus(spec=trial.spec, state="completed"))
    status = kept.folder.status("trial-000")
    assert status is not None and status.state == "failed"


def test_what_the_driver_cannot_write_halts_the_phase(kept: Kept) -> None:
    trial = RayTrial("trial-000")
    (kept.folder.root / "trials").write_text("no folder")
    assert not kept.keeper.stopper.stop_all()
    kept.keeper.on_trial_error(0, [], trial)
    assert kept.keeper.stopper.stop_all()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        kept.keeper.stopper.raise_error()


@pytest.mark.parametrize("how", ["on_trial_complete", "on_trial_error"])
def test_trial_that_ray_ends_since_the_phase_cannot_go_on_has_not_ended(kept: Kept, how: str) -> None:
    trial = RayTrial("trial-000", RuntimeError("no room"))
    kept.start(trial)
    kept.keeper.stopper.error = OSError("no room")
    getattr(kept.keeper, how)(0, [], trial)
    status = kept.folder.status("trial-000")
    assert status is not None and status.state == "running"


def test_error_after_the_end_does_not_change_the_end(kept: Kept) -> None:
    trial = RayTrial("trial-000", RuntimeError("killed"))
    kept.start(trial)
    kept.folder.write_status(TrialStatus(spec=trial.spec, state="completed"))
    kept.keeper.on_trial_error(0, [], trial)
    status = kept.folder.status("trial-000")
    assert status is not None and status.state == "completed"


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_end_that_the_trial_wrote_itself_stands(kept: Kept, state: State) -> None:
    trial = RayTrial("trial-000")
    kept.start(trial)
    wrote = TrialStatus(spec=trial.spec, state=state, message="as it says", duration_s=3.0)
    kept.folder.write_status(wrote)
    kept.keeper.on_trial_complete(0, [], trial)
    assert kept.folder.status("trial-000") == wrote == kept.keeper.end_of("trial-000")


def test_ray_can_keep_a_copy_of_it(kept: Kept) -> None:
    """On its disk; nothing of the study is in there."""
    assert isinstance(pickle.loads(pickle.dumps(kept.keeper)), StatusKeeper)
