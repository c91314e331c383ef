"""A cluster that is there already, named by its context: the demo makes two namespaces, two helm releases and a folder in a bucket, and removes just those."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from burnish.store import credentials, s3
from installation import EXAMPLES, Installation, Space, exporters, listed_images, output, program, say

SYSTEM, MODELS = "burnish-demo", "burnish-demo-models"
FOLDER = "burnish-demo"
CRD = "optimizedmodels.burnish.dev"
LABEL = "burnish.dev/demo"


class DemoError(Exception):
    """Nothing was done; the message says what is missing or in the way, and the cure."""


class Existing(Installation):
    """The demo on somebody's cluster."""

    namespace = MODELS
    way = "through the API server and the Service"

    def __init__(self, context: str, images: str, bucket: str) -> None:
        """Look at what was given.

        Args:
            context: of the user's kubeconfig.
            images: first part of the images' references, as given to `images/build --prefix`; empty = not given.
            bucket: `s3://bucket` or `s3://bucket/prefix`; empty = not given.

        Raises:
            DemoError: there is no such context.
        """
        self.context, self.prefix, self.bucket = context, images.rstrip("/"), bucket.rstrip("/")
        self.system, self.labels = SYSTEM, {LABEL: "true"}
        self.references: dict[str, str] = {}
        self.credentials = credentials.read_environment()
        self.sources, self.store = f"{self.bucket}/{FOLDER}/models", f"{self.bucket}/{FOLDER}/store"
        contexts = output(tool("kubectl"), "config", "get-contexts", "--output", "name").splitlines()
        if context not in contexts:
            raise DemoError(
                f"CONTEXT={context}: your kubeconfig has no such context; it has {', '.join(contexts) or 'none'} (KUBECONFIG names another file)"
            )

    def start(self, *_: str, models: Sequence[str] = ("digits",), **values: object) -> None:
        """All that is not there yet.

        Raises:
            DemoError: something is missing, or in the way.
        """
        wanted = exporters(models)
        self._ask_for_missing(wanted)
        self._look_for_others()
        with self._bucket():
            self.upload(*models)
        listed = [image for names in ((), *((name,) for name in wanted)) for image in listed_images(*names, prefix=self.prefix)]
        self.references = {name: reference for name, reference, _ in listed}
        self.make_namespace(MODELS)
        try:
            self.install(watchNamespaces=f"{{{MODELS}}}", **values)
        except subprocess.CalledProcessError:
            self._explain_unpullable()
            raise

    def stop(self) -> None:
        """Remove what `start` made; artifacts and sources in the bucket only if it is named.

        Raises:
            DemoError: something of ours has a name that is somebody else's.
        """
        self._look_for_others()
        for release in self._releases():  # the operator first, so that it mourns nothing
            self.helm("uninstall", release, "--namespace", SYSTEM, "--wait")
        self.kubectl("delete", "namespace", MODELS, "--ignore-not-found", "--timeout=180s")
        self._remove_crd()
        self.kubectl("delete", "namespace", SYSTEM, "--ignore-not-found", "--timeout=180s")
        say(f"the demo's releases and namespaces are gone from {self.context}")
        if not self.bucket:
            say(f"its files stay in the bucket, in the folder {FOLDER}; S3=s3://bucket/prefix with the keys in AWS_* removes them too")
            return
        with self._bucket():
            files = self.files()
            if files.exists(f"{self.bucket}/{FOLDER}"):
                files.rm(f"{self.bucket}/{FOLDER}", recursive=True)
        say(f"{self.bucket}/{FOLDER} is gone")

    def apply_example(self, space: Space, name: str) -> None:
        """The overlay, with the bucket's name in it."""
        text = (EXAMPLES / f"cluster/{name}.yaml").read_text().replace("s3://models/", f"{self.sources}/")
        space.kubectl("apply", "-f", "-", text=text)
        say(f"kubectl apply --namespace {MODELS} -f examples/cluster/{name}.yaml, with {self.sources} for s3://models")

    def ask(self, space: Space, service: str, path: str, body: object = None) -> Any:
        """HTTP to a Service by the API server: this machine needn't reach the cluster's network."""
        raw = f"/api/v1/namespaces/{space.name}/services/http:{service}:8000/proxy{path}"
        text = self.kubectl("get", "--raw", raw) if body is None else self.kubectl("create", "--raw", raw, "-f", "-", text=json.dumps(body))
        return json.loads(text)

    def hint(self) -> str:
        """How to go on by hand."""
        return (
            f"Go on by hand: kubectl --context {self.context} --namespace {MODELS} get om   (make demo-down CONTEXT={self.context} removes the demo)"
        )

    def kubectl(self, *arguments: object, text: str | None = None) -> str:
        """Run kubectl on the cluster."""
        return output(tool("kubectl"), "--context", self.context, *arguments, text=text)

    def helm(self, *arguments: object) -> str:
        """Run helm on the cluster."""
        return output(tool("helm"), "--kube-context", self.context, *arguments)

    def _ask_for_missing(self, wanted: Sequence[str]) -> None:
        """Raises DemoError, which names all that is missing; `wanted` are images beside the usual ones."""
        prefix = self.prefix or "registry/prefix"
        also = "".join(f"; so does `images/build {name} --prefix {prefix}`, for these models" for name in wanted)
        missing = []
        if not self.prefix:
            missing.append(
                f"IMAGES={prefix}: where the nodes pull from; `images/build --prefix {prefix}` builds, `images/build --prefix {prefix} --list` names what to push{also}"
            )
        if not self.bucket.startswith("s3://"):
            missing.append("S3=s3://bucket/prefix: a bucket that pods and this machine reach; the demo keeps the example's files and the store there")
        for value, variable in ((self.credentials.access_key, "AWS_ACCESS_KEY_ID"), (self.credentials.secret_key, "AWS_SECRET_ACCESS_KEY")):
            if not value:
                missing.append(
                    f"{variable} in the environment, of that bucket (AWS_ENDPOINT_URL and AWS_REGION too, unless it is Amazon's in us-east-1)"
                )
        if missing:
            raise DemoError("\n  ".join([f"CONTEXT={self.context} needs also", *missing]))

    @contextlib.contextmanager
    def _bucket(self) -> Iterator[None]:
        """Raises DemoError where the bucket does not take what is asked of it."""
        try:
            with s3.os_errors():
                yield
        except OSError as error:
            where = self.credentials.endpoint or "Amazon"
            raise DemoError(
                f"S3={self.bucket}: {error.strerror or error} (at {where}; AWS_ENDPOINT_URL names another server). The bucket has to be there"
            ) from error

    def _look_for_others(self) -> None:
        """Raises DemoError where a name that we would use is taken."""
        for name in (SYSTEM, MODELS):
            found = self._find("namespace", name)
            if found is not None and LABEL not in found.get("labels", {}):
                raise DemoError(
                    f"{self.context} has a namespace {name} that the demo has not made; remove or rename it, or install by hand (docs/install.md)"
                )
        crd = self._find("crd", CRD)
        if crd is not None and crd.get("annotations", {}).get("meta.helm.sh/release-namespace") != SYSTEM:
            raise DemoError(f"{self.context} has Burnish already; nothing was touched. Apply the examples there as docs/install.md shows (section 3)")

    def _find(self, kind: str, name: str) -> Any:
        """Metadata of an object, or None."""
        text = self.kubectl("get", kind, name, "--ignore-not-found", "--output", "json")
        return json.loads(text)["metadata"] if text else None

    def _releases(self) -> list[str]:
        return self.helm("list", "--namespace", SYSTEM, "--all", "--short").splitlines()

    def _remove_crd(self) -> None:
        """Only with nobody's models."""
        if self._find("crd", CRD) is None:
            return
        left = json.loads(self.kubectl("get", CRD, "--all-namespaces", "--output", "json"))["items"]
        if left:
            places = ", ".join(sorted({o["metadata"]["namespace"] for o in left}))
            say(f"the CRD {CRD} stays: there are OptimizedModels in {places}, which the demo has not made")
        else:
            self.kubectl("delete", "crd", CRD)

    def _explain_unpullable(self) -> None:
        """Raises DemoError if that is why the operator doesn't start."""
        pods = json.loads(self.kubectl("get", "pods", "--namespace", SYSTEM, "--output", "json"))["items"]
        for status in (s for pod in pods for s in pod["status"].get("containerStatuses", ())):
            waiting = status["state"].get("waiting", {})
            if waiting.get("reason") in ("ImagePullBackOff", "ErrImagePull", "InvalidImageName"):
                wanted = "\n  ".join(self.references.values())
                raise DemoError(
                    f"IMAGES={self.prefix}: a node can't pull {status['image']} ({waiting.get('message')}). These have to be there:\n  {wanted}"
                )


@functools.cache
def tool(name: str) -> str:
    """The user's kubectl or helm, or the local cluster's."""
    return shutil.which(name) or program(name)
