"""The files of docker/, against the published schemas and by the own checks of those who read them; no engine is needed."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, get_args

import check_jsonschema
import jsonschema
import kubernetes_validate
import pytest
import requests
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS as EXEMPT
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from kd_hpo.cli.main import app
from kd_hpo.study.cluster import prometheus as metrics
from kd_hpo.study.store.folder import State

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = ["compose.yaml", "compose.cuda.yaml"]


def read(name: str) -> Any:
    return yaml.safe_load((DOCKER / name).read_text())


# compose


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_follows_its_specification(name: str) -> None:
    (schema,) = Path(check_jsonschema.__file__).parent.rglob("compose-spec.json")
    jsonschema.validate(read(name), json.loads(schema.read_text()))


def test_compose_opens_ports_on_loopback_only() -> None:
    ports = [port for service in read("compose.yaml")["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 6
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_checks_the_health_of_what_goes_on_running() -> None:
    services = read("compose.yaml")["services"]
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"s3-bucket"}
    for service in services.values():
        for other, waits in service.get("depends_on", {}).items():
            ends = other == "s3-bucket"
            assert waits["condition"] == ("service_completed_successfully" if ends else "service_healthy")


def test_compose_gives_our_commands_options_that_they_have() -> None:
    commands = [service.get("command") for service in read("compose.yaml")["services"].values()]
    ours = [command for command in commands if isinstance(command, str) and command.startswith("kd-hpo ")]
    assert len(ours) == 1
    for command in ours:
        _, bound, _ = app.parse_args(command.split()[1:], exit_on_error=False, print_error=False)
        assert bound.kwargs["dashboard_port"] == 5001 and bound.kwargs["host"] == "0.0.0.0"


def test_nodes_of_ray_are_asked_at_the_address_that_costs_least_and_their_store_fits() -> None:
    """`ray health-check` starts a process of Ray each time; the agent of each node answers without a token."""
    assert "/api/healthz" in EXEMPT
    for name, service in read("compose.yaml")["services"].items():
        assert "health-check" not in str(service.get("healthcheck"))
        if name.startswith("ray-"):
            assert service["healthcheck"]["test"][-1] == "http://127.0.0.1:52365/api/healthz"
            (store,) = re.findall(r"--object-store-memory=(\d+)", service["command"])
            assert service["shm_size"] == "1gb" and int(store) < 10**9


def test_images_are_called_alike() -> None:
    built = set(re.findall(r"-t (kd-hpo:\S+)", (DOCKER / "Dockerfile").read_text()))
    assert built == {"kd-hpo:cpu", "kd-hpo:cu130"}
    assert read("compose.yaml")["services"]["ray-head"]["image"] == "kd-hpo:${TORCH:-cpu}"
    assert "TORCH=cu130 " in (DOCKER / "compose.cuda.yaml").read_text()
    groups = [kuberay()[1]["spec"]["headGroupSpec"], *kuberay()[1]["spec"]["workerGroupSpecs"]]
    used = {container["image"] for group in groups for container in group["template"]["spec"]["containers"]}
    assert used | {read("ray-cluster.yaml")["docker"]["image"]} == built


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_secrets_are_readable_to_who_has_them_in_a_container(tmp_path: Path, umask: int) -> None:
    subprocess.run([DOCKER / "new-secrets.sh", tmp_path / "secrets"], check=True, umask=umask)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "secrets").iterdir()} == {0o644}


def test_secrets_of_compose_come_from_the_files_that_the_script_makes(tmp_path: Path) -> None:
    made = tmp_path / "secrets"
    subprocess.run([DOCKER / "new-secrets.sh", made], check=True)
    compose = read("compose.yaml")
    assert {secret["file"] for secret in compose["secrets"].values()} == {f"secrets/{file.name}" for file in made.iterdir()}
    used = {name for service in compose["services"].values() for name in service.get("secrets", [])}
    assert used == set(compose["secrets"])
    assert made.stat().st_mode & 0o077 == 0
    token = (made / "ray_token").read_text()
    assert re.fullmatch("[0-9a-f]{64}", token)
    (identity,) = json.loads((made / "s3_config").read_text())["identities"]
    assert identity["credentials"][0]["secretKey"] in (made / "s3_credentials").read_text()
    again = subprocess.run([DOCKER / "new-secrets.sh", made], capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "is there already" in again.stderr
    assert (made / "ray_token").read_text() == token


def test_git_and_the_image_know_no_secret() -> None:
    assert "docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*" and not any("secrets" in line for line in ignored)


# the image


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, its arguments), with continued lines joined."""
    text = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_runs_as_a_user_and_copies_what_is_there() -> None:
    steps = dockerfile()
    base = steps[0][1].removeprefix("BASE=")
    assert re.fullmatch(r"docker\.io/library/python:3\.11-slim-trixie@sha256:[0-9a-f]{64}", base) and steps[1] == (
        "FROM",
        "${BASE}",
    )
    assert ("ARG", "TORCH=cpu") in steps
    user = [argument for step, argument in steps if step == "USER"]
    assert user == ["1000"]
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for step, argument in steps:
        if step == "COPY":
            for source in argument.split()[:-1]:
                assert (ROOT / source).exists() and source in allowed


