"""A revision and its Services: what is rendered, what makes another revision of it, and what every pod must be whatever the target.

Golden files hold whole objects. To accept changed ones: BURNISH_GOLDEN=write pytest tests/unit/manifests, then read the diff.
"""

import argparse
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from burnish import names
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.manifests import jobs, serving
from burnish.pipeline import probe, pull
from burnish.serving.config import ServingOptions, options_of

GOLDEN = Path(__file__).parents[2] / "golden" / "manifests"
REVISION = "12345678"
CASES = ("cpu", "gpu", "volume")
NVIDIA = {"triton": "nvcr.io/nvidia/tritonserver:25.10-py3", "serving_image": "nvidia-25.10"}


@pytest.fixture
def make(make_settings, make_model, make_artifact, gpu, uid):
    """The Deployment of a case."""

    def render(case: str) -> dict:
        settings, model = make_settings(), make_model()
        if case == "gpu":
            settings = make_settings(images=NVIDIA | {"pull_secrets": ["mirror"]})
            batching = {"maxBatchSize": 16, "preferredBatchSizes": [8, 16], "maxQueueDelay": "2ms"}
            model = make_model(gpu, serving={"dynamicBatching": batching})
        if case == "volume":
            settings = make_settings(store={"volume": {}}, hardware_mismatch="Warn")
        return serving.build_deployment(model, model.spec.primary, make_artifact(), REVISION, 3, settings, uid=uid)

    return render


def pod(deployment: dict) -> dict:
    return deployment["spec"]["template"]["spec"]


def containers(deployment: dict) -> dict[str, dict]:
    return {c["name"]: c for c in (*pod(deployment)["initContainers"], *pod(deployment)["containers"])}


# --- whole objects ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_deployment_is_the_golden_one(make, case):
    check_golden(f"deployment_{case}.yaml", make(case))


@pytest.mark.parametrize("of_target", [True, False])
def test_service_is_the_golden_one(make_model, settings, uid, of_target):
    model = make_model()
    found = serving.build_service(model, model.spec.primary if of_target else None, REVISION, settings, uid=uid)
    check_golden(f"service_{'target' if of_target else 'model'}.yaml", found)


def check_golden(name: str, found: dict) -> None:
    path = GOLDEN / name
    if os.environ.get("BURNISH_GOLDEN") == "write":
        path.write_text(yaml.safe_dump(json.loads(json.dumps(found)), sort_keys=False, width=150))
    assert found == yaml.safe_load(path.read_text())


# --- revisions --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def revision_of(make_settings, make_model, make_artifact):
    def of(*, target=None, artifact=None, settings=None, **spec) -> str:
        model = make_model(target, **spec)
        return serving.revision(make_artifact(**artifact or {}), model.spec.primary, model, make_settings(**settings or {}))

    return of


def test_revision_is_eight_hex_digits_and_stands_in_a_release_note_if_it_changes(revision_of):
    """Written out: a release that changes it rolls every server of every installation."""
    assert revision_of() == "105e36ca"


@pytest.mark.parametrize(
    "change",
    [
        {"artifact": {"digit": "b"}},
        {"settings": {"images": {"triton": "triton:2"}}},
        {"settings": {"images": {"serving_image": "nvidia-25.10"}}},
        {"target": {"resources": {"cpu": "3", "memory": "1Gi", "cpuRequest": "100m"}}},
        {"target": {"resources": {"cpu": "2", "memory": "2Gi", "cpuRequest": "100m"}}},
        {"target": {"resources": {"cpu": "2", "memory": "1Gi"}}},
        {"target": {"accelerator": {"nodeLabels": [{"name": "pool", "value": "a"}]}}},
        {"target": {"accelerator": {"type": "GPU"}}},
        {"target": {"pods": {"priorityClassName": "low"}}},
        {"target": {"pods": {"tolerations": [{"key": "pool", "operator": "Exists"}]}}},
        {"measurement": {"loads": [{"name": "batch", "batchSize": 8}]}},
        {"serving": {"dynamicBatching": {"maxBatchSize": 4}}},
        {"serving": {"dynamicBatching": {"maxBatchSize": 1}}},
        {"serving": {"dynamicBatching": {"maxBatchSize": 1, "maxQueueDelay": "1ms"}}},
    ],
    ids=json.dumps,
)
def test_revision_changes_with_what_makes_a_server_answer_as_it_does(revision_of, change):
    assert revision_of(**change) != revision_of()


