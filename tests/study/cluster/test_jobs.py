"""What is told of a job that a cluster runs."""

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus
from rich.console import Console

from kd_hpo.errors import StudyError
from kd_hpo.study.cluster.jobs import Job


class Client:
    """Of a job that stands at `status`, whose log ends, or breaks off with an error."""

    def __init__(self, status: JobStatus | None, error: Exception | None = None) -> None:
        self._status, self._error = status, error

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "a line\n"
        if self._error:
            raise self._error

    def get_job_info(self, job: str) -> SimpleNamespace:
        if self._status is None:
            raise ConnectionError("refused")
        return SimpleNamespace(status=self._status, message="it broke")


def followed(status: JobStatus | None, error: Exception | None = None) -> None:
    Job(Client(status, error), "http://head:8265", "small-1").follow(Console(quiet=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [None, RuntimeError("closed"), ConnectionError("reset")])
def test_a_lost_log_is_no_end_of_the_job(error: Exception | None) -> None:
    with pytest.raises(StudyError, match=r"the job goes on; follow it: ray job logs -f small-1 --address http://head:8265"):
        followed(JobStatus.RUNNING, error)


def test_nobody_says_that_a_job_goes_on_whose_head_does_not_answer() -> None:
    with pytest.raises(
        StudyError, match=r"http://head:8265 tells no more of job small-1 .*head has ended, so has the job"
    ) as told:
        followed(None, ConnectionError("reset"))
    assert "submit the study again" in str(told.value) and "goes on;" not in str(told.value)


def test_a_failed_job_says_how_to_go_on() -> None:
    with pytest.raises(StudyError, match=r"small-1 has failed: it broke. What had ended is kept; submit the study again"):
        followed(JobStatus.FAILED)


def test_a_job_that_succeeds_is_no_error() -> None:
    followed(JobStatus.SUCCEEDED)
