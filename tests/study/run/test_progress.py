"""What a person sees of a phase."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kd_hpo.config.task import Classification
from kd_hpo.study.cluster.stopper import StudyStopper
from kd_hpo.study.run.failure import failure_line
from kd_hpo.study.run.progress import ProgressReporter
from kd_hpo.study.run.status_keeper import StatusKeeper
from kd_hpo.study.search.method_search import EPOCH
from kd_hpo.study.store.folder import State, StudyFolder, TrialSpec, TrialStatus
from tests.study.helpers import record

METRIC = Classification.goal.on("val")


class RayTrial:
    """The part of Ray's trial that the board looks at."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.spec = TrialSpec(id=name, kind="search", method="learned", seed=0)
        self.config = {"spec": self.spec.model_dump(mode="json")}
        self._error, self.error_file = error, None

    def get_error(self) -> Exception | None:
        return self._error


class Phase:
    """A board over a folder; `told` is all that it has printed."""

    def __init__(self, folder: StudyFolder, *, terminal: bool = False, width: int = 200, each_epoch: bool = False) -> None:
        self.folder, self._file = folder, StringIO()
        self._console = Console(
            file=self._file, width=width, height=20, force_terminal=terminal, color_system=None, _environ={"TERM": "xterm"}
        )
        layers = ["conv1", "blocks.0[x]\x1b", "fc"], ["conv1", "fc"]
        self.keeper = StatusKeeper(folder, StudyStopper())
        self.board = ProgressReporter(
            self._console,
            "search",
            folder,
            self.keeper,
            goal=Classification.goal,
            trials=4,
            epochs=10,
            layers=layers,
            each_epoch=each_epoch,
        )

    @property
    def told(self) -> str:
        return self._file.getvalue()

    @property
    def line(self) -> str:
        return self.board._line().plain

    @property
    def view(self) -> list[str]:
        """The lines of the live view."""
        with self._console.capture() as captured:
            self._console.print(self.board._view())
        return [line.rstrip() for line in captured.get().splitlines()]

    def start(self, trial: RayTrial) -> None:
        self.folder.write_status(TrialStatus(spec=trial.spec, state="running"))
        self.board.on_trial_start(0, [], trial)

    def report(self, trial: RayTrial, epoch: int, accuracy: float) -> None:
        for callback in (self.keeper, self.board):
            callback.on_trial_result(0, [], trial, {EPOCH: epoch, METRIC: accuracy})

    def complete(self, trial: RayTrial, state: State, message: str = "") -> None:
        self.folder.write_status(TrialStatus(spec=trial.spec, state=state, message=message))
        for callback in (self.keeper, self.board):
            callback.on_trial_complete(0, [], trial)

    def fail(self, trial: RayTrial) -> None:
        for callback in (self.keeper, self.board):
            callback.on_trial_error(0, [], trial)


@pytest.fixture
def phase(tmp_path: Path) -> Phase:
    return Phase(StudyFolder(tmp_path))


def test_trials_are_counted_by_state_and_the_best_is_kept(phase: Phase) -> None:
    one, two, three, four = (RayTrial(f"trial-00{i}") for i in range(4))
    for trial in (one, two, three):
        phase.start(trial)
    assert phase.line.startswith("search  0/4 trials: 3 running, 0 completed, 0 stopped, 0 failed  0:00")
    phase.report(one, 1, 0.5)
    phase.report(two, 1, 0.75)
    phase.report(one, 2, 0.6)
    assert "best 0.7500 (trial-001)" in phase.line
    assert ", about 0:00 left" in phase.line
    phase.complete(one, "completed")
    phase.complete(two, "failed", "it diverged")
    phase.complete(three, "running")
    phase.start(four)
    assert phase.line.startswith("search  3/4 trials: 1 running, 1 completed, 1 stopped, 1 failed  best 0.6000 (trial-000)")


def test_best_trial_is_the_one_that_is_highest_after_its_last_epoch(phase: Phase) -> None:
    one, two = (RayTrial(f"trial-00{i}") for i in range(2))
    for trial, accuracies in ((one, (0.9, 0.5)), (two, (0.6, 0.7))):
        phase.start(trial)
        for epoch, accuracy in enumerate(accuracies, 1):
            phase.report(trial, epoch, accuracy)
    assert "best 0.7000 (trial-001)" in phase.line