@pytest.mark.parametrize(
    "change",
    [
        {"serving": {"replicas": 7}},
        {"settings": {"images": {"burnish": "burnish:2"}}},
        {"settings": {"images": {"pull_policy": "Always"}}},
        {"settings": {"rollout_timeout": "1h"}},
        {"settings": {"hardware_mismatch": "Warn"}},
        {"settings": {"light": {"cpu": "1"}}},
        {"artifact": {"uri": "s3://elsewhere", "size": "27Mi", "served": "Baseline"}},
        {"constraints": {"maxSlowdownPercent": 9}},
        {"measurement": {"loads": [{"name": "many", "concurrency": 9}]}},
        {"jobs": {"deadline": "2h"}},
        {"suspend": True},
    ],
    ids=json.dumps,
)
def test_revision_does_not_change_with_anything_else(revision_of, change):
    assert revision_of(**change) == revision_of()


def test_revision_does_not_change_with_a_default_that_is_written_out(revision_of):
    assert revision_of(target={"accelerator": {"type": "CPU", "nodeLabels": []}, "pods": {"tolerations": []}}) == revision_of()


def test_selector_never_matches_a_pod_of_a_job(make, make_model, settings, uid):
    model = make_model()
    chosen = serving.selector(model, model.spec.primary, REVISION)
    assert chosen[names.LABEL_COMPONENT] == names.COMPONENT_SERVER
    assert chosen[names.LABEL_REVISION] == REVISION
    deployment = make("cpu")
    assert deployment["spec"]["selector"]["matchLabels"] == chosen
    assert chosen.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    for job in (jobs.build_resolve(model, "k" * 64, settings, uid=uid), jobs.build_pipeline(model, model.spec.primary, "k" * 64, settings, uid=uid)):
        assert not chosen.items() <= job["spec"]["template"]["metadata"]["labels"].items()


def test_selector_text_is_the_selector(make_model):
    model = make_model()
    text = serving.selector_text(model, model.spec.primary, REVISION)
    assert dict(pair.split("=") for pair in text.split(",")) == serving.selector(model, model.spec.primary, REVISION)


# --- every pod --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_pod_is_restricted(make, case):
    """Pod Security Standards, profile Restricted: https://kubernetes.io/docs/concepts/security/pod-security-standards/."""
    spec = pod(make(case))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= {"emptyDir", "secret", "persistentVolumeClaim", "downwardAPI"}
    for container in containers(make(case)).values():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert not {"privileged", "runAsUser", "procMount"} & set(context)
        assert not any("hostPort" in port for port in container.get("ports", ()))


@pytest.mark.parametrize("case", CASES)
def test_pod_has_no_token_and_no_environment_of_other_services(make, case):
    assert pod(make(case))["automountServiceAccountToken"] is False
    assert pod(make(case))["enableServiceLinks"] is False


@pytest.mark.parametrize("case", CASES)
def test_only_pull_reaches_the_store(make, case):
    for name, container in containers(make(case)).items():
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert bool(mounted & {"store", "store-credentials"}) is (name == "pull")
        assert ("--store" in container["command"]) is (name == "pull")


@pytest.mark.parametrize("case", CASES)
def test_every_mount_has_its_volume_and_every_container_its_limits(make, case):
    spec = pod(make(case))
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert len(volumes) == len(spec["volumes"])
    assert {mount["name"] for c in containers(make(case)).values() for mount in c["volumeMounts"]} == volumes
    for container in containers(make(case)).values():
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert any(mount["mountPath"] == "/tmp" and not mount.get("readOnly") for mount in container["volumeMounts"])


def test_what_pull_wrote_is_read_only_for_the_others_and_triton_shares_no_scratch(make):
    found = containers(make("cpu"))
    mounts = {name: {m["mountPath"]: m for m in c["volumeMounts"]} for name, c in found.items()}
    assert mounts["triton"]["/models"]["readOnly"] is True
    assert mounts["probe"]["/golden"]["readOnly"] is True
    assert "/golden" not in mounts["triton"]
    assert mounts["triton"]["/tmp"]["name"] not in {mounts["probe"]["/tmp"]["name"], mounts["pull"]["/tmp"]["name"]}


def test_triton_measures_and_serves_with_the_same_image_resources_flags_and_environment(make_model, make_artifact, settings, gpu, uid):
    for target in (None, gpu):
        model = make_model(target)
        job = jobs.build_pipeline(model, model.spec.primary, "k" * 64, settings, uid=uid)
        [measuring] = [c for c in job["spec"]["template"]["spec"]["initContainers"] if c["name"] == "triton"]
        served = containers(serving.build_deployment(model, model.spec.primary, make_artifact(), REVISION, 1, settings, uid=uid))["triton"]
        assert {key: measuring[key] for key in ("image", "resources", "env")} == {key: served[key] for key in ("image", "resources", "env")}
        own = {"--exit-on-error=false"}
        flags = [{f for f in c["command"][1:] if not f.startswith("--model-repository=")} - own for c in (measuring, served)]
        assert flags[0] == flags[1] == set(serving.flags())


