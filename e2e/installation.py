"""A local cluster with Burnish in it, as the demo and the end-to-end tests need it: everything through kubectl and helm, as a user would."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from burnish.store import s3
from burnish.store.credentials import Credentials

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
CLUSTER = ROOT / "e2e/cluster/cluster"
START = time.monotonic()
TRAINED = ("prune", "factorize", "qat", "distill", "chain")
"""Examples whose passes train."""
EXPORTERS = dict.fromkeys(("pytorch", "resnet", "minilm", *TRAINED), "optimizer-torch") | {"keras": "optimizer-tensorflow"}
"""Example -> the image in which its source is exported, or its passes train, where that is not the usual one."""


class Installation:
    """The cluster, its S3 server, and Burnish."""

    namespace = "models"
    """That of the demo's models; examples/cluster names it."""
    way = "through the Service"

    def __init__(self, number: str) -> None:
        self.number = number
        self.kubeconfig = output(CLUSTER, "kubeconfig", "--number", number)
        self.system, self.labels = "burnish-system", dict[str, str]()
        self.credentials = Credentials(access_key="demo", secret_key="demo-secret", region="us-east-1")  # only this machine reaches it
        self.sources, self.store = "s3://models", "s3://burnish/demo"
        self.references: dict[str, str] = {}

    def start(self, *flags: str, models: Sequence[str] = ("digits",), **values: object) -> None:
        """All of it; what is there already takes seconds.

        Args:
            flags: of `cluster up`.
            models: examples whose files are uploaded.
            values: of the chart, `__` for a dot.
        """
        run(CLUSTER, "up", "--number", self.number, *flags, prefix="cluster: ")
        say("cluster is up")
        self.images(*exporters(models))
        self.credentials = dataclasses.replace(self.credentials, endpoint=output(CLUSTER, "s3", "--number", self.number))
        files = self.files()
        for bucket in ("models", "burnish"):
            if not files.exists(bucket):
                files.call_s3("create_bucket", Bucket=bucket)
        self.upload(*models)
        self.install(**values)

    def stop(self) -> None:
        """No trace is left."""
        run(CLUSTER, "down", "--number", self.number)
        say("the cluster and all that ran in it are gone")

    @contextlib.contextmanager
    def pressure(self) -> Iterator[None]:
        """The node is short of memory, and its kubelet evicts one pod after the other: of those that keep to their requests the lowest priority first."""
        run(CLUSTER, "up", "--number", self.number, "--pressure", prefix="cluster: ")
        try:
            yield
        finally:
            run(CLUSTER, "up", "--number", self.number, prefix="cluster: ")

    def images(self, *also: str) -> None:
        """Build what has changed, and bring it to the node: the usual images, and those that are only built when they are named."""
        listed = []
        for names in ((), *((name,) for name in also)):
            run(ROOT / "images/build", *names, prefix="images: ")
            listed += listed_images(*names)
        archives = []
        for name, reference, archive in listed:
            self.references[name] = reference
            archives.append(archive)
        run(CLUSTER, "load", "--number", self.number, *archives)
        say("images are on the node")

    def files(self, endpoint: str = "") -> Any:
        """The S3 server, or another one with the same keys, as an fsspec file system."""
        return s3.connect(dataclasses.replace(self.credentials, endpoint=endpoint or self.credentials.endpoint))

    def alias(self, reference: str, tag: str) -> str:
        """Another tag of an image that is on the node."""
        made = f"{reference.rpartition(':')[0]}:{tag}"
        socket = Path(self.kubeconfig).parent / "containerd/c.sock"
        run("ctr", "--address", socket, "--namespace", "k8s.io", "images", "tag", "--force", reference, made)
        return made

    def upload(self, *models: str) -> None:
        """Model and data of examples, into the S3 server."""
        files = self.files()
        for path in {path for model in models for path in example_files(model)}:
            for file in path.rglob("*") if path.is_dir() else [path]:
                if file.is_file():
                    files.put_file(str(file), f"{self.sources}/{file.relative_to(path.parent.parent)}")
        say(f"S3 server at {self.credentials.endpoint or 'Amazon'}: {self.sources} holds {', '.join(models)}, {self.store} is the store")

    def install(self, **values: object) -> None:
        """Both charts."""
        endpoint = urlsplit(self.credentials.endpoint)
        chosen = {
            "images.burnish": self.references["burnish"],
            **{n.replace("optimizer-", "images.optimizers."): found for n, found in self.references.items() if n.startswith("optimizer-")},
            "images.triton": self.references["triton"],
            "store.uri": self.store,
            "store.egressPorts": f"{{{endpoint.port or (80 if endpoint.scheme == 'http' else 443)}}}",
            **{name.replace("__", "."): value for name, value in values.items()},
        }
        sets = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
        self.make_namespace(self.system)
        self.helm("upgrade", "--install", "burnish-crds", ROOT / "charts/burnish-crds", "--namespace", self.system)
        self.helm("upgrade", "--install", "burnish", ROOT / "charts/burnish", "--namespace", self.system, "--wait", "--timeout", "3m", *sets)
        say("Burnish is installed (helm: burnish-crds, burnish)")

    def make_namespace(self, name: str) -> None:
        """A Restricted one."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted", **self.labels}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def space(self, name: str) -> Space:
        """A Restricted namespace with the two Secrets."""
        self.make_namespace(name)
        made = Space(self, name)
        for secret in ("burnish-store", "models"):
            made.secret(secret)
        return made

    def apply_example(self, space: Space, name: str) -> None:
        """As a user would."""
        if name == "digits":
            self.kubectl("apply", "-k", EXAMPLES / "cluster")
            say("kubectl apply -k examples/cluster")
        else:
            space.kubectl("apply", "-f", EXAMPLES / f"cluster/{name}.yaml")
            say(f"kubectl apply --namespace {space.name} -f examples/cluster/{name}.yaml")

    def ask(self, space: Space, service: str, path: str, body: object = None) -> Any:
        """GET from a Service's HTTP port, or POST with JSON; never through a proxy."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://{space.address(service)}:8000{path}", data, {"Content-Type": "application/json"})
        with opener.open(request, timeout=30) as response:
            return json.load(response)

    def hint(self) -> str:
        """How to go on by hand."""
        tools = Path(program("kubectl")).parent
        return (
            f"Go on by hand: export PATH={tools}:$PATH   (kubectl and helm; make demo-down removes everything)\nexport KUBECONFIG={self.kubeconfig}"
        )

    def apply(self, *objects: dict[str, Any]) -> None:
        """kubectl apply, server-side."""
        text = "\n---\n".join(json.dumps(o) for o in objects)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=text)

    def kubectl(self, *arguments: object, text: str | None = None) -> str:
        """Run kubectl on the cluster."""
        return output(program("kubectl"), *arguments, env={"KUBECONFIG": self.kubeconfig}, text=text)

    def helm(self, *arguments: object) -> str:
        """Run helm on the cluster."""
        return output(program("helm"), *arguments, env={"KUBECONFIG": self.kubeconfig})


