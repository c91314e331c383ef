"""What the charts render, value by value; nothing here needs a cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ROOT

from burnish import names
from burnish.controller import apiserver
from burnish.manifests.settings import Settings
from burnish.serving.images import IMAGES
from burnish.store.store import open_store

CHARTS = ROOT / "charts"
SCHEMA = json.loads((CHARTS / "burnish/values.schema.json").read_text())
VALUES = yaml.safe_load((CHARTS / "burnish/values.yaml").read_text())


def one(rendered: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    (found,) = [d for d in rendered if d["kind"] == kind and name in d["metadata"]["name"]]
    return found


def settings_of(rendered: list[dict[str, Any]]) -> Settings:
    return Settings.model_validate(yaml.safe_load(one(rendered, "ConfigMap")["data"]["settings.yaml"]))


def rules_of(rendered: list[dict[str, Any]]) -> dict[tuple[str, str], set[str]]:
    """(group, resource) -> verbs, over everything that the controller's account gets."""
    found: dict[tuple[str, str], set[str]] = {}
    for document in rendered:
        for rule in document.get("rules", ()) if document["kind"] in ("Role", "ClusterRole") else ():
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("chart", ["burnish", "burnish-crds"])
def test_charts_pass_strict_lint(helm, flags, chart: str) -> None:
    for values in ([], flags() if chart == "burnish" else []):
        done = helm("lint", "--strict", CHARTS / chart, *values)
        assert done.returncode == 0, done.stdout + done.stderr


def test_default_install_renders_these_objects_and_no_others(helm) -> None:
    kinds = sorted(f"{d['kind']}/{d['metadata']['name']}" for d in helm.template())
    assert kinds == [
        "ClusterRole/burnish-system-burnish-controller",
        "ClusterRoleBinding/burnish-system-burnish-controller",
        "ConfigMap/burnish-controller",
        "Deployment/burnish-controller",
        "NetworkPolicy/burnish-controller",
        "Role/burnish-controller-lease",
        "RoleBinding/burnish-controller-lease",
        "Service/burnish-controller",
        "ServiceAccount/burnish-controller",
    ]


def test_default_values_are_the_settings_own_defaults(helm) -> None:
    least = {
        "images": {"burnish": "burnish:1", "optimizers": {"onnx": "optimizer-onnx:1"}, "triton": "triton:1"},
        "store": {"uri": "s3://models/store"},
    }
    assert settings_of(helm.template()) == Settings.model_validate(least)


def test_every_setting_can_be_set(helm) -> None:
    changed = {
        "images__servingImage": "nvidia-25.10",
        "images__pullPolicy": "Always",
        "images__pullSecrets": "{registry}",
        "store__uri": "",
        "store__secretName": "keys",
        "store__egressCidrs": "{10.0.0.0/8}",
        "store__egressPorts": "{9000}",
        "store__volume__enabled": "true",
        "store__volume__claimName": "models",
        "store__volume__size": "5Gi",
        "store__volume__storageClassName": "fast",
        "store__volume__accessMode": "ReadWriteOnce",
        "cluster": "blue",
        "watchNamespaces": "{one,two}",
        "steps__heavy__cpu": "4",
        "steps__client__cpu": "2",
        "steps__light__memory": "1Gi",
        "workSize": "7Gi",
        "proxy__https": "http://proxy:3128",
        "proxy__noProxy": ".svc",
        "allowPrivateAddresses": "true",
        "trustedNamespaces": "{one}",
        "hardwareMismatch": "Warn",
        "rolloutTimeout": "3m",
        "drain": "5s",
        "resync": "1m",
        "workers": "3",
    }
    found, default = settings_of(helm.template("other", **changed)), settings_of(helm.template())
    same = [name for name in Settings.model_fields if getattr(found, name) == getattr(default, name)]
    assert same == ["lease_name"]
    assert found.lease_namespace == "other"
    assert found.store.volume is not None
    assert (found.store.uri, found.store.volume.access_mode, found.images.serving_image) == (None, "ReadWriteOnce", "nvidia-25.10")


def test_other_settings_mean_another_pod_and_other_resources_of_it_do_not(helm) -> None:
    def checksum(**values: object) -> str:
        annotations = one(helm.template(**values), "Deployment")["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/settings"])

    assert checksum() != checksum(workers=3)
    assert checksum() == checksum(resources__limits__memory="1Gi")


