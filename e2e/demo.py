"""`make demo`: from nothing to a served model on a real Kubernetes, as a user would do it by hand; `make demo-down` takes all of it away.

Everything happens in a cluster of its own on this machine; for an existing one see docs/install.md.
"""

from __future__ import annotations

import argparse
import array
import ast
import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.cli.output import print_object
from burnish.store import credentials, s3

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "e2e/cluster/cluster"
NAMESPACE, SYSTEM = "models", "burnish-system"
S3_KEY, S3_SECRET = "demo", "demo-secret"  # of the local S3 server, which only this machine reaches
FOLLOW_SECONDS, STALLED_LOOKS = 1800, 5
START = time.monotonic()


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["up", "down"])
    parser.add_argument("--number", default="0", help="of the local cluster (see e2e/cluster/cluster --help)")
    parser.add_argument("--example", default="digits", help="folder or manifest in examples/cluster to wait for (default digits)")
    options = parser.parse_args()
    if options.command == "down":
        run(CLUSTER, "down", "--number", options.number)
        say("the cluster and all that ran in it are gone")
        return 0
    demo = Demo(options.number)
    try:
        return demo.up(options.example)
    except subprocess.CalledProcessError as error:
        print(f"demo: `{shlex.join(map(str, error.cmd))}` failed with exit code {error.returncode}", file=sys.stderr)
        for stream in (error.stdout, error.stderr):
            print((stream or "").rstrip()[-4000:], file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; what was started goes on (make demo-down ends it, make demo goes on)", file=sys.stderr)
        return 130


class Demo:
    """A local cluster with Burnish in it."""

    def __init__(self, number: str) -> None:
        self.number = number
        self.kubeconfig = output(CLUSTER, "kubeconfig", "--number", number)

    def up(self, example: str) -> int:
        """All of it; what is there already takes seconds."""
        run(CLUSTER, "up", "--number", self.number, prefix="cluster: ")
        say("cluster is up")
        self.images()
        endpoint = output(CLUSTER, "s3", "--number", self.number)
        self.upload(endpoint)
        self.install(endpoint)
        self.apply(endpoint)
        found = self.follow(example)
        if found is None:
            return 1
        print()
        print_object(found, "table")
        self.ask(found)
        tools = Path(output(CLUSTER, "path", "kubectl")).parent
        print(f"\nGo on by hand: export PATH={tools}:$PATH   (kubectl and helm; make demo-down removes everything)")
        print(f"export KUBECONFIG={self.kubeconfig}")
        return 0

    # --- steps ------------------------------------------------------------------------------------------------------------------------

    def images(self) -> None:
        """Build what has changed, and bring it to the node."""
        run(ROOT / "images/build", prefix="images: ")
        self.references = {}
        archives = []
        for line in output(ROOT / "images/build", "--list").splitlines():
            name, reference, archive = line.split()
            self.references[name] = reference
            archives.append(archive)
        run(CLUSTER, "load", "--number", self.number, *archives)
        say("images are on the node")

    def upload(self, endpoint: str) -> None:
        """The example's model and data, into the S3 server."""
        files = s3.connect(credentials.Credentials(access_key=S3_KEY, secret_key=S3_SECRET, endpoint=endpoint, region="us-east-1"))
        for bucket in ("models", "burnish"):
            if not files.exists(bucket):
                files.call_s3("create_bucket", Bucket=bucket)
        for file in sorted((ROOT / "examples/digits").glob("*.[no][pn][zn]*")):
            files.put_file(str(file), f"models/digits/{file.name}")
        say(f"S3 server at {endpoint}: s3://models holds the example, s3://burnish is the store")

    def install(self, endpoint: str) -> None:
        """Both charts."""
        values = {
            "images.burnish": self.references["burnish"],
            "images.optimizers.onnx": self.references["optimizer-onnx"],
            "images.triton": self.references["triton"],
            "store.uri": "s3://burnish/demo",
            "store.egressPorts": f"{{{endpoint.rsplit(':', 1)[1]}}}",
        }
        sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
        namespace = ["--namespace", SYSTEM, "--create-namespace"]
        self.helm("upgrade", "--install", "burnish-crds", ROOT / "charts/burnish-crds", *namespace)
        self.kubectl("label", "--overwrite", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
        self.helm("upgrade", "--install", "burnish", ROOT / "charts/burnish", *namespace, "--wait", "--timeout", "3m", *sets)
        say("Burnish is installed (helm: burnish-crds, burnish)")

    def apply(self, endpoint: str) -> None:
        """The namespace with its Secrets, then the example as a user applies it."""
        self.kubectl("apply", "-f", ROOT / "examples/cluster/namespace.yaml")
        for name in ("burnish-store", "models"):
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "stringData": {
                    "AWS_ACCESS_KEY_ID": S3_KEY,
                    "AWS_SECRET_ACCESS_KEY": S3_SECRET,
                    "AWS_ENDPOINT_URL": endpoint,
                    "AWS_REGION": "us-east-1",
                },
            }
            self.kubectl("apply", "-f", "-", text=json.dumps(secret))
        self.kubectl("apply", "-k", ROOT / "examples/cluster")
        say("kubectl apply -k examples/cluster")

    def follow(self, name: str) -> OptimizedModel | None:
        """Show what the status says, until it is ready or stalled."""
        told, stalled = "", 0
        for body in self.states(name):
            status = body.get("status", {})
            conditions = {c["type"]: c for c in status.get("conditions", ())}
            steps = "; ".join(step_of(t) for t in status.get("targets", ()))
            line = f"{name}: {status.get('phase', 'Pending')}: {steps or 'waiting for the operator'}"
            if line != told:
                told = line
                say(line)
            seen = status.get("observedGeneration") == body["metadata"]["generation"]
            if seen and conditions.get("Ready", {}).get("status") == "True" and conditions.get("RolloutComplete", {}).get("status") == "True":
                return OptimizedModel.model_validate({k: v for k, v in body.items() if k != "metadata"} | {"metadata": short(body["metadata"])})
            stalled = stalled + 1 if seen and conditions.get("Stalled", {}).get("status") == "True" else 0
            if stalled > STALLED_LOOKS:  # an operator that has just started may still correct it
                failure = status.get("lastFailure", {})
                print(f"demo: {name} is stalled: {failure.get('reason')}: {failure.get('message')}", file=sys.stderr)
                return None
        print(f"demo: {name} is not ready after {FOLLOW_SECONDS} s; see kubectl describe om -n {NAMESPACE} {name}", file=sys.stderr)
        return None

    def states(self, name: str) -> Iterator[dict[str, Any]]:
        """The object, once a second."""
        end = time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < end:
            yield json.loads(self.kubectl("get", "om", "--namespace", NAMESPACE, name, "--output", "json"))
            time.sleep(1)

    def ask(self, model: OptimizedModel) -> None:
        """One real inference, through the Service."""
        assert model.status is not None and model.status.url is not None  # it is ready
        name = model.metadata.name
        address = self.kubectl("get", "service", "--namespace", NAMESPACE, name, "--output", "jsonpath={.spec.clusterIP}")
        sample, label = first_sample(ROOT / "examples/digits/evaluation.npz")
        shape = [1, *sample[0]]
        facts = fetch(f"http://{address}:8000/v2/models/{name}")
        request = {"inputs": [{"name": facts["inputs"][0]["name"], "shape": shape, "datatype": "FP32", "data": sample[1]}]}
        started = time.monotonic()
        answer = fetch(f"http://{address}:8000/v2/models/{name}/infer", request)
        took = (time.monotonic() - started) * 1000
        logits = next(o for o in answer["outputs"] if o["name"] == "logits")["data"]
        found = max(range(len(logits)), key=logits.__getitem__)
        print(f"POST {model.status.url}/v2/models/{name}/infer with the picture of a {label}: it is a {found} ({took:.1f} ms, through the Service)")

    # --- tools ------------------------------------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: object, text: str | None = None) -> str:
        """Run kubectl on the cluster."""
        return output(program("kubectl"), *arguments, env={"KUBECONFIG": self.kubeconfig}, text=text)

    def helm(self, *arguments: object) -> str:
        """Run helm on the cluster."""
        return output(program("helm"), *arguments, env={"KUBECONFIG": self.kubeconfig})


def step_of(target: dict[str, Any]) -> str:
    """One target's state, in a few words."""
    words = [target["name"], target["state"], target.get("step", ""), target.get("reason", "")]
    ready = f"{target['readyReplicas']}/{target['replicas']} servers answer" if "readyReplicas" in target else ""
    return " ".join(filter(None, [*words, ready]))


def short(metadata: dict[str, Any]) -> dict[str, Any]:
    """What the models read of it."""
    return {key: metadata[key] for key in ("name", "namespace", "generation", "uid")}


def first_sample(path: Path) -> tuple[tuple[list[int], list[float]], int]:
    """Shape and values of the first sample, and its label: an npz is a zip of .npy files (NumPy's NEP 1), and the demo needs no more of NumPy."""
    with zipfile.ZipFile(path) as archive:
        arrays = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    label = next(iter(read_npy(arrays.pop("label"))[1]))
    shape, values = read_npy(next(iter(arrays.values())))
    count = len(values) // shape[0]
    return (shape[1:], [float(v) for v in values[:count]]), int(label)


def read_npy(content: bytes) -> tuple[list[int], array.array[Any]]:
    """Shape and values of a little-endian array."""
    length = int.from_bytes(content[8:10], "little")
    header = ast.literal_eval(content[10 : 10 + length].decode())
    code = {"<f4": "f", "<f8": "d", "<i4": "i", "<i8": "q", "|u1": "B"}[header["descr"]]
    return list(header["shape"]), array.array(code, content[10 + length :])


def fetch(url: str, body: object = None) -> Any:
    """GET, or POST with JSON; never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with opener.open(request, timeout=30) as response:
        return json.load(response)


def program(name: str) -> str:
    """A program of the cluster's, built if need be."""
    return output(CLUSTER, "path", name)


def output(*command: object, env: dict[str, str] | None = None, text: str | None = None) -> str:
    """Run to the end, and return what it printed."""
    done = subprocess.run([str(c) for c in command], env=os.environ | (env or {}), input=text, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run(*command: object, prefix: str = "") -> None:
    """Run to the end, and show what it prints; what a shell needs to know is not for a reader of this."""
    arguments = [str(c) for c in command]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process, contextlib.suppress(BrokenPipeError):
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("export "):
                print(f"{prefix}{line}", end="", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)


def say(text: str) -> None:
    """One line of progress."""
    print(f"{time.monotonic() - START:6.1f}s  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