class Space:
    """One namespace."""

    def __init__(self, installation: Installation, name: str) -> None:
        self.installation, self.name = installation, name

    def secret(self, name: str, endpoint: str = "") -> None:
        """The keys of the S3 server, or of another one."""
        found = self.installation.credentials
        keys = {
            "AWS_ACCESS_KEY_ID": found.access_key,
            "AWS_SECRET_ACCESS_KEY": found.secret_key,
            "AWS_SESSION_TOKEN": found.session_token,
            "AWS_ENDPOINT_URL": endpoint or found.endpoint,
            "AWS_REGION": found.region,
        }
        given = {key: value for key, value in keys.items() if value}
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": given})

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply in this namespace."""
        self.installation.apply(*({**o, "metadata": {**o["metadata"], "namespace": self.name}} for o in objects))

    def kubectl(self, *arguments: object, text: str | None = None) -> str:
        """Run kubectl in this namespace."""
        return self.installation.kubectl("--namespace", self.name, *arguments, text=text)

    def get(self, kind: str, name: str = "", *arguments: object) -> Any:
        """An object, or the items of a list."""
        found = json.loads(self.kubectl("get", kind, *filter(None, [name]), *arguments, "--output", "json"))
        return found if name else found["items"]

    def names(self, kind: str) -> list[str]:
        """With their uids."""
        return sorted(f"{o['metadata']['name']} {o['metadata']['uid']}" for o in self.get(kind))

    def versions(self, *kinds: str) -> list[str]:
        """Of all objects of these kinds: others after any write."""
        return [o["metadata"]["resourceVersion"] for kind in kinds for o in self.get(kind)]

    def free_cpu(self) -> float:
        """CPUs of the node that no pod has asked for."""
        pods = json.loads(self.installation.kubectl("get", "pods", "--all-namespaces", "--field-selector", "status.phase=Running", "-o", "json"))
        (node,) = json.loads(self.installation.kubectl("get", "nodes", "-o", "json"))["items"]
        return _cpus(node["status"]["allocatable"]) - sum(_requested(pod["spec"]) for pod in pods["items"])

    def model(self, name: str) -> Any:
        """An OptimizedModel."""
        return self.get("om", name)

    def states(self, name: str, seconds: float) -> Iterator[Any]:
        """An OptimizedModel, once a second."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield self.model(name)
            time.sleep(1)

    def wait(self, name: str, what: Callable[[Any], bool], seconds: float = 300) -> Any:
        """The OptimizedModel once `what` holds and the status speaks of its newest generation.

        Raises:
            AssertionError: it doesn't in time.
        """
        found = None
        for found in self.states(name, seconds):
            status = found.get("status", {})
            if status.get("observedGeneration") == found["metadata"]["generation"] and what(found):
                return found
        raise AssertionError(f"{name} is not there after {seconds} s: {json.dumps((found or {}).get('status'), indent=1)}")

    def address(self, service: str) -> str:
        """Of a Service; this machine reaches it."""
        return str(self.get("service", service)["spec"]["clusterIP"])

    def empty_store(self) -> None:
        """Its part of the store."""
        files, part = self.installation.files(), f"{self.installation.store}/default/{self.name}"
        if files.exists(part):
            files.rm(part, recursive=True)

    def remove(self) -> None:
        """The namespace and all in it."""
        self.installation.kubectl("delete", "namespace", self.name, "--wait=true", "--timeout=120s")