def test_controller_is_restricted_probed_and_alone(helm) -> None:
    spec = one(helm.template(), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"] | {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}} == pod["securityContext"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["command"][:5] == ["python3", "-m", "burnish.controller", "--settings", "/etc/burnish/settings.yaml"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"health": 8080, "metrics": 9090}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": "{one}"}, {"store__uri": "", "store__volume__enabled": "true"}], ids=str)
def test_controller_may_do_what_it_does_and_reads_no_secret(helm, values: dict[str, object]) -> None:
    rules = rules_of(helm.template(**values))
    assert "secrets" not in {resource for _, resource in rules}
    assert not [key for key in rules if "*" in key]
    assert not [verbs for verbs in rules.values() if verbs & {"*", "deletecollection", "escalate", "bind", "impersonate"}]
    for resource in (apiserver.MODEL, *apiserver.WATCHED):
        assert rules[resource.group, resource.plural] >= {"get", "list", "watch"}
    for resource in (apiserver.JOB, apiserver.DEPLOYMENT, apiserver.SERVICE, apiserver.NETWORK_POLICY):
        assert "create" in rules[resource.group, resource.plural]
    for resource in (apiserver.MODEL, apiserver.POD, apiserver.NODE, apiserver.CORE_EVENT):
        assert not rules.get((resource.group, resource.plural), set()) & {"create", "update", "patch", "delete"}
    assert ((apiserver.CLAIM.group, apiserver.CLAIM.plural) in rules) == ("store__volume__enabled" in values)


def test_namespaced_install_has_nothing_cluster_wide(helm) -> None:
    rendered = helm.template(watchNamespaces="{one,two}")
    assert not [d["kind"] for d in rendered if d["kind"].startswith("Cluster")]
    roles = {(d["kind"], d["metadata"].get("namespace")) for d in rendered if "Role" in d["kind"] and "lease" not in d["metadata"]["name"]}
    assert roles == {(kind, namespace) for kind in ("Role", "RoleBinding") for namespace in ("one", "two")}
    assert settings_of(rendered).watch_namespaces == ("one", "two")
    binding = next(d for d in rendered if d["kind"] == "RoleBinding" and d["metadata"].get("namespace") == "one")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "burnish-controller", "namespace": "burnish-system"}]


def test_two_releases_do_not_share_a_name_or_a_lease(helm) -> None:
    one_name, other = helm.template("a"), helm.template("b")
    cluster_wide = [{d["metadata"]["name"] for d in rendered if d["kind"].startswith("Cluster")} for rendered in (one_name, other)]
    assert not cluster_wide[0] & cluster_wide[1]
    assert settings_of(one_name).lease_namespace != settings_of(other).lease_namespace


def test_monitors_are_off_until_asked_for_and_name_ports_that_exist(helm) -> None:
    rendered = helm.template(monitoring__serviceMonitor="true", monitoring__podMonitor="true", monitoring__labels__release="prometheus")
    service_monitor, pod_monitor = one(rendered, "ServiceMonitor"), one(rendered, "PodMonitor")
    assert service_monitor["spec"]["selector"]["matchLabels"].items() <= one(rendered, "Service")["metadata"]["labels"].items()
    assert [e["port"] for e in service_monitor["spec"]["endpoints"]] == [p["name"] for p in one(rendered, "Service")["spec"]["ports"]]
    assert [e["port"] for e in pod_monitor["spec"]["podMetricsEndpoints"]] == ["metrics", "probe"]
    assert pod_monitor["spec"]["selector"]["matchLabels"]["burnish.dev/component"] == "server"
    assert pod_monitor["spec"]["namespaceSelector"] == {"any": True}
    assert all(m["metadata"]["labels"]["release"] == "prometheus" for m in (service_monitor, pod_monitor))
    narrow = one(helm.template(monitoring__podMonitor="true", watchNamespaces="{one}"), "PodMonitor")
    assert narrow["spec"]["namespaceSelector"] == {"matchNames": ["one"]}


