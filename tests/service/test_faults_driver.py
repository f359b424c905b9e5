"""One study whose driver is killed, interrupted and stopped, whose checkpoint is cut and whose database is locked meanwhile."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kd_hpo.trial.loop import CHECKPOINT
from tests.service.faults import GONE_ON, HOLD, IN_EPOCH_2, FaultyStudy, faulty_study

pytestmark = [pytest.mark.service, pytest.mark.slow]

GOOD, BETTER, BAD = 0.03, 0.1, 1e-6
SEARCH = {
    "trials": 4,
    "seed": 110,  # learning rates: good, better, bad, bad
    "scheduler": {"kind": "asha", "grace_epochs": 1, "reduction_factor": 2},
    "space": {
        "training.optimizer.lr": {"kind": "choice", "values": [GOOD, BETTER, BAD]},
        "kd.weight": {"kind": "uniform", "low": 0.5, "high": 2.0},
    },
}
FIRST, SECOND, THIRD, FOURTH = (f"hetero-t00{i}" for i in range(4))


@pytest.fixture(scope="module")
def faulty() -> Iterator[FaultyStudy]:
    with faulty_study(search=SEARCH, resources={"concurrent_trials": 1}) as faulty:
        yield faulty


def written(faulty: FaultyStudy) -> dict[Path, int]:
    found = [p for p in faulty.folder.root.glob("trials/*/*") if p.suffix in (".json", ".pt", ".safetensors")]
    return {path: path.stat().st_mtime_ns for path in found}


def of(trial: str, files: dict[Path, int]) -> dict[Path, int]:
    return {path: at for path, at in files.items() if path.parent.name == trial}


def test_study_goes_on_after_everything_that_ends_its_driver(faulty: FaultyStudy) -> None:
    # killed, with one trial at its end and another one in the middle of an epoch
    hold = faulty.put(HOLD, at=IN_EPOCH_2)
    with faulty.command(*faulty.run()) as run:
        run.until(lambda: faulty.taken(hold))
        faulty.release(hold)  # it was the first trial's
        run.until(lambda: FIRST in faulty.ended())
        hold = faulty.put(HOLD, "-again")
        run.until(lambda: faulty.taken(hold))
        assert faulty.trial_of(faulty.taken(hold)[0]) == SECOND
        run.process.kill()
        run.process.wait()
    faulty.release(hold)
    assert faulty.states() == {FIRST: "completed", SECOND: "running"}
    first = of(FIRST, written(faulty))

    # while it is resumed, another one is refused; it is interrupted as a terminal does it
    hold = faulty.put(HOLD, "-resumed", at=GONE_ON)
    with faulty.command(*faulty.resume()) as resumed:
        resumed.until(lambda: faulty.taken(hold))
        with faulty.command(*faulty.resume()) as refused:
            said = refused.ended(1).splitlines()[-1]
        assert said == "error: study 'small' is being run by another process; wait for it, or stop it"
        assert resumed.interrupted() == 130
        assert "the search was stopped with 3 of 4 trials to go. What had ended is kept; continue with: " in resumed.told
        assert resumed.told.endswith("kd-hpo resume small\n") and "Traceback" not in resumed.told
    faulty.release(hold)
    assert faulty.states()[SECOND] == "running"

    # the checkpoint of its trial is cut short; the database is locked for two trials; it is stopped
    checkpoint = faulty.folder.trial(SECOND) / CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    hold = faulty.put(HOLD, "-compared")
    with faulty.command(*faulty.resume()) as resumed:
        resumed.until(lambda: faulty.states()[SECOND] == "failed")
        with closing(sqlite3.connect(faulty.study.runs / "mlflow.db", isolation_level=None, timeout=60)) as database:
            database.execute("BEGIN EXCLUSIVE")
            resumed.until(lambda: FOURTH in faulty.ended())
        resumed.until(lambda: faulty.taken(hold))
        assert resumed.stopped() == 130
        assert "the comparison was stopped with 1 of 1 trials to go. What had ended is kept; continue with: " in resumed.told
        assert "Traceback" not in resumed.told
    faulty.release(hold)
    status = faulty.folder.status(SECOND)
    assert status is not None and "is not a whole checkpoint of kd_hpo" in status.message
    # the scheduler has not forgotten the first trial, though it was another driver's: each bad one is below it
    assert [faulty.states()[trial] for trial in (THIRD, FOURTH)] == ["stopped", "stopped"]

    # it is left alone
    with faulty.command(*faulty.resume()) as resumed:
        resumed.ended()
    assert set(faulty.states()) == {FIRST, SECOND, THIRD, FOURTH, "hetero-s0"}
    assert of(FIRST, written(faulty)) == first  # nothing was run again
    faulty.must_be_whole()

    # there is nothing to do
    before = written(faulty)
    with faulty.command(*faulty.resume()) as resumed:
        resumed.ended()
    assert written(faulty) == before
    faulty.must_be_whole()

    # the trial that failed is run again, and nothing else
    with faulty.command(*faulty.resume("--retry-failed")) as resumed:
        assert f"to be run again: {SECOND}\n" in resumed.ended()
    after = written(faulty)
    assert {p: after[p] for p in before.keys() - of(SECOND, before).keys()} == {
        p: at for p, at in before.items() if p not in of(SECOND, before)
    }
    assert faulty.states()[SECOND] == "completed"
    assert (faulty.folder.root / "set_aside" / f"{SECOND}.1" / "status.json").is_file()
    faulty.must_be_whole()
