"""The image built and the cluster up: a study that outlives a worker and the head, and what keeps strangers out.

`make test-deploy` runs it, with what it tells; where no engine can be had, it is skipped with the reason.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from mlflow import MlflowClient

from tests.conftest import digits_study
from tests.docker.deployment import SECOND, SERVICES, Deployment, NoEngine, deployed

pytestmark = [pytest.mark.slow, pytest.mark.service]

OURS = ("ray-head", "ray-worker", SECOND, "mlflow", "dashboard")
STUDY = "deployed"


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    try:
        with TemporaryDirectory(prefix="kd-hpo-deploy-") as folder, deployed(Path(folder)) as up:
            yield up
    except NoEngine as missing:
        pytest.skip(str(missing))


def test_who_runs_what_and_what_it_may(deployment: Deployment) -> None:
    for service in OURS:
        assert deployment.inside(service, "id", "-u") == "1000", service
        status = dict(line.split(":\t") for line in deployment.inside(service, "cat", "/proc/1/status").splitlines())
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1", service
    for program in ("wget", "rsync", "ssh"):
        assert deployment.inside("ray-head", "which", program)


def test_secrets_are_in_files_alone_and_ports_on_loopback(deployment: Deployment) -> None:
    secrets = [file.read_text().strip() for file in deployment.secrets.iterdir() if "\n" not in file.read_text().strip()]
    for container in deployment.inspected():
        told = json.dumps([container["Config"]["Env"], container["Config"]["Cmd"], container["Args"]])
        assert not any(secret in told for secret in secrets), container["Name"]
        for bound in (container["HostConfig"]["PortBindings"] or {}).values():
            assert {each["HostIp"] for each in bound} == {"127.0.0.1"}
    assert deployment.inside("ray-head", "sh", "-c", "test -r /run/secrets/ray_token && echo read") == "read"


def submitted(deployment: Deployment, folder: Path) -> "subprocess.Popen[str]":
    search = {"trials": 4, "scheduler": {"kind": "none"}, "space": {"kd.weight": {"kind": "uniform", "low": 0.5, "high": 2.0}}}
    compare = {"methods": ["ce", "kd"], "seeds": 2}
    training = {"epochs": 30, "batch_size": 32}
    study = digits_study(folder, name=STUDY, search=search, compare=compare, training=training)
    (folder / "study.yaml").write_text(study.model_dump_json())
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(deployment.secrets / "ray_token")}
    given = ["--set", "runs=/runs", "--set", "tracking.uri=http://mlflow:5000", "--set", "resources.cpus_per_trial=1"]
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "kd-hpo"), "submit", "study.yaml", *given],
        cwd=folder,
        env={**os.environ, **token, "NO_PROXY": "*"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(deployment: Deployment) -> int:
    command = f'grep -l \'"state": *"completed"\' /runs/{STUDY}/trials/*/status.json 2>/dev/null | wc -l'
    return int(deployment.inside("ray-worker", "sh", "-c", command))


def test_a_study_outlives_a_worker_and_the_head(deployment: Deployment, tmp_path: Path) -> None:
    first = submitted(deployment, tmp_path)
    deployment.until(lambda: ended(deployment) >= 1 or first.poll() is not None, "a trial has ended")
    deployment.engine("kill", *deployment.containers(SECOND))  # a worker
    before = ended(deployment)
    deployment.until(lambda: ended(deployment) > before or first.poll() is not None, "the study goes on without a worker")
    assert first.poll() is None, first.communicate()[0]
    deployment.engine("kill", *deployment.containers("ray-head"))
    told = first.communicate(timeout=300)[0]
    print(told)
    assert first.returncode == 1 and "submit the study again" in told.splitlines()[-1], told
    kept = ended(deployment)
    for service in ("ray-head", "ray-worker", SECOND):  # what the restart policy does where the engine keeps one
        if not deployment.containers(service):
            deployment.compose("up", "-d", "--no-deps", service)
        deployment.until(lambda service=service: deployment.is_healthy(service), f"{service} is back")  # type: ignore[misc]
    again = submitted(deployment, tmp_path)
    try:
        told = again.communicate(timeout=900)[0]
    finally:
        again.send_signal(signal.SIGINT)
    print(told)
    assert again.returncode == 0, told
    assert ended(deployment) == 8 > kept >= 2
    read = MlflowClient("http://127.0.0.1:5000")
    experiment = read.get_experiment_by_name(STUDY)
    assert experiment is not None
    runs = read.search_runs([experiment.experiment_id], max_results=100)
    by_trial = {run.data.tags.get("kd.trial"): run.info.status for run in runs if "kd.trial" in run.data.tags}
    print(f"in MLflow: {by_trial}")
    trials = deployment.inside("ray-worker", "ls", f"/runs/{STUDY}/trials").split()
    assert len(trials) == 8 and {by_trial.get(trial) for trial in trials} == {"FINISHED"}  # beside the study's overview
    assert read.get_registered_model(STUDY).name == STUDY


def test_the_head_computes_nothing(deployment: Deployment) -> None:
    """Trials and teacher are of the workers; the driver ran on the head, which has no CPU to give."""
    names = deployment.inside("ray-worker", "sh", "-c", f"cat /runs/{STUDY}/trials/*/.memory")
    assert '"node":"head"' not in names.replace(" ", "")


def test_all_services_have_stayed(deployment: Deployment) -> None:
    assert all(deployment.is_healthy(service) for service in SERVICES if service != "s3-bucket")
