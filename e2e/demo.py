"""`make demo`: from nothing to a served model on a real Kubernetes, as a user would do it by hand; `make demo-down` takes all of it away.

Everything happens in a cluster of its own on this machine; only where a context is named, on that cluster (docs/install.md).
"""

from __future__ import annotations

import argparse
import array
import ast
import functools
import math
import shlex
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.cli.output import print_object
from existing import DemoError, Existing
from installation import EXAMPLES, Installation, Space, condition, example_files, is_ready, is_stalled, say

FOLLOW_SECONDS, STALLED_LOOKS = 1800, 5


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["up", "down"])
    parser.add_argument("--number", default="0", help="of the local cluster (see e2e/cluster/cluster --help)")
    names = [path.stem for path in sorted(EXAMPLES.glob("*.yaml"))]
    parser.add_argument("--models", nargs="+", choices=names, default=["digits"], help="examples to serve (default digits)")
    parser.add_argument("--context", help="of your kubeconfig: a cluster that is there already, with:")
    parser.add_argument("--images", default="", help="registry/prefix of the images, as given to images/build --prefix")
    parser.add_argument("--s3", default="", help="s3://bucket/prefix for the examples' files and the store; its keys in AWS_*")
    options = parser.parse_args()
    try:
        installation = Existing(options.context, options.images, options.s3) if options.context else Installation(options.number)
        if options.command == "down":
            installation.stop()
            return 0
        return up(installation, options.models)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"demo: `{shlex.join(map(str, error.cmd))}` failed with exit code {error.returncode}", file=sys.stderr)
        for stream in (error.stdout, error.stderr):
            print((stream or "").rstrip()[-4000:], file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; what was started goes on (make demo-down ends it, make demo goes on)", file=sys.stderr)
        return 130


def up(installation: Installation, models: list[str]) -> int:
    """The whole way."""
    installation.start(models=models)
    space = installation.space(installation.namespace)
    for name in models:  # one after the other: they would measure each other
        installation.apply_example(space, name)
        found = follow(space, name)
        if found is None:
            return 1
        print()
        print_object(found, "table")
        ask(space, found)
        print()
    print(installation.hint())
    return 0


def follow(space: Space, name: str) -> OptimizedModel | None:
    """Show what the status says, until the model is ready, or stalled."""
    told, stalled = "", 0
    for body in space.states(name, FOLLOW_SECONDS):
        status = body.get("status", {})
        steps = "; ".join(step_of(t) for t in status.get("targets", ()))
        line = f"{name}: {status.get('phase', 'Pending')}: {steps or 'waiting for the operator'}"
        if line != told:
            told = line
            say(line)
        is_current = status.get("observedGeneration") == body["metadata"]["generation"]
        if is_current and is_ready(body):
            metadata = {key: body["metadata"][key] for key in ("name", "namespace", "generation", "uid")}
            return OptimizedModel.model_validate(body | {"metadata": metadata})
        stalled = stalled + 1 if is_current and is_stalled(body) else 0
        if stalled > STALLED_LOOKS:  # an operator that has just started may still correct it
            failure = status.get("lastFailure", {})
            print(f"demo: {name} is stalled: {failure.get('reason')}: {failure.get('message')}", file=sys.stderr)
            return None
    why = condition(body, "Ready").get("message", "")
    print(f"demo: {name} is not ready after {FOLLOW_SECONDS} s: {why}; see kubectl describe om -n {space.name} {name}", file=sys.stderr)
    return None


def step_of(target: dict[str, Any]) -> str:
    """One target's state, in a few words."""
    ready = f"{target['readyReplicas']}/{target['replicas']} servers answer" if "readyReplicas" in target else ""
    reason = target.get("reason", "")
    words = [target["name"], target["state"], target.get("step", ""), reason if reason != target["state"] else "", ready]
    return " ".join(filter(None, words))


def ask(space: Space, model: OptimizedModel) -> None:
    """One real inference, through the Service."""
    assert model.status is not None and model.status.url is not None and model.spec.datasets.evaluation is not None  # it is ready
    name = model.metadata.name
    call = functools.partial(space.installation.ask, space, name)
    path = f"/v2/models/{name}"
    file, tensors = example_files(name)[-1], call(path)["inputs"]
    sample, label = first_sample(file) if file.suffix == ".npz" else (ones(tensors), None)  # images and text are the client's to prepare
    request = {"inputs": [request_tensor(tensor, *sample[tensor["name"]]) for tensor in tensors]}
    started = time.monotonic()
    answer = call(f"{path}/infer", request)
    took = (time.monotonic() - started) * 1000
    outputs = {output["name"]: output for output in answer["outputs"]}
    output = outputs[model.spec.datasets.evaluation.output or next(iter(outputs))]
    if label is None:
        what = "its first sample" if file.suffix == ".npz" else "ones"
        told = f"{what}: {output['name']}, {' x '.join(map(str, output['shape']))} numbers"
    else:
        told = f"the picture of a {label}: it is a {max(range(len(output['data'])), key=output['data'].__getitem__)}"
    print(f"POST {model.status.url}{path}/infer with {told} ({took:.1f} ms, {space.installation.way})")


def request_tensor(tensor: dict[str, Any], shape: list[int], values: list[float]) -> dict[str, Any]:
    """One sample of an input, as the protocol wants it."""
    return {"name": tensor["name"], "shape": [1, *shape], "datatype": tensor["datatype"], "data": values}


def ones(tensors: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Input -> shape and values of a sample that says nothing; where an axis varies it is 8 long."""
    shapes = {tensor["name"]: [size if size > 0 else 8 for size in tensor["shape"][1:]] for tensor in tensors}
    return {name: (shape, [1] * math.prod(shape)) for name, shape in shapes.items()}


def first_sample(path: Path) -> tuple[dict[str, tuple[list[int], list[float]]], int | None]:
    """Input -> shape and values of the first sample, and its label: an npz is a zip of .npy files (NumPy's NEP 1), and the demo needs no more of NumPy."""
    with zipfile.ZipFile(path) as archive:
        arrays = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    label = read_npy(arrays.pop("label"))[1][0] if "label" in arrays else None
    sample = {}
    for name, content in arrays.items():
        shape, values = read_npy(content)
        sample[name] = (shape[1:], list(values[: len(values) // shape[0]]))
    return sample, label


def read_npy(content: bytes) -> tuple[list[int], array.array[Any]]:
    """Shape and values of a little-endian array."""
    length = int.from_bytes(content[8:10], "little")
    header = ast.literal_eval(content[10 : 10 + length].decode())
    code = {"<f4": "f", "<f8": "d", "<i4": "i", "<i8": "q", "|u1": "B"}[header["descr"]]
    return list(header["shape"]), array.array(code, content[10 + length :])


if __name__ == "__main__":
    sys.exit(main())