def test_message_of_a_failed_trial_is_told_at_once(phase: Phase) -> None:
    trial = RayTrial("trial-003")
    phase.start(trial)
    phase.complete(trial, "failed", "the loss is not finite [at step 3]")
    assert phase.told == "trial-003 failed: the loss is not finite [at step 3]\n"
    log = phase.folder.log("trial-003")
    log.touch()
    assert failure_line(phase.folder, phase.keeper.end_of("trial-003")).endswith(f"step 3]; its log is {log}")


def test_log_gets_a_line_at_the_end_and_a_terminal_a_live_one(tmp_path: Path) -> None:
    plain, live = Phase(StudyFolder(tmp_path / "a")), Phase(StudyFolder(tmp_path / "b"), terminal=True)
    for phase in (plain, live):
        with phase.board:
            phase.start(RayTrial("trial-000"))
    assert plain.told.count("\n") == 1 and plain.told.startswith("search  0/4 trials: 1 running")
    assert "\x1b[" in live.told and "search  0/4 trials: 1 running" in live.told


def test_error_of_a_process_is_told_and_counted(phase: Phase) -> None:
    trial = RayTrial("trial-000", RuntimeError("no space left on device"))
    phase.start(trial)
    phase.fail(trial)
    assert phase.told == "trial-000 failed: no space left on device\n"
    assert "0 running, 0 completed, 0 stopped, 1 failed" in phase.line


def test_end_that_could_not_be_written_is_told_all_the_same(phase: Phase) -> None:
    """As on a full disk, where the phase is over."""
    (phase.folder.root / "trials").write_text("no folder")
    phase.fail(RayTrial("trial-000", RuntimeError("no module named x")))
    assert phase.told == "trial-000 failed: no module named x\n"
    assert "1 failed" in phase.line and phase.board.halt.stop_all()


def test_reporter_writes_nothing(phase: Phase) -> None:
    """It shows what it is told: what a trial has come to is for the keeper to decide."""
    trial = RayTrial("trial-000")
    phase.start(trial)
    before = {path: path.read_bytes() for path in phase.folder.root.rglob("*") if path.is_file()}
    phase.board.on_trial_result(0, [], trial, {EPOCH: 1, METRIC: 0.5})
    phase.board.on_trial_complete(0, [], trial)
    phase.board.on_trial_error(0, [], trial)
    assert {path: path.read_bytes() for path in phase.folder.root.rglob("*") if path.is_file()} == before


