"""Commands that work on a Ray cluster from outside: submit."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from kd_hpo.cli.console import AS_USUAL, Output, Overrides, Result, err


def submit(
    study_file: Path,
    /,
    *,
    address: str = "http://127.0.0.1:8265",
    wait: Annotated[bool, Parameter(negative="--no-wait")] = True,
    set_: Overrides = (),
    output: Output = AS_USUAL,
) -> Result:
    """Run a study as a job of a Ray cluster; submit it again to continue it.

    Paths of the study are paths on the cluster, the runs folder among them, which all its nodes share.

    Parameters
    ----------
    study_file
        A YAML file, such as studies/digits.yaml.
    address
        The address of the cluster's dashboard; RAY_API_SERVER_ADDRESS comes before it.
    wait
        Print what the job prints until it ends; with --no-wait, leave it.
    set_
        A setting of the file to replace, as a.b=value; may be given several times.
    """
    from kd_hpo.study.design.study_file import load_study
    from kd_hpo.study.environment import prepare_environment

    study = load_study(study_file, set_)
    prepare_environment()
    from kd_hpo.study.cluster.jobs import Job

    job = Job.submit(study, address, output.progress)
    started = f"job {job.id} runs study {study.name}"
    if wait:
        output.progress.print(started)
        try:
            job.follow(output.progress)
        except KeyboardInterrupt:
            err.print(Text(f"job {job.id} goes on; {job.commands}"))
            sys.exit(130)
    document = {"job": job.id, "study": study.name, "address": address, "status": job.status}
    if wait:
        return Result(document, (f"job {job.id} has {document['status']}",))
    return Result(document, (started,), (job.commands,))