def test_the_image_has_what_others_call_in_it() -> None:
    """KubeRay's probes wget (until its 1.6), Ray's cluster launcher rsync and ssh."""
    installed = " ".join(argument for step, argument in dockerfile() if step == "RUN" and "apt-get install" in argument).split()
    assert {"wget", "rsync", "openssh-client"} <= set(installed)


def test_the_lock_comes_before_torch_and_builds_the_project() -> None:
    """Else torch's index would give, without a hash, what torch asks for; and pip whatever builds the project."""
    runs = [argument for step, argument in dockerfile() if step == "RUN" and "pip install" in argument]
    assert [("--require-hashes" in run, "torch.txt" in run, "/build " in run) for run in runs] == [
        (True, False, False), (False, True, False), (False, False, True),
    ]  # fmt: skip
    assert "--no-build-isolation" in runs[2]
    for requirement in map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]):
        assert requirement.specifier.contains(locked()[requirement.name]), f"{requirement}: make lock"


def locked() -> dict[str, str]:
    text = (DOCKER / "requirements.lock").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+) \\$", text, flags=re.MULTILINE))


def test_the_lock_pins_each_package_by_hash_and_names_no_index() -> None:
    text = (DOCKER / "requirements.lock").read_text()
    blocks = re.split(r"\n(?=[A-Za-z])", text[text.index("\n", text.index("make lock")) + 1 :])
    assert len(blocks) == len(locked()) > 100
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_the_lock_satisfies_the_project() -> None:
    """What the image installs is what pyproject.toml asks for; torch and torchvision come from docker/torch.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for name in ("study", "cluster", "dashboards", "timm") for each in extras[name])]
    torch = dict(re.findall(r"^([\w-]+)==(\S+)$", (DOCKER / "torch.txt").read_text(), flags=re.MULTILINE))
    assert not torch.keys() & locked().keys()
    for requirement in (each for each in map(Requirement, wanted) if each.name != "kd_hpo"):
        version = (locked() | torch)[requirement.name.lower()]
        assert requirement.specifier.contains(version), f"{requirement} has {version}: make lock"


# Ray's cluster launcher and KubeRay


def test_rays_launcher_accepts_its_file() -> None:
    config = prepare_config(read("ray-cluster.yaml"))
    validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def kuberay() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text()))


def test_kubernetes_accepts_the_manifest() -> None:
    """The pods of the cluster as pods by themselves: the schema of Kubernetes has them, that of KubeRay repeats it."""
    claim, cluster = kuberay()
    kubernetes_validate.validate(claim, "1.34", strict=True)
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)


DEFAULT_PORTS = {"client": 10001, "gcs-server": 6379, "dashboard": 8265, "metrics": 8080, "serve": 8000}
"""Of KubeRay, by the names that it knows them by."""


def ports_of_service(cluster: Any) -> dict[str, int]:
    """The rule of KubeRay (1.4 to 1.7): those of the head's first container, its own where there is none; always metrics."""
    (named, *_) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in named.get("ports", [])} or DEFAULT_PORTS
    return {"metrics": DEFAULT_PORTS["metrics"]} | ports