def exporters(models: Sequence[str]) -> list[str]:
    """The images that these examples need beside the usual ones."""
    return sorted({EXPORTERS[name] for name in models if name in EXPORTERS})


def listed_images(*names: str, prefix: str = "") -> list[tuple[str, str, str]]:
    """Name, reference and archive of images, built or not; the usual ones where none is named."""
    lines = output(ROOT / "images/build", "--list", *names, *(("--prefix", prefix) if prefix else ())).splitlines()
    return [(name, reference, archive) for name, reference, archive in map(str.split, lines)]


def example_files(name: str) -> list[Path]:
    """Model and data of an example, as its manifest names them."""
    spec = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())["spec"]
    return [EXAMPLES / entry["uri"].removeprefix("file:") for entry in (spec["source"], *spec["datasets"].values()) if "uri" in entry]


def digits(name: str = "digits", **spec: Any) -> dict[str, Any]:
    """The example, with parts of its spec replaced."""
    made: dict[str, Any] = yaml.safe_load((ROOT / "examples/cluster/digits.yaml").read_text())
    made["metadata"]["name"] = name
    made["spec"]["targets"][0]["resources"]["cpuRequest"] = "100m"  # two revisions fit side by side
    made["spec"].update(spec)
    return made


def converted(name: str = "digits", **spec: Any) -> dict[str, Any]:
    """The example without passes: the shortest pipeline there is."""
    made = digits(name, **spec)
    del made["spec"]["passes"]
    return made


def condition(model: Any, kind: str) -> dict[str, Any]:
    """A condition of an object, or an empty one."""
    return next((c for c in model.get("status", {}).get("conditions", ()) if c["type"] == kind), {})


def is_ready(model: Any) -> bool:
    """Ready, and the roll is over."""
    return condition(model, "Ready").get("status") == "True" and condition(model, "RolloutComplete").get("status") == "True"


def is_stalled(model: Any) -> bool:
    """Nothing goes on by itself."""
    return condition(model, "Stalled").get("status") == "True"


def _requested(spec: dict[str, Any]) -> float:
    """CPUs of a running pod: its containers and its sidecars, or the largest of what ran before."""
    inits = spec.get("initContainers", ())
    sidecars = [c for c in inits if c.get("restartPolicy") == "Always"]
    asked = sum(_cpus(c["resources"].get("requests", {})) for c in (*spec["containers"], *sidecars))
    return max([asked, *(_cpus(c["resources"].get("requests", {})) for c in inits)])


def _cpus(resources: dict[str, str]) -> float:
    text = resources.get("cpu", "0")
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


@functools.cache
def program(name: str) -> str:
    """A program of the cluster's, built if need be."""
    return output(CLUSTER, "path", name)


def output(*command: object, env: dict[str, str] | None = None, text: str | None = None) -> str:
    """Run to the end, and return what it printed.

    Raises:
        subprocess.CalledProcessError: with what it printed.
    """
    done = subprocess.run([str(c) for c in command], env=os.environ | (env or {}), input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, [str(c) for c in command], done.stdout, done.stderr)
        error.add_note((done.stderr or done.stdout)[-2000:])
        raise error
    return done.stdout.strip()


def run(*command: object, prefix: str = "") -> None:
    """Run to the end, and show what it prints; what a shell needs to know is not for a reader of this.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    arguments = [str(c) for c in command]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("export "):
                print(f"{prefix}{line}", end="", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)


def say(text: str) -> None:
    """One line of progress."""
    print(f"{time.monotonic() - START:6.1f}s  {text}", flush=True)