def test_board_stands_in_for_rays_own_printer(phase: Phase, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray adds one that prints of trials without results, unless it finds one among the callbacks."""
    from ray.tune.progress_reporter import TrialProgressCallback
    from ray.tune.utils.callback import _create_default_callbacks

    callbacks: list[Any] = _create_default_callbacks([phase.board], air_verbosity=None)
    assert [c for c in callbacks if isinstance(c, TrialProgressCallback)] == [phase.board]
    trial = RayTrial("trial-000")
    phase.start(trial)
    phase.complete(trial, "failed", "why")
    assert capsys.readouterr().out == ""


def test_live_view_has_the_running_trials_the_best_one_and_its_pairs(tmp_path: Path) -> None:
    phase = Phase(StudyFolder(tmp_path), terminal=True, width=80)
    assert phase.view[-1] == "the processes of the trials are starting"
    one, two = RayTrial("trial-000"), RayTrial("trial-001")
    phase.start(one)
    assert phase.view[-1] == "no trial has come to the end of its first epoch yet"
    phase.start(two)
    phase.folder.write_records("trial-001", [record(3, 0.8123, ((0.0, 0.1), (0.7, 0.0), (0.2, 0.0)))])
    phase.report(one, 1, 0.5)
    phase.report(two, 3, 0.8123)
    view = phase.view
    assert view[0].startswith("search  ━") and "0/4 trials  0:00, about 0:00 left" in view[0]
    assert view[1] == "2 running, 0 completed, 0 stopped, 0 failed"
    rows = [line.split() for line in view if line.startswith("trial-")]
    assert [(row[0], row[1], row[-1]) for row in rows] == [("trial-000", "1/10", "0.5000"), ("trial-001", "3/10", "0.8123")]
    assert view[-4:] == [
        "best so far 0.8123 by trial-001, whose strongest pairs are",
        "0.700  blocks.0[x]\\x1b -> conv1",
        "0.200  fc -> conv1",
        "0.100  conv1 -> fc",
    ]
    phase.complete(two, "completed")
    assert [line.split()[0] for line in phase.view if line.startswith("trial-")] == ["trial-000"]
    assert max(map(len, view)) <= 80


def test_long_names_of_layers_are_cut_and_leave_the_weights(tmp_path: Path) -> None:
    phase = Phase(StudyFolder(tmp_path), terminal=True, width=30)
    trial = RayTrial("trial-000")
    phase.start(trial)
    phase.folder.write_records("trial-000", [record(1, 0.5, ((0.0, 0.0), (0.7, 0.0), (0.3, 0.0)))])
    phase.board._layers = ["conv1", "layer3.a.very.long.path.of.a.block", "fc"], ["conv1", "fc"]
    phase.report(trial, 1, 0.5)
    assert phase.view[-2:] == ["0.700  la….block -> conv1", "0.300  fc -> conv1"]


def test_live_view_of_more_trials_than_there_are_lines(tmp_path: Path) -> None:
    phase = Phase(StudyFolder(tmp_path), terminal=True)
    for i in range(30):
        phase.start(RayTrial(f"trial-{i:03d}"))
    assert len([line for line in phase.view if line.startswith("trial-")]) == 9
    assert "and 21 more" in phase.view
    assert len(phase.view) <= 20


def test_best_trial_without_a_matrix_or_with_other_layers_shows_no_pairs(phase: Phase) -> None:
    one, two = RayTrial("trial-000"), RayTrial("trial-001")
    phase.folder.write_records("trial-001", [record(1, 0.6, ((0.5, 0.5),))])
    for trial, accuracy in ((one, 0.5), (two, 0.6)):
        phase.start(trial)
        phase.report(trial, 1, accuracy)
        assert phase.view[-1] == f"best so far {accuracy:.4f} by {trial.spec.id}"


def test_verbose_tells_each_epoch_and_has_no_live_view(tmp_path: Path) -> None:
    phase = Phase(StudyFolder(tmp_path), terminal=True, each_epoch=True)
    with phase.board:
        trial = RayTrial("trial-000")
        phase.start(trial)
        phase.report(trial, 1, 0.5)
    assert phase.told.splitlines()[0] == "trial-000: epoch 1 of 10, accuracy on val 0.5000"
    assert len(phase.told.splitlines()) == 2 and "\x1b[" not in phase.told


def test_time_left_is_reckoned_from_the_first_result(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes take 60 s to start; then an epoch takes 2 s: 8 of the first trial's and 3 whole trials are left."""
    now = [phase.board._started]
    monkeypatch.setattr("kd_hpo.study.run.progress.time.monotonic", lambda: now[0])
    trial = RayTrial("trial-000")
    phase.start(trial)
    now[0] += 60
    phase.report(trial, 1, 0.5)
    assert "left" not in phase.line
    now[0] += 2
    phase.report(trial, 2, 0.5)
    assert phase.line.endswith("1:02, about 1:16 left")  # 2 s x (8 + 3 x 10)


def test_time_left_counts_what_ended_trials_took_and_what_running_ones_have_to_go(
    phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of four trials completes its 10 epochs, one is stopped after 2, one has come to 4: 16 epochs, 15 of them after the
    first result, in 60 s, or 4 s each. The running one has 6 to go, and the fourth 16 / 3, the mean of those before it."""
    now = [phase.board._started]
    monkeypatch.setattr("kd_hpo.study.run.progress.time.monotonic", lambda: now[0])
    one, two, three = (RayTrial(f"trial-00{i}") for i in range(3))
    for trial in (one, two, three):
        phase.start(trial)
    now[0] += 5
    phase.report(one, 1, 0.5)
    now[0] += 60
    for trial, epoch in ((one, 10), (two, 2), (three, 4)):
        phase.report(trial, epoch, 0.5)
    phase.complete(one, "completed")
    phase.complete(two, "stopped")
    assert phase.board._seconds_left() == pytest.approx(60 / 15 * (6 + 16 / 3))
    assert phase.line.endswith("1:05, about 0:45 left")
    phase.complete(three, "stopped")
    assert phase.board._seconds_left() == pytest.approx(60 / 15 * 16 / 3)


def test_bar_of_the_live_view_is_as_full_as_the_epochs_that_are_done(tmp_path: Path) -> None:
    """20 of 40 epochs: two trials of four have completed, and none runs."""
    phase = Phase(StudyFolder(tmp_path), terminal=True, width=80)
    for trial in (RayTrial("trial-000"), RayTrial("trial-001")):
        phase.start(trial)
        phase.report(trial, 10, 0.5)
        phase.complete(trial, "completed")
    assert phase.board._epochs_left() == 20
