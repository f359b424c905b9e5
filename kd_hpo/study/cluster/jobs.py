"""A study as a job of a Ray cluster, through Ray's own job API: its driver runs on the cluster, and this machine may leave."""

import asyncio
import logging
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from uuid import uuid4

from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient
from rich.console import Console
from rich.text import Text

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.wording import cut
from kd_hpo.errors import StudyError
from kd_hpo.files import write_atomically
from kd_hpo.study.cluster.connection import first_line
from kd_hpo.study.cluster.user_code import user_code
from kd_hpo.study.environment import git_commit
from kd_hpo.study.status_line import say

_STUDY = "kd-hpo-study.json"


class Job:
    """A study that a cluster runs. Raises StudyError where the cluster does not do what it is asked."""

    def __init__(self, client: JobSubmissionClient, address: str, job_id: str) -> None:
        self._client, self._address, self.id = client, address, job_id

    @classmethod
    def submit(cls, study: StudyConfig, address: str, console: Console) -> "Job":
        """Sends the settings and what the study imports from the current folder; its paths are those of the cluster."""
        on_cluster = study.replace(resources=study.resources.model_dump() | {"address": "auto"})
        with TemporaryDirectory(prefix="kd-hpo-job-") as folder:
            for talking in ("job.sdk", "dashboard_sdk"):
                logging.getLogger(f"ray.dashboard.modules.{talking}").setLevel(logging.ERROR)
            logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
            if code := user_code(study, Path.cwd()):
                say(console, str(code))
                code.copy_to(Path(folder))
            write_atomically(Path(folder) / _STUDY, on_cluster.model_dump_json(indent=1))
            try:
                client = JobSubmissionClient(address)
                job_id = client.submit_job(
                    entrypoint=f"kd-hpo run {_STUDY}",
                    submission_id=f"{study.name}-{uuid4().hex[:8]}",
                    runtime_env={"working_dir": folder},
                    metadata={"kd_hpo.study": study.name, "git_commit": git_commit()},
                )
            except (ConnectionError, RuntimeError, ValueError, RayError) as error:
                raise StudyError(
                    f"the job server at {address} does not take the study: {first_line(error)}. Give the address of Ray's "
                    "dashboard (--address http://HOST:8265), and its token where it has one (RAY_AUTH_TOKEN_PATH)"
                ) from error
        return cls(client, address, job_id)

    @property
    def status(self) -> str:
        """The job's state in Ray's words: pending, running, succeeded, failed or stopped."""
        return str(self._client.get_job_status(self.id).value).lower()

    @property
    def commands(self) -> str:
        """The commands that follow the job and that stop it."""
        address = f"--address {quote(self._address)}"
        return f"follow it: ray job logs -f {self.id} {address}; stop it: ray job stop {self.id} {address}"

    def follow(self, console: Console) -> None:
        """Prints what the job prints until it has ended. Raises StudyError where it has not ended well, or cannot be followed."""
        why = ""
        try:
            asyncio.run(self._print_logs(console))
        except Exception as error:  # nearly any type, of Ray's or of what it talks through
            why = f" ({first_line(error)})"
        try:
            told = self._client.get_job_info(self.id)
        except Exception as error:
            raise StudyError(
                f"the job server at {self._address} tells no more of job {self.id} ({cut(first_line(error))}): "
                "where the cluster's head has ended, so has the job. What had ended is kept; submit the study again once the "
                f"cluster is up. Where only the connection is lost, {self.commands}"
            ) from error
        if told.status in (JobStatus.PENDING, JobStatus.RUNNING):
            raise StudyError(f"the connection to job {self.id} is lost, and the job goes on; {self.commands}{why}")
        if told.status != JobStatus.SUCCEEDED:
            raise StudyError(
                f"job {self.id} has {str(told.status.value).lower()}: {first_line(told.message or '')}. What had ended is kept; "
                "submit the study again to go on"
            )

    async def _print_logs(self, console: Console) -> None:
        async for lines in self._client.tail_job_logs(self.id):
            console.print(Text(lines), end="")