def test_the_service_of_the_head_has_each_port_that_is_asked_for() -> None:
    ports, started = ports_of_service(kuberay()[1]), kuberay()[1]["spec"]["headGroupSpec"]["rayStartParams"]
    assert ports == {name: DEFAULT_PORTS[name] for name in ("gcs-server", "dashboard", "client", "metrics")}
    for name, option in {"gcs-server": "port", "dashboard": "dashboard-port", "client": "ray-client-server-port"}.items():
        assert int(started.get(option, DEFAULT_PORTS[name])) == ports[name]
    assert int(started["metrics-export-port"]) == ports["metrics"] and started["dashboard-host"] == "0.0.0.0"


def test_kuberays_probes_find_what_they_ask() -> None:
    """Until 1.5, `wget` in the container, of the node's agent and the head's dashboard; from 1.6 on, the agent over HTTP."""
    cluster = kuberay()[1]
    for group in [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]:
        assert not {"dashboard-agent-listen-port", "dashboard-port"} & group["rayStartParams"].keys()
        for container in group["template"]["spec"]["containers"]:
            assert not {"livenessProbe", "readinessProbe"} & container.keys()  # or KubeRay would not add its own
    assert {"/api/healthz", "/api/local_raylet_healthz"} <= set(EXEMPT)
    assert tuple(map(int, cluster["spec"]["rayVersion"].split("."))) >= (2, 53)


def test_pods_fit_a_namespace_of_the_level_restricted() -> None:
    cluster = kuberay()[1]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for pod in (group["template"]["spec"] for group in groups):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(container["securityContext"] == confined for container in pod["containers"])
        assert all(volume.keys() <= {"name", "persistentVolumeClaim"} for volume in pod["volumes"])
        assert pod["imagePullSecrets"]
    assert cluster["spec"]["autoscalerOptions"]["securityContext"] == confined  # of the container that KubeRay adds


