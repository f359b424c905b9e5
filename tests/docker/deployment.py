"""The cluster of docker/compose.yaml for real, from an image that is built here; what no registry gives is stood in for."""

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).with_name("stand_ins")
SECOND = "ray-worker-2"
SERVICES = ("postgres", "s3", "s3-bucket", "ray-head", "ray-worker", SECOND, "mlflow", "dashboard")
"""Prometheus and Grafana are images of others alone."""
BASE = "localhost/kd-hpo-base"
IMAGE = "kd-hpo:cpu"
PROJECT = "kd-hpo-test"
_PATIENCE_S = 600.0
_CONFINED = """[containers]
default_ulimits = ["nofile=16384:16384", "nproc=32768:32768"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""Of podman where limits may not be raised and control groups are of both versions, as in some sandboxes."""


class NoEngine(Exception):
    """What is missing to build and run containers here."""


@dataclass(frozen=True)
class Engine:
    """The engine's programs: podman and podman-compose, or docker with its compose."""

    containers: str
    compose: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: {**os.environ, "DISABLE_HC_SYSTEMD": "true"})
    """Of its programs: podman's health checks are asked here, and need no systemd."""

    @classmethod
    def found(cls) -> "Engine":
        """The one of this machine. Raises NoEngine where none runs."""
        for containers, compose in (("podman", ("podman-compose",)), ("docker", ("docker", "compose"))):
            if shutil.which(containers) and shutil.which(compose[0]):
                told = subprocess.run([containers, "info"], capture_output=True, text=True, check=False)
                if told.returncode == 0:
                    return cls(containers, compose)
        raise NoEngine("neither podman with podman-compose nor docker runs here (Debian: apt-get install podman podman-compose)")

    def __call__(self, *command: str) -> str:
        told = self.tried(*command)
        assert told.returncode == 0, f"{shlex.join([self.containers, *command])}: {told.stderr[-2000:]}"
        return told.stdout.strip()

    def tried(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.containers, *command],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
            stdin=subprocess.DEVNULL,
        )

    def has(self, image: str) -> bool:
        return self.tried("image", "inspect", image).returncode == 0

    def that_runs(self, image: str, folder: Path) -> "Engine":
        """The engine as it runs containers here: as it is set up, or confined. Raises NoEngine where it does neither."""
        (folder / "containers.conf").write_text(_CONFINED)
        confined = replace(self, environment={**self.environment, "CONTAINERS_CONF": str(folder / "containers.conf")})
        for engine in (self, confined):
            if not (told := engine.tried("run", "--rm", image, "true")).returncode:
                return engine
        raise NoEngine(f"{self.containers} runs no container here: {told.stderr.strip().splitlines()[-1]}")

    def build(self, file: Path, context: Path, tag: str, *more: str, **arguments: str) -> None:
        given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        isolated = ["--isolation=chroot"] if self.containers == "podman" else []
        self("build", "--network=host", *isolated, *given, *more, "-f", str(file), "-t", tag, str(context))


