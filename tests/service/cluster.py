"""The processes of a cluster, started by hand: Ray's head and two workers, PostgreSQL, S3-compatible storage, MLflow."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import boto3
import psycopg

import kd_hpo

BIN = Path(sys.executable).parent
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
"""Debian's programs of the server; None where they are not installed."""
HEAD, RED, BLUE = "127.0.0.2", "127.0.0.3", "127.0.0.4"
"""Addresses of the nodes: all of loopback, each node's own."""
Ended = Callable[[], str | bool]
"""Why a process has ended, if it has."""
WORKERS = {RED: "red", BLUE: "blue"}


@dataclass(frozen=True)
class Cluster:
    gcs: str
    jobs: str
    client: str
    metrics: tuple[str, ...]
    mlflow: str
    database: str
    bucket: "Bucket"
    environment: dict[str, str]
    """With the token of Ray, and nothing of the test's own Ray."""
    hidden: Path | None
    """A folder that the node red has another one of; None where the system does not allow that."""

    def kd_hpo(self, *arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
        command = [str(BIN / "kd-hpo"), *arguments]
        return subprocess.Popen(
            command, cwd=cwd, env=self.environment | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@dataclass(frozen=True)
class Bucket:
    endpoint: str
    name: str = "mlflow"
    key: str = "kd-hpo"
    secret: str = "of-the-test"

    def client(self) -> boto3.client:
        keys = {"aws_access_key_id": self.key, "aws_secret_access_key": self.secret}
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)

    def files(self) -> list[str]:
        return [item["Key"] for item in self.client().list_objects_v2(Bucket=self.name).get("Contents", [])]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
        }


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """All of it, ready; ended with all that it started. `folder` is short, since Ray keeps Unix sockets below it."""
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "KD_HPO_", "MLFLOW_"))}
    environment = ours | {
        "PATH": f"{BIN}:{ours.get('PATH', '')}",
        "PYTHONPATH": str(Path(kd_hpo.__file__).parents[1]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "300",  # Ray waits 30 s for its server of a client
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "*",
    }
    gcs, jobs, client, database, s3, mlflow, *metrics = free_ports(9)
    hidden = folder / "hidden" if can_hide() else None
    with ExitStack() as running:

        def start(name: str, *command: str, **more: str) -> Ended:
            process = running.enter_context(process_group(folder / f"{name}.log", command, environment | more))
            return lambda: process.poll() is not None and f"{name} has ended: {(folder / f'{name}.log').read_text()[-2000:]}"

        def ray_start(name: str, ip: str, metrics_port: int, *arguments: str, before: tuple[str, ...] = ()) -> Ended:
            """A node that has started. Ray gives one up that takes more than half a minute, as on a machine with other work."""
            for attempt in range(5):
                (agent,), log = free_ports(1), f"{name}-{attempt}"
                ended = start(
                    log, *before, str(BIN / "ray"), "start", "--block", f"--node-ip-address={ip}", f"--node-name={name}",
                    "--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder / log}",
                    f"--metrics-export-port={metrics_port}", f"--dashboard-agent-listen-port={agent}", *arguments,
                )  # fmt: skip
                while not ended():
                    if "Ray runtime started" in (folder / f"{log}.log").read_text():
                        return ended
                    time.sleep(0.1)
            raise AssertionError(ended())

        ended = ray_start(
            "head", HEAD, metrics[0], "--head", f"--port={gcs}", "--num-cpus=0", "--include-dashboard=true",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={jobs}", f"--ray-client-server-port={client}",
        )  # fmt: skip
        stored = start("s3", sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3))
        kept = running.enter_context(postgres(folder / "postgres", database))
        bucket = Bucket(f"http://127.0.0.1:{s3}")
        until_ready(lambda: listens("127.0.0.1", s3), stored)
        bucket.client().create_bucket(Bucket=bucket.name)
        tracked = start(
            "mlflow", sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(mlflow),
            "--backend-store-uri", kept.server_uri, "--artifacts-destination", f"s3://{bucket.name}",
            PGPASSWORD=kept.password, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **bucket.environment,
        )  # fmt: skip
        until_ready(lambda: listens(HEAD, gcs), ended)
        nodes: list[tuple[str, Ended]] = [(f"http://{HEAD}:{metrics[0]}/metrics", ended)]
        for (ip, name), port in zip(WORKERS.items(), metrics[1:], strict=True):
            before = hiding(hidden) if hidden and name == "red" else ()
            resource = f'--resources={{"{name}": 1, "kd_worker": 1}}'
            gone = ray_start(name, ip, port, f"--address={HEAD}:{gcs}", "--num-cpus=1", resource, before=before)
            nodes.append((f"http://{ip}:{port}/metrics", gone))
        until_ready(lambda: answers(f"http://127.0.0.1:{mlflow}/health"), tracked)
        token = {"Authorization": f"Bearer {(folder / 'token').read_text()}"}
        until_ready(lambda: answers(f"http://127.0.0.1:{jobs}/api/version", token), ended)
        for address, gone in nodes:
            until_ready(partial(answers, address), gone)
        yield Cluster(
            gcs=f"{HEAD}:{gcs}",
            jobs=f"http://127.0.0.1:{jobs}",
            client=f"ray://{HEAD}:{client}",
            metrics=tuple(address for address, _ in nodes),
            mlflow=f"http://127.0.0.1:{mlflow}",
            database=kept.test_uri,
            bucket=bucket,
            environment=environment,
            hidden=hidden,
        )


