"""A study on a real cluster: Ray's head and two workers, MLflow on PostgreSQL with artifacts in S3-compatible storage."""

import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import psycopg
import pytest

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study
from tests.service.cluster import POSTGRES, WORKERS, Cluster, running_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.service,
    pytest.mark.skipif(POSTGRES is None, reason="PostgreSQL's server is not installed (Debian's package postgresql)"),
]

DOCKER = Path(__file__).parents[2] / "docker"
README = DOCKER.with_name("README.md")
TRIALS = ["cka-s0", "cka-s1"]


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    folder = Path(mkdtemp(prefix="kd", dir="/tmp"))
    folder.chmod(0o755)  # PostgreSQL runs as another user
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(shared: Path) -> Iterator[Cluster]:
    with running_cluster(shared) as started:
        yield started


@dataclass
class Submitted:
    study: StudyConfig
    told: str = ""
    code: int | None = None
    exposed: dict[str, set[str]] = field(default_factory=dict)
    """The names of metrics that each address has shown while the study ran."""
    labels: set[str] = field(default_factory=set)
    """The states that the gauge of trials was shown with."""


def study_of(runs: Path, cluster: Cluster, **changes: object) -> StudyConfig:
    own = {"name": "cka", "base": "hetero", "set": {"pairs.loss": {"kind": "callable", "callable": "own_loss:cka"}}}
    fields: dict[str, object] = {
        "search": {"trials": 0},
        "compare": {"methods": [own], "seeds": 2},
        "resources": {"custom_per_trial": {"kd_worker": 0.5}},
        "tracking": {"uri": cluster.mlflow},
    }
    return digits_study(runs, **(fields | changes))


def written(study: StudyConfig, folder: Path) -> str:
    (folder / f"{study.name}.json").write_text(study.model_dump_json())
    return f"{study.name}.json"


@pytest.fixture(scope="module")
def code(shared: Path) -> Path:
    """The folder that one starts in: a loss of one's own, and a file that is no code."""
    folder = shared / "code"
    folder.mkdir()
    (loss,) = re.findall(r"\n((?:    .*\n|\n)*    def cka.*\n(?:    .*\n)*)", README.read_text())
    (folder / "own_loss.py").write_text(re.sub("^    ", "", loss, flags=re.MULTILINE))
    (folder / "weights.bin").write_bytes(bytes(2**21))
    return folder


@pytest.fixture(scope="module")
def submitted(shared: Path, cluster: Cluster, code: Path) -> Submitted:
    """Submitted as a job of the cluster, with its metrics looked at all the while."""
    result = Submitted(study_of(shared / "runs", cluster))
    job = cluster.kd_hpo("submit", written(result.study, code), "--address", cluster.jobs, cwd=code)
    while job.poll() is None:
        for address in cluster.metrics:
            with urllib.request.urlopen(address) as answer:
                text = answer.read().decode()
            result.exposed.setdefault(address, set()).update(re.findall(r"^([a-z]\w*)[{ ]", text, flags=re.MULTILINE))
            result.labels.update(
                re.findall(r'^ray_kd_hpo_trials\{.*state="(\w+)".*study="small".*\} [1-9]', text, flags=re.MULTILINE)
            )
        time.sleep(0.5)
    assert job.stdout is not None
    result.told, result.code = job.stdout.read(), job.returncode
    return result


def test_a_submitted_study_ends_well(submitted: Submitted) -> None:
    assert submitted.code == 0, submitted.told
    folder = StudyFolder.of(submitted.study)
    assert {status.spec.id: status.state for status in folder.statuses()} == dict.fromkeys(TRIALS, "completed")
    assert "2 nodes for trials (blue, red): 2 trials at once" in submitted.told
    assert re.search(r"^cka +2 ", submitted.told, flags=re.MULTILINE)


def test_code_of_ones_own_goes_to_the_nodes_and_other_files_stay(submitted: Submitted, code: Path) -> None:
    """The nodes import the loss from what they were given: none of them was started in its folder."""
    assert re.search(
        rf"^1 files, \d+ kB, of {re.escape(str(code))} go to every node as code$", submitted.told, flags=re.MULTILINE
    )