def base_image(engine: Engine, folder: Path) -> str:
    """The base of docker/Dockerfile, where its registry answers; else Debian's Python 3.11 by mmdebstrap. Raises NoEngine."""
    text = (ROOT / "docker" / "Dockerfile").read_text()
    named = next(line.partition("=")[2] for line in text.splitlines() if line.startswith("ARG BASE="))
    if engine.has(named) or engine.tried("pull", named).returncode == 0:
        return named
    if engine.has(BASE):
        return BASE
    if not shutil.which("mmdebstrap"):
        raise NoEngine(
            "no registry has the base image, and Debian's mmdebstrap, which makes one that stands in, is not installed"
        )
    packages = "ca-certificates,python3,python3-pip,python3-venv"
    made = ["mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(folder / "base.tar")]
    subprocess.run(made, check=True, capture_output=True)
    shutil.copyfile(os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"), folder / "ca-certificates.crt")
    (folder / "Containerfile").write_text(
        "FROM scratch\nADD base.tar /\nCOPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt\n"
        "RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED && ln -sf python3 /usr/bin/python\n"
        "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt\n"
    )
    engine.build(folder / "Containerfile", folder, BASE)
    return BASE


def build_images(engine: Engine, folder: Path) -> Engine:
    """Builds docker/Dockerfile as it is, and the stand-ins; gives the engine as it runs them. Raises NoEngine."""
    base = base_image(engine, folder)
    running = engine.that_runs(base, folder)
    index = os.environ.get("KD_HPO_TORCH_INDEX")  # of torch's builds, where pytorch.org does not answer
    arguments = {"BASE": base} | ({"TORCH_INDEX": index} if index else {})
    engine.build(ROOT / "docker" / "Dockerfile", ROOT, IMAGE, **arguments)
    for name in ("postgres", "s3"):
        file = STAND_INS / "Containerfile"
        engine.build(file, STAND_INS, f"localhost/kd-hpo-stand-in:{name}", "--target", name, BASE=base)
    return running


def composed(secrets: Path) -> dict[str, Any]:
    """docker/compose.yaml, as older versions of podman-compose understand it, with the stand-ins in their places."""
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    stand_ins = yaml.safe_load((STAND_INS / "compose.yaml").read_text())["services"]
    services = {}
    for name in SERVICES:
        if name == SECOND:
            continue
        service = compose["services"][name] | stand_ins.get(name, {})
        service.pop("build", None)
        if "healthcheck" in service:
            first, *words = service["healthcheck"]["test"]
            assert first == "CMD"
            service["healthcheck"] = service["healthcheck"] | {"test": ["CMD-SHELL", shlex.join(words)]}
        services[name] = service
    services["ray-worker"].pop("deploy")  # which older versions do not read
    services[SECOND] = services["ray-worker"]
    used = {name for service in services.values() for name in service.get("secrets", [])}
    files = {name: {"file": str(secrets / name)} for name in used}
    volumes = dict.fromkeys(("runs", "postgres", "s3"))
    return {"services": services, "secrets": files, "volumes": volumes}


@dataclass(frozen=True)
class Deployment:
    engine: Engine
    file: Path
    secrets: Path

    def compose(self, *command: str) -> str:
        words = [*self.engine.compose, "-f", str(self.file), "-p", PROJECT, *command]
        where, environment = self.file.parent, self.engine.environment
        told = subprocess.run(words, cwd=where, capture_output=True, text=True, check=False, env=environment)
        assert told.returncode == 0, f"{shlex.join(words)}: {told.stdout[-1000:]}{told.stderr[-2000:]}"
        return told.stdout

    def containers(self, service: str) -> list[str]:
        wanted = f"label=com.docker.compose.service={service}"
        return self.engine("ps", "-q", "-f", f"label=com.docker.compose.project={PROJECT}", "-f", wanted).split()

    def inside(self, service: str, *command: str) -> str:
        return self.engine("exec", self.containers(service)[0], *command)

    def inspected(self) -> list[Mapping[str, Any]]:
        every = self.engine("ps", "-aq", "-f", f"label=com.docker.compose.project={PROJECT}").split()
        found: list[Mapping[str, Any]] = json.loads(self.engine("inspect", *every))
        return found

    def is_healthy(self, service: str) -> bool:
        """Asks the service's own health check, now."""
        test = yaml.safe_load(self.file.read_text())["services"][service]["healthcheck"]["test"][1]
        found = self.containers(service)
        return bool(found) and all(self.engine.tried("exec", each, "sh", "-c", test).returncode == 0 for each in found)

    def up(self) -> None:
        """Starts the services in the order in which they wait for each other, whether or not the engine's compose does."""
        for service in SERVICES:
            self.compose("up", "-d", "--no-deps", service)
            if service == "s3-bucket":
                continue
            self.until(lambda service=service: self.is_healthy(service), f"{service} is healthy")  # type: ignore[misc]

    def until(self, true: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not true():
            if time.monotonic() > end:
                logs = "\n".join(self.engine("logs", "--tail", "20", each) for name in SERVICES for each in self.containers(name))
                raise AssertionError(f"not in {_PATIENCE_S:g} s: {what}\n{logs}")
            time.sleep(2)


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """The image built, the cluster up; all of it gone afterwards but for the images. Raises NoEngine."""
    engine = build_images(Engine.found(), folder)
    secrets = folder / "secrets"
    subprocess.run([ROOT / "docker" / "new-secrets.sh", secrets], check=True, umask=0o077)
    file = folder / "compose.yaml"
    file.write_text(json.dumps(composed(secrets), indent=1))  # as YAML, in which nothing is shared
    deployment = Deployment(engine, file, secrets)
    try:
        deployment.up()
        yield deployment
    finally:
        deployment.compose("down", "--volumes")