def test_policy_lets_the_controller_reach_dns_and_the_apiserver_only(helm) -> None:
    policy = one(helm.template(networkPolicy__apiServerPorts="{8443}"), "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == one(helm.template(), "Deployment")["spec"]["selector"]["matchLabels"]
    assert sorted({port["port"] for rule in policy["egress"] for port in rule["ports"]}) == [53, 8443]
    assert not [d for d in helm.template(networkPolicy__enabled="false") if d["kind"] == "NetworkPolicy"]


SWEEP = {"sweep__schedule": "0 3 * * 0", "sweep__namespaces": "{one,two}"}
VOLUME = {"store__uri": "", "store__volume__enabled": "true"}


def test_sweep_is_off_until_asked_for_and_then_in_each_namespace(helm) -> None:
    rendered = helm.template(**SWEEP)
    assert [d["metadata"]["namespace"] for d in rendered if d["kind"] == "CronJob"] == ["one", "two"]
    assert {d["spec"]["schedule"] for d in rendered if d["kind"] == "CronJob"} == {"0 3 * * 0"}
    same = helm.template(sweep__schedule="@weekly", watchNamespaces="{three}")
    assert one(same, "CronJob")["metadata"]["namespace"] == "three"
    assert rules_of(rendered) == rules_of(helm.template())  # the controller may do no more for it


@pytest.mark.parametrize("store", [{}, VOLUME], ids=["s3", "volume"])
def test_sweep_has_the_store_and_nothing_of_the_cluster(helm, store: dict[str, object]) -> None:
    proxy = {"proxy__https": "http://proxy:3128", "proxy__noProxy": ".svc"}
    rendered = helm.template(**{**SWEEP, "sweep__namespaces": "{one}", "images__pullSecrets": "{registry}"}, **proxy, **store)
    template = one(rendered, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("default", False)
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert container["resources"]["limits"] == {"cpu": "500m", "memory": "512Mi"}
    source = {v["name"]: v for v in pod["volumes"]}["store"]
    assert source.get("persistentVolumeClaim") == ({"claimName": "burnish-store"} if store else None)
    assert source.get("secret", {}).get("secretName") == (None if store else "burnish-store")
    told = {e["name"]: e["value"] for e in container["env"] if "PROXY" in e["name"]}
    assert told == ({} if store else {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".svc"})
    policy = one(rendered, "NetworkPolicy", "sweep")
    assert policy["metadata"]["namespace"] == "one"
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert policy["spec"]["ingress"] == []
    assert sorted({port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}) == ([] if store else [53, 443])
    assert [d["metadata"]["name"] for d in helm.template(**SWEEP, networkPolicy__enabled="false") if d["kind"] == "NetworkPolicy"] == []


def test_nothing_of_the_controllers_selects_a_sweep(helm) -> None:
    rendered = helm.template(**SWEEP, monitoring__serviceMonitor="true")
    labels = next(d for d in rendered if d["kind"] == "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    chosen = [
        one(rendered, "Service")["spec"]["selector"],
        one(rendered, "Deployment")["spec"]["selector"]["matchLabels"],
        one(rendered, "NetworkPolicy", "controller")["spec"]["podSelector"]["matchLabels"],
    ]
    assert not [selector for selector in chosen if selector.items() <= labels.items()]
    assert labels["app.kubernetes.io/managed-by"] != names.MANAGED_BY  # by which the controller finds its own


def swept_by(helm, folder: Path, **values: object) -> subprocess.CompletedProcess[str]:
    """What the CronJob's container does, with what it mounts in `folder`."""
    rendered = helm.template(**{**SWEEP, "sweep__namespaces": "{one}", "cluster": "blue"}, **values)
    (container,) = one(rendered, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    mounts = [m["mountPath"] for m in container["volumeMounts"] if m["mountPath"] != "/tmp"]
    command = [sys.executable, *container["command"][1:]]
    for mount in mounts:
        command = [part.replace(f"={mount}", f"={folder}{mount}") for part in command]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_sweeps_command_sweeps_a_volume(helm, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", cluster="blue", namespace="one")
    digest, young = store.put_blob(b"garbage"), store.put_blob(b"young")
    path = Path(store.location, "blobs/sha256", digest.removeprefix("sha256:"))
    then = time.time() - 8 * 24 * 3600
    os.utime(path, (then, then))
    done = swept_by(helm, tmp_path, **VOLUME)
    assert (done.returncode, done.stdout) == (0, f"{digest}  7\ndeleted 1 blob, 7\n"), done.stderr
    assert (store.has_blob(digest), store.has_blob(young)) == (False, True)


def test_sweeps_command_says_that_the_secret_is_missing(helm, tmp_path: Path) -> None:
    done = swept_by(helm, tmp_path)
    assert done.returncode != 0
    assert "SecretNotFound: the store's Secret: the Secret is not in this namespace, or has none of the keys AWS_ACCESS_KEY_ID" in done.stderr


def test_crd_chart_keeps_the_crd_and_gives_people_their_roles(helm) -> None:
    rendered = helm.template(chart="burnish-crds")
    crd = one(rendered, "CustomResourceDefinition")
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert crd == yaml.safe_load((ROOT / "crds/burnish.dev_optimizedmodels.yaml").read_text())
    assert {d["metadata"]["name"] for d in rendered if d["kind"] == "ClusterRole"} == {"optimizedmodels-edit", "optimizedmodels-view"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"images__burnish": None}, "images.burnish is empty; name the image"),
        ({"images__optimizers__onnx": ""}, "images.optimizers.onnx is empty"),
        ({"images__triton": ""}, "images.triton is empty"),
        ({"store__uri": ""}, "there is no store; set store.uri"),
        ({"store__volume__enabled": "true"}, "both set; keep one"),
        ({"store__uri": "s3://key:secret@bucket/prefix"}, "/store/uri"),
        ({"store__uri": "gs://bucket/prefix"}, "/store/uri"),
        ({"images__servingImage": "nvidia-99.01"}, "/images/servingImage"),
        ({"images__pullPolicy": "Sometimes"}, "/images/pullPolicy"),
        ({"images__busybox": "a"}, "busybox"),
        ({"watchNamespaces": "{Prod}"}, "/watchNamespaces/0"),
        ({"steps__heavy__memory": "4GB"}, "/steps/heavy/memory"),
        ({"steps__huge__memory": "4Gi"}, "huge"),
        ({"hardwareMismatch": "Ignore"}, "/hardwareMismatch"),
        ({"rolloutTimeout": "soon"}, "/rolloutTimeout"),
        ({"workers": "0"}, "/workers"),
        ({"proxy__https": "http://user:hunter2@proxy:3128"}, "/proxy/https"),
        ({"networkPolicy__apiServerPorts": "{70000}"}, "/networkPolicy/apiServerPorts/0"),
        ({"monitoring__servicemonitor": "true"}, "servicemonitor"),
        ({"logLevel": "loud"}, "/logLevel"),
        ({"sweep__schedule": "@weekly"}, "name them in sweep.namespaces"),
        ({"sweep__schedule": "sundays"}, "/sweep/schedule"),
        ({"sweep__olderThan": "23h"}, "/sweep/olderThan"),
        ({"sweep__olderThan": "0d"}, "/sweep/olderThan"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_values_are_refused_by_name(helm, flags, values: dict[str, object], words: str) -> None:
    done = helm("template", "burnish", CHARTS / "burnish", *flags(**values))
    assert done.returncode != 0
    assert words in done.stderr


def leaves(node: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    found = {}
    for name, child in node.get("properties", {}).items():
        where = f"{path}.{name}".lstrip(".")
        found[where] = child
        found |= leaves(child, where)
    return found


def test_schema_describes_every_value_and_knows_every_serving_image() -> None:
    described = leaves(SCHEMA)
    assert described["images.servingImage"]["enum"] == list(IMAGES)
    assert not [path for path, node in described.items() if len(node.get("description", "")) < 5]

    def written(values: dict[str, Any], path: str = "") -> set[str]:
        found = set()
        for name, value in values.items():
            where = f"{path}.{name}".lstrip(".")
            found |= {where} | (written(value, where) if isinstance(value, dict) else set())
        return found

    free = {"images.optimizers.onnx"} | {p for p in written(VALUES) if p.startswith(("resources.", "steps."))}
    assert written(VALUES) - free <= set(described)
    assert {p for p in described if p != "global"} <= written(VALUES)


def test_notes_tell_what_to_do_next(helm, flags) -> None:
    text = (CHARTS / "burnish/templates/NOTES.txt").read_text()
    assert "kubectl create secret generic" in text
    assert "kubectl get optimizedmodels" in text


def test_docs_name_every_value() -> None:
    text = (ROOT / "docs/install.md").read_text()
    named = set(re.findall(r"^\| `([\w.]+)`", text, flags=re.MULTILINE))
    values = {path for path, node in leaves(SCHEMA).items() if "properties" not in node and path != "global"}
    assert named == values - {"images.optimizers"} | {"images.optimizers.onnx"}


def test_docs_name_every_right(helm) -> None:
    text = (ROOT / "docs/install.md").read_text()
    told = {}
    for line in text[text.index("## What the controller may do") : text.index("## Without rights")].splitlines():
        if match := re.match(r"\| ([\w/]+)(?: \(([\w.]+)\)|, [\w ]+)? \| ([a-z; ]+?)(?: of its own)? \|", line):
            told[match[1], match[2] or ""] = set(re.findall(r"[a-z]+", match[3]))
    rules = rules_of(helm.template(store__uri="", store__volume__enabled="true"))
    known = {(resource, group if resource == "events" else ""): verbs for (group, resource), verbs in rules.items()}
    assert told.pop(("resource", "")) == {"verbs"}
    assert told == known
