"""What every tracker must keep, whatever happens on the way."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from kd_hpo.config.data import Digits, SplitSizes
from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Classification
from kd_hpo.config.training import Training
from kd_hpo.config.trial import Network, Student, Teacher
from kd_hpo.study.results.comparison import Comparison
from kd_hpo.study.store.folder import StudyFolder, TrialAbout, TrialSpec, TrialStatus
from kd_hpo.study.tracking.sync import TrackerSync
from kd_hpo.study.tracking.tracker import Ending, KnownRun, Tracker, TrialRun
from kd_hpo.trial.result import EpochRecord, LayerRecord, Rows

MakeTracker = Callable[[StudyConfig], Tracker]

SPEC = TrialSpec(id="hetero-t000", kind="search", method="hetero", seed=3, settings={"kd.weight": 1.5})
OTHER = TrialSpec(id="hetero-t001", kind="search", method="hetero", seed=4, settings={"kd.weight": 0.5})
EPOCHS = 4
METRIC = Classification.goal.on("val")


@dataclass(frozen=True)
class StoredRun:
    """What a tracker shows of a trial."""

    trial: str
    state: str | None
    """As KnownRun has it."""
    accuracies: tuple[tuple[int, float], ...]
    """Epoch and accuracy on `val`, in the order of epochs, an epoch as often as it stands there."""


def record(epoch: int) -> EpochRecord:
    weights: Rows = ((0.25 + epoch / 100, 0.25), (0.25, 0.25 - epoch / 100))
    metrics = {METRIC: epoch / 10, Classification.loss.on("val"): 1 / epoch}
    return EpochRecord(epoch=epoch, metrics=metrics, weights=weights, scales=((1.0, 1.0), (1.0, 1.0)), held=epoch > 1)


RECORDS = tuple(record(epoch) for epoch in range(1, EPOCHS + 1))
TIMES = tuple(1_700_000_000_000 + 60_000 * record.epoch for record in RECORDS)
WHOLE = tuple((record.epoch, record.metrics[METRIC]) for record in RECORDS)


def small_study(runs: Path) -> StudyConfig:
    """A small study of networks that nothing here builds."""
    return StudyConfig(
        name="small",
        runs=runs,
        data=Digits(),
        splits=SplitSizes(train=240, outer=120, val=120, test=200),
        teacher=Teacher(network=Network(name="plain_conv"), layers=("conv1", "fc"), training=Training(epochs=1)),
        student=Student(network=Network(name="plain_conv"), layers=("conv1", "fc")),
        training=Training(epochs=EPOCHS),
    )


def about_of(study: StudyConfig) -> TrialAbout:
    layers = tuple(LayerRecord(name=name, shape=(4, 8, 8)) for name in ("conv1", "fc"))
    return TrialAbout(
        config=study.trial(),
        teacher_layers=layers,
        student_layers=layers,
        split_digests={"train": "a", "outer": "b", "val": "c", "test": "d"},
        teacher_digest="t" * 64,
        data_name="digits",
        data_digest="d" * 64,
        versions={"python": "3.11"},
        worker="here:1",
    )


class CutOff(OSError):
    """The error that ends the process here, as far as the tracker can tell."""


def cut_off_after(answers: int) -> Callable[[], None]:
    left = iter(range(answers))

    def answered() -> None:
        if next(left, None) is None:
            raise CutOff

    return answered


def heard() -> None:
    """Hears an answer that nobody waits for."""


class TrackerContract:
    """What a study relies on in a tracker; kd_hpo.study.tracking.tracker.Tracker says it in words.

    Subclass it in a file of tests, say how the tracker is made for a study, and read back what it shows:

        class TestMyTracker(TrackerContract):
            tracker = MyTracker

            def stored(self, study: StudyConfig) -> list[StoredRun]: ...
    """

    tracker: ClassVar[MakeTracker]

    def stored(self, study: StudyConfig) -> list[StoredRun]:
        """Reads what a person finds of the study's trials now, by name; what was deleted is not there."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its tracker shows: give it the method `stored`")

    @pytest.fixture
    def make(self) -> MakeTracker:
        """The subclass's `tracker`, as it was given: a function is not bound to the test."""
        found: MakeTracker | None = getattr(type(self), "tracker", None)
        assert callable(found), f"{type(self).__name__} does not say how its tracker is made: add the line `tracker = MyTracker`"
        return found

    @pytest.fixture
    def study(self, tmp_path: Path) -> StudyConfig:
        study = small_study(tmp_path)
        StudyFolder.of(study).write_settings(study)
        return study

    @pytest.fixture
    def opened(self, make: MakeTracker, study: StudyConfig) -> Callable[[], Tracker]:
        """The tracker as the next process has it."""

        def in_next_process() -> Tracker:
            tracker = make(study)
            tracker.open()
            return tracker

        return in_next_process

    # What it says of itself

    def test_says_what_it_is_in_a_line(self, make: MakeTracker, study: StudyConfig) -> None:
        """The tracker's words are lines, before it is opened too: one that does not answer is told by them."""
        tracker = make(study)
        assert tracker.name.isidentifier() and tracker.name == make(study).name, "`name` must be one word, the same for ever"
        for words in (tracker.title, tracker.where, tracker.link, tracker.notice):
            assert isinstance(words, str) and "\n" not in words, f"{words!r} is no line"
        assert tracker.title and tracker.where
        assert isinstance(tracker.local, bool)

    def test_tells_a_refusal_from_what_passes(self, make: MakeTracker, study: StudyConfig) -> None:
        tracker = make(study)
        assert not tracker.passing(ValueError("no such metric")), "what is refused for good would be tried for ever"
        assert tracker.passing(ConnectionRefusedError("the server is gone")), "a server that restarts would lose the study"
        assert "the server is gone" in tracker.said(ConnectionRefusedError("the server is gone"))

    # The study's place

    def test_study_is_found_again(self, opened: Callable[[], Tracker]) -> None:
        tracker = opened()
        write(tracker.run_of(SPEC, "a"))
        tracker.open()
        assert opened().link == tracker.link
        assert [run.trial for run in opened().runs()] == [SPEC.id], "another process does not find the study's place"

    def test_another_study_of_the_name_has_another_place(self, make: MakeTracker, study: StudyConfig) -> None:
        """A study of the name may be of a folder that was removed, or on the same server."""
        first = make(study)
        first.open()
        write(first.run_of(SPEC, "a"))
        (StudyFolder.of(study).root / "identity").unlink()
        second = make(study)
        second.open()
        assert list(second.runs()) == [], "the tracker takes a study of the same name for this one"
        assert [run.trial for run in first.runs()] == [SPEC.id]

    # A trial

    def test_trial_has_every_epoch_once(self, opened: Callable[[], Tracker], study: StudyConfig) -> None:
        write(opened().run_of(SPEC, "a"))
        assert self.stored(study) == [StoredRun(SPEC.id, "completed", WHOLE)]

    def test_trial_is_followed_while_it_runs(self, opened: Callable[[], Tracker], study: StudyConfig) -> None:
        run = opened().run_of(SPEC, "a")
        run.describe(about_of(study), SPEC, "")
        assert run.every >= 1
        for told in (1, 2, EPOCHS):
            run.log_epochs(RECORDS[:told], TIMES, heard)  # a time may stand before its record does
            assert self.stored(study) == [StoredRun(SPEC.id, None, WHOLE[:told])]

    @pytest.mark.parametrize("state", ["completed", "stopped", "failed"])
    def test_run_that_has_ended_is_known(self, opened: Callable[[], Tracker], state: str) -> None:
        run = opened().run_of(SPEC, "a")
        write(run, state)
        assert list(opened().runs()) == [KnownRun(run.run_id, SPEC.id, "a", state)]

    def test_run_on_its_way_has_no_state(self, opened: Callable[[], Tracker]) -> None:
        run = opened().run_of(SPEC, "a")
        assert list(opened().runs()) == [KnownRun(run.run_id, SPEC.id, "a", None)]

    def test_trial_that_could_not_start_has_a_run(self, opened: Callable[[], Tracker], study: StudyConfig) -> None:
        run = opened().run_of(SPEC, "a")
        run.describe(None, SPEC, "")
        run.log_epochs([], [], heard)
        run.finish(TrialStatus(spec=SPEC, state="failed", message="start below floor"), [], None)
        assert self.stored(study) == [StoredRun(SPEC.id, "failed", ())]

    # Once, whatever happens

    def test_what_is_called_twice_stands_once(self, opened: Callable[[], Tracker], study: StudyConfig) -> None:
        tracker = opened()
        for run in (tracker.run_of(SPEC, "a"), tracker.run_of(SPEC, "a")):
            write(run)
            write(run)
        tracker.open()
        assert self.stored(study) == [StoredRun(SPEC.id, "completed", WHOLE)]

    def test_next_process_writes_the_same_and_changes_nothing(self, opened: Callable[[], Tracker], study: StudyConfig) -> None:
        first = opened().run_of(SPEC, "a")
        write(first)
        second = opened().run_of(SPEC, "a")
        write(second)
        assert second.run_id == first.run_id
        assert self.stored(study) == [StoredRun(SPEC.id, "completed", WHOLE)]

    def test_epochs_of_a_resumed_trial_are_not_doubled(self, opened: Callable[[], Tracker], study: StudyConfig) -> None:
        run = opened().run_of(SPEC, "a")
        run.describe(about_of(study), SPEC, "")
        run.log_epochs(RECORDS[:2], TIMES[:2], heard)
        write(opened().run_of(SPEC, "a"))
        assert self.stored(study) == [StoredRun(SPEC.id, "completed", WHOLE)]

    @pytest.mark.parametrize("answers", range(5))
    @pytest.mark.parametrize("known", [0, 2], ids=["at_the_start", "on_its_way"])
    def test_cut_off_among_epochs_is_mended(
        self, opened: Callable[[], Tracker], study: StudyConfig, known: int, answers: int
    ) -> None:
        run = opened().run_of(SPEC, "a")
        run.describe(about_of(study), SPEC, "")
        run.log_epochs(RECORDS[:known], TIMES[:known], heard)
        with suppress(CutOff):
            run.log_epochs(RECORDS, TIMES, cut_off_after(answers))
        write(opened().run_of(SPEC, "a"))
        assert self.stored(study) == [StoredRun(SPEC.id, "completed", WHOLE)]

    @pytest.mark.parametrize("last", ["run_of", "describe", "log_epochs"])
    def test_cut_off_between_calls_is_mended(self, opened: Callable[[], Tracker], study: StudyConfig, last: str) -> None:
        run = opened().run_of(SPEC, "a")
        if last != "run_of":
            run.describe(about_of(study), SPEC, "")
        if last == "log_epochs":
            run.log_epochs(RECORDS, TIMES, heard)
        write(opened().run_of(SPEC, "a"))
        assert self.stored(study) == [StoredRun(SPEC.id, "completed", WHOLE)]

    def test_interrupted_trial_goes_on(self, opened: Callable[[], Tracker], study: StudyConfig) -> None:
        """The trial's study was stopped while it ran: `running` is what its status says then."""
        write(opened().run_of(SPEC, "a"), "running", RECORDS[:2])
        assert self.stored(study) == [StoredRun(SPEC.id, "interrupted", WHOLE[:2])]
        assert [run.state for run in opened().runs()] == ["interrupted"]
        again = opened().run_of(SPEC, "a")
        assert [run.state for run in opened().runs()] == [None], "a trial that goes on is shown as interrupted"
        write(again)
        assert self.stored(study) == [StoredRun(SPEC.id, "completed", WHOLE)]

    # What is not the study's

    def test_new_life_of_a_trial_has_a_run_of_its_own(self, opened: Callable[[], Tracker], study: StudyConfig) -> None:
        """The trial failed, and was run again from its start."""
        tracker = opened()
        write(tracker.run_of(SPEC, "a"), "failed", RECORDS[:3])
        write(tracker.run_of(OTHER, "b"), spec=OTHER)
        write(tracker.run_of(SPEC, "c"), "completed", RECORDS[:1])
        assert self.stored(study) == [StoredRun(SPEC.id, "completed", WHOLE[:1]), StoredRun(OTHER.id, "completed", WHOLE)]
        assert {(run.trial, run.identity) for run in opened().runs()} == {(SPEC.id, "c"), (OTHER.id, "b")}

    def test_run_that_is_removed_is_gone(self, opened: Callable[[], Tracker], study: StudyConfig) -> None:
        tracker = opened()
        removed, kept = tracker.run_of(SPEC, "a"), tracker.run_of(OTHER, "b")
        write(kept, spec=OTHER)
        tracker.remove(removed.run_id)
        assert [run.trial for run in opened().runs()] == [OTHER.id]
        assert self.stored(study) == [StoredRun(OTHER.id, "completed", WHOLE)]
        write(opened().run_of(SPEC, "a"))  # and may come again
        assert [run.trial for run in self.stored(study)] == [SPEC.id, OTHER.id]

    # The study as a whole

    def test_study_is_shown_at_every_stage(self, opened: Callable[[], Tracker], study: StudyConfig) -> None:
        """The study is shown with the folder as it is then; none of it is one of the trials' runs."""
        folder, tracker = StudyFolder.of(study), opened()
        tracker.show(interrupted=False)
        into_folder(folder, SPEC, "running")
        tracker.show(interrupted=False)
        tracker.show(interrupted=True)
        write(tracker.run_of(SPEC, "a"))
        into_folder(folder, SPEC, "completed")
        ending = Ending(Comparison(study.name, (), (0,), EPOCHS, {"val": 0.9, "test": 0.9}, {}, study.task.goal), None)
        for each in (tracker, opened()):
            assert each.finish(ending) == []
        assert [run.trial for run in opened().runs()] == [SPEC.id]
        assert self.stored(study) == [StoredRun(SPEC.id, "completed", WHOLE)]

    def test_a_folder_arrives_whole_by_several_drivers(self, make: MakeTracker, study: StudyConfig) -> None:
        folder = StudyFolder.of(study)
        into_folder(folder, SPEC, "completed")
        into_folder(folder, OTHER, "failed")
        TrackerSync(study, make(study)).bring_up_to_date(closing=False)
        into_folder(folder, OTHER.replace(id="hetero-t002"), "stopped")
        for _ in range(2):
            TrackerSync(study, make(study)).bring_up_to_date(closing=True)
        states = [(SPEC.id, "completed"), (OTHER.id, "failed"), ("hetero-t002", "stopped")]
        assert self.stored(study) == [StoredRun(trial, state, WHOLE) for trial, state in states]
        assert {run.run for run in opened_by(make, study).runs()} == {
            folder.run_id(trial, make(study).name) for trial, _ in states
        }

    def test_what_was_deleted_there_comes_again(self, make: MakeTracker, study: StudyConfig) -> None:
        folder, tracker = StudyFolder.of(study), make(study)
        for spec in (SPEC, OTHER):
            into_folder(folder, spec, "completed")
        sync = TrackerSync(study, tracker)
        sync.bring_up_to_date(closing=False)
        tracker.remove(str(folder.run_id(SPEC.id, tracker.name)))
        sync.bring_up_to_date(closing=True)
        assert self.stored(study) == [StoredRun(spec.id, "completed", WHOLE) for spec in (SPEC, OTHER)]


def opened_by(make: MakeTracker, study: StudyConfig) -> Tracker:
    tracker = make(study)
    tracker.open()
    return tracker


def write(run: TrialRun, state: str = "completed", records: Sequence[EpochRecord] = RECORDS, spec: TrialSpec = SPEC) -> None:
    """Writes all of a trial, from its start to its end."""
    run.describe(about_of(small_study(Path("runs"))), spec, "")
    run.log_epochs(records, TIMES[: len(records)], heard)
    run.finish(TrialStatus.model_validate({"spec": spec, "state": state}), records, None)


def into_folder(folder: StudyFolder, spec: TrialSpec, state: str) -> None:
    folder.write_about(spec.id, about_of(folder.read_settings()))
    folder.write_records(spec.id, list(RECORDS))
    folder.write_status(TrialStatus.model_validate({"spec": spec, "state": state}))