def test_trials_ran_on_both_workers_and_their_runs_are_in_postgresql(submitted: Submitted, cluster: Cluster) -> None:
    query = "SELECT key, run_uuid, value FROM tags WHERE key IN ('kd.trial', 'kd.worker', 'kd.state')"
    with psycopg.connect(cluster.database) as connection:
        rows = connection.execute(query).fetchall()
    runs: dict[str, dict[str, str]] = {}
    for key, run, value in rows:
        runs.setdefault(run, {})[key] = value
    workers = {tags["kd.trial"]: tags["kd.worker"].partition(":")[0] for tags in runs.values() if "kd.worker" in tags}
    assert sorted(workers) == TRIALS
    assert set(workers.values()) == set(WORKERS.values())
    assert {tags["kd.trial"] for tags in runs.values()} == {*TRIALS, "summary"}


def test_artifacts_are_in_the_bucket(submitted: Submitted, cluster: Cluster) -> None:
    names = {Path(file).name for file in cluster.bucket.files()}
    assert {"lambda.html", "lambda.json", "config.yaml", "comparison.csv"} <= names


def queried() -> set[str]:
    """Names of Ray's metrics that Grafana's dashboard and Prometheus's rules ask for."""
    texts = [DOCKER / "grafana" / "dashboards" / "kd-hpo.json", DOCKER / "prometheus" / "rules.yml"]
    return {name for text in texts for name in re.findall(r"\bray_\w+", text.read_text())}


def test_metrics_of_a_running_study_are_those_that_grafana_asks_for(submitted: Submitted) -> None:
    exposed = set.union(*submitted.exposed.values())
    assert queried() - exposed == {"ray_node_gpus_utilization"}  # there is no GPU
    for address, names in submitted.exposed.items():
        of_a_worker = any(f"//{ip}:" in address for ip in WORKERS)
        assert ("ray_kd_hpo_steps_total" in names) == of_a_worker
    assert submitted.labels & {"running", "completed"}  # a quick study may run between two reports of Ray's


def ran(cluster: Cluster, *arguments: str, cwd: Path, **environment: str) -> tuple[int, str]:
    command = cluster.kd_hpo(*arguments, cwd=cwd, **environment)
    told, _ = command.communicate()
    return command.returncode, told


def test_a_study_given_through_rays_client_trains_on_a_worker(shared: Path, cluster: Cluster, code: Path) -> None:
    study = study_of(shared / "runs", cluster, name="afar", compare={"methods": ["ce"], "seeds": 1})
    returned, told = ran(cluster, "run", written(study, code), "--address", cluster.client, cwd=code)
    assert returned == 0, told
    folder = StudyFolder.of(study)
    assert {status.spec.id: status.state for status in folder.statuses()} == {"ce-s0": "completed"}
    about = folder.about("ce-s0")
    assert about is not None and about.worker.partition(":")[0] in WORKERS.values()


def test_through_rays_client_the_driver_runs_on_the_head(submitted: Submitted, cluster: Cluster, code: Path) -> None:
    """What it prints there is printed here, and it ends as it ends there."""
    other = ("--set", "seed=5")
    returned, told = ran(cluster, "run", "small.json", "--address", cluster.client, *other, cwd=code)
    assert returned == 1
    assert f"of {code} go to every node" in told
    assert told.splitlines()[-1].startswith(f"error: study 'small' is in {StudyFolder.of(submitted.study).root} already")


def test_a_node_that_does_not_share_the_runs_folder_is_told_first(cluster: Cluster, code: Path) -> None:
    if cluster.hidden is None:
        pytest.skip("this system lets no process have a mount of its own")
    study = study_of(cluster.hidden, cluster, name="apart", compare={"methods": ["ce"], "seeds": 1})
    returned, told = ran(cluster, "run", written(study, code), "--address", cluster.gcs, cwd=code)
    assert returned == 1
    assert told.splitlines()[-1] == (
        f"error: node red does not share the folder runs {cluster.hidden} (No such file or directory); "
        "put it where every node sees it: --set runs=/SHARED/PATH"
    )
    assert "training the teacher" not in told
    assert not StudyFolder.of(study).begun


def test_without_the_token_nothing_is_submitted(shared: Path, cluster: Cluster, code: Path) -> None:
    study = study_of(shared / "runs", cluster, name="secret")
    wrong = {"RAY_AUTH_TOKEN": "0" * 64}
    returned, told = ran(cluster, "submit", written(study, code), "--address", cluster.jobs, cwd=code, **wrong)
    assert returned == 1
    assert told.splitlines()[-1].startswith(f"error: the job server at {cluster.jobs} does not take the study: ")
    assert "Traceback" not in told