# --- programs ---------------------------------------------------------------------------------------------------------------------------


def parsed(command: list[str], module, monkeypatch) -> argparse.Namespace:
    """The command line as the program itself reads it."""
    assert command[:3] == ["python3", "-m", module.__name__]
    found: list[argparse.Namespace] = []

    class ParsedError(Exception):
        pass

    original = argparse.ArgumentParser.parse_args

    def parse(self, arguments=None, namespace=None):
        found.append(original(self, arguments, namespace))
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(ParsedError):
        module.main(command[3:])
    monkeypatch.undo()
    return found[0]


@pytest.mark.parametrize("case", CASES)
def test_pull_understands_its_command_line(make, case, monkeypatch, make_model, gpu):
    found = parsed(containers(make(case))["pull"]["command"], pull, monkeypatch)
    assert found.digest == "sha256:" + "a" * 64
    assert found.model_name == "digits"
    assert (str(found.models), str(found.golden)) == ("/models", "/golden")
    assert (found.cluster, found.namespace) == ("blue", "models")
    assert found.store == ("/store" if case == "volume" else "s3://models/store")
    assert (found.store_credentials is None) is (case == "volume")
    assert found.mismatch == ("Warn" if case == "volume" else "Refuse")
    options = ServingOptions.from_json(found.options)
    if case == "gpu":
        assert (options.gpus, options.is_dynamic, options.max_batch_size) == (2, True, 16)
        assert (options.preferred_batch_sizes, options.max_queue_delay_us) == ((8, 16), 2000)
    else:
        model: OptimizedModel = make_model()
        assert options == options_of(model.spec.primary, model.spec.measurement.loads, None)


def test_probe_understands_its_command_line_and_has_the_servers_ports(make, monkeypatch):
    found = parsed(containers(make("cpu"))["probe"]["command"], probe, monkeypatch)
    assert (found.model, str(found.golden), found.port) == ("digits", "/golden", names.PROBE_PORT)
    assert (found.http_port, found.metrics_port) == (names.HTTP_PORT, names.METRICS_PORT)


def test_kubelet_asks_the_probe_what_the_probe_answers(make):
    found = containers(make("cpu"))
    answered = set(re.findall(r"^ {4}(/\w+)", probe.__doc__, re.MULTILINE)) | {"/metrics"}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = found["triton"][kind]["httpGet"]
        assert asked["path"] in answered
        assert asked["port"] == names.PROBE_PORT
    assert found["probe"]["readinessProbe"]["httpGet"] == found["triton"]["readinessProbe"]["httpGet"]


# --- time and memory --------------------------------------------------------------------------------------------------------------------


def test_draining_has_time_for_every_part_of_it(make):
    found = containers(make("cpu"))["triton"]
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in found["command"][1:] if "=" in flag)
    pre_stop = found["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pre_stop * 1000 > 1.1 * int(flags["grpc-max-connection-age"]) + 3000, "gRPC spreads ages by 10 %; endpoints take a second or two to spread"
    assert pod(make("cpu"))["terminationGracePeriodSeconds"] >= pre_stop + int(flags["exit-timeout-secs"]) + 5


@pytest.mark.parametrize(("told", "size", "probe_memory"), [("96Mi", "96Mi", "256Mi"), ("1Gi", "1024Mi", "2112Mi"), (None, "64Mi", "192Mi")])
def test_shared_memory_is_the_artifacts(make_model, make_artifact, settings, uid, told, size, probe_memory):
    model = make_model()
    found = serving.build_deployment(model, model.spec.primary, make_artifact(sharedMemory=told), REVISION, 1, settings, uid=uid)
    [volume] = [v for v in pod(found)["volumes"] if v["name"] == "shm"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": size}
    assert {"name": "shm", "mountPath": "/dev/shm"} in containers(found)["triton"]["volumeMounts"]
    assert containers(found)["probe"]["resources"]["limits"]["memory"] == probe_memory


def test_addresses_are_those_of_the_services(make_model, settings, uid):
    model = make_model()
    for target in (None, model.spec.primary):
        service = serving.build_service(model, target, REVISION, settings, uid=uid)
        host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
        assert serving.url(model, target) == f"http://{host}:8000"
        assert serving.grpc_url(model, target) == f"grpc://{host}:8001"
        assert {p["name"]: p["port"] for p in service["spec"]["ports"]} == {"http": 8000, "grpc": 8001}