def test_gpus_have_a_group_and_the_autoscaler_has_room() -> None:
    cpu, gpu = kuberay()[1]["spec"]["workerGroupSpecs"]
    assert kuberay()[1]["spec"]["enableInTreeAutoscaling"] and cpu["minReplicas"] < cpu["replicas"] < cpu["maxReplicas"]
    (container,) = gpu["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1" and gpu["maxReplicas"] > 0


def test_the_manifest_has_what_kuberay_asks_for_around_the_pods() -> None:
    """What KubeRay's types (v1) have of the fields that are used, in 1.4, 1.6 and 1.7 alike, to be known without a network."""
    of_cluster = {"rayVersion": str, "enableInTreeAutoscaling": bool, "autoscalerOptions": dict, "headGroupSpec": dict}
    of_autoscaler = {"idleTimeoutSeconds": int, "env": list, "resources": dict, "securityContext": dict}
    of_workers = {"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}
    of_group = {"rayStartParams": dict, "template": dict}
    spec = kuberay()[1]["spec"]
    head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
    for given, types in [
        (spec, of_cluster | {"workerGroupSpecs": list}),
        (spec["autoscalerOptions"], of_autoscaler),
        (head, of_group),
        *((group, of_workers | of_group) for group in workers),
    ]:
        assert {name: type(value) for name, value in given.items()} == types
    words = [value for group in (head, *workers) for value in group["rayStartParams"].values()]
    assert all(isinstance(word, str) for word in words)  # a number of `ray start` without quotes is refused
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in workers)


def closed(schema: Any) -> Any:
    """As a strict API server reads it: objects have the properties that are named, and no others."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema and schema.get("type") == "object":
        inner["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return inner


@pytest.mark.network
@pytest.mark.parametrize("release", ["v1.4.0", "v1.6.0", "master"])
def test_kuberays_published_schema_accepts_the_manifest(release: str) -> None:
    """The oldest release that the manifest names, and the newest of all."""
    path = "helm-chart/kuberay-operator/crds/ray.io_rayclusters.yaml"
    try:
        answer = requests.get(f"https://raw.githubusercontent.com/ray-project/kuberay/{release}/{path}", timeout=10)
    except requests.RequestException as error:
        pytest.skip(f"KubeRay's schema is at raw.githubusercontent.com, which cannot be reached: {type(error).__name__}")
    if not answer.ok and answer.status_code != 404:  # 404: it has moved, and the address above is to be mended
        pytest.skip(f"raw.githubusercontent.com, which has KubeRay's schema, answers {answer.status_code}")
    answer.raise_for_status()
    (version,) = (each for each in yaml.safe_load(answer.text)["spec"]["versions"] if each["name"] == "v1")
    cluster = kuberay()[1]
    validator = jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))
    assert [error.message for error in validator.iter_errors(cluster)] == []
    cluster["spec"]["workerGroupSpecs"][0]["minReplica"] = 1
    cluster["spec"]["headGroupSpec"]["template"]["spec"]["container"] = []
    assert len(list(validator.iter_errors(cluster))) == 2


def test_rays_autoscaler_reads_the_manifest() -> None:
    _, cluster = kuberay()
    cluster["metadata"]["namespace"] = "default"
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    resources = {name: group["resources"]["CPU"] for name, group in config["available_node_types"].items()}
    assert resources == {"headgroup": 0, "workers": 4, "gpu-workers": 8}
    assert cluster["spec"]["rayVersion"] == locked()["ray"]


# Prometheus and Grafana


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus)")
@pytest.mark.parametrize("command", [("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")])
def test_prometheus_accepts_its_files(command: tuple[str, str, str]) -> None:
    *words, name = command
    told = subprocess.run(["promtool", *words, DOCKER / "prometheus" / name], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_grafana_asks_for_metrics_and_records_that_there_are() -> None:
    dashboard = json.loads((DOCKER / "grafana" / "dashboards" / "kd-hpo.json").read_text())
    rules = yaml.safe_load((DOCKER / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    assert set(re.findall(r"\bkd_hpo:\w+", asked)) == {rule["record"] for rule in rules if "record" in rule}
    ours = {f"ray_{name}" for name in metrics.NAMES}
    rays = {f"ray_{name}" for name in METRICS_GAUGES}
    named = set(re.findall(r"\bray_\w+", " ".join([asked, *(rule["expr"] for rule in rules)])))
    assert {name for name in named if "kd_hpo" in name} == ours
    assert {name for name in named if "kd_hpo" not in name} <= rays
    for state in re.findall(r'state="(\w+)"', json.dumps(rules)):
        assert state in get_args(State)


def test_grafana_finds_what_is_provisioned() -> None:
    source = read("grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    (provider,) = read("grafana/provisioning/dashboards/kd-hpo.yml")["providers"]
    grafana = read("compose.yaml")["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    dashboard = json.loads((DOCKER / "grafana" / "dashboards" / "kd-hpo.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    prometheus = read("prometheus/prometheus.yml")["scrape_configs"][0]["dns_sd_configs"][0]
    ray = {name: service for name, service in read("compose.yaml")["services"].items() if name.startswith("ray-")}
    assert set(prometheus["names"]) == set(ray)
    assert all(f"--metrics-export-port={prometheus['port']}" in service["command"] for service in ray.values())