@dataclass(frozen=True)
class Postgres:
    port: int
    password: str

    @property
    def server_uri(self) -> str:
        """As MLflow is given it: its password is in the server's environment."""
        return f"postgresql+psycopg://mlflow@127.0.0.1:{self.port}/postgres"

    @property
    def test_uri(self) -> str:
        return f"postgresql://mlflow:{self.password}@127.0.0.1:{self.port}/postgres"


@contextmanager
def postgres(folder: Path, port: int) -> Iterator[Postgres]:
    assert POSTGRES is not None
    user = "postgres" if os.geteuid() == 0 else None  # which refuses to run as root
    server, secret = Postgres(port, secrets.token_hex(8)), folder / "secret"
    folder.mkdir()
    secret.write_text(server.password)
    if user:
        shutil.chown(folder, user)
        shutil.chown(secret, user)
    initdb = [str(POSTGRES / "initdb"), "--pgdata", str(folder / "data"), "--username", "mlflow", "--auth", "scram-sha-256"]
    subprocess.run([*initdb, "--pwfile", str(secret), "--no-sync"], check=True, capture_output=True, user=user, cwd=folder)
    command = [str(POSTGRES / "postgres"), "-D", str(folder / "data"), "-k", str(folder), "-h", "127.0.0.1", "-p", str(port)]
    with process_group(folder / "log", [*command, "-c", "fsync=off"], os.environ, user=user, end=signal.SIGQUIT) as process:

        def takes_connections() -> bool:
            try:
                psycopg.connect(server.test_uri).close()
            except psycopg.OperationalError:
                return False
            return True

        until_ready(takes_connections, lambda: process.poll() is not None and "postgres has ended")
        yield server


@contextmanager
def process_group(
    log: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    user: str | None = None,
    end: signal.Signals = signal.SIGKILL,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is ended as a whole."""
    with log.open("wb") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, env=environment, start_new_session=True, user=user)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, end)
            process.wait()


def until_ready(ready: Callable[[], bool], ended: Ended) -> None:
    while not ready():
        assert not ended(), ended()
        time.sleep(0.1)


def listens(ip: str, port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex((ip, port)) == 0


def answers(address: str, headers: Mapping[str, str] | None = None) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=dict(headers or {})), timeout=10):
            return True
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Distinct; below those that the system gives to whoever asks for any port, as all processes of Ray do."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = 20000 + secrets.randbelow(12000)
            try:
                held.enter_context(socket.socket()).bind(("0.0.0.0", port))
            except OSError:
                continue
            found.append(port)
    return found


def can_hide() -> bool:
    """Whether a process may have a mount of its own."""
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


def hiding(folder: Path) -> tuple[str, ...]:
    """Starts a command that sees another, empty folder there."""
    folder.mkdir()
    return ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{folder}" && exec "$@"', "sh")
