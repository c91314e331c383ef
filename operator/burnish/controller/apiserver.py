"""The apiserver as the controller talks to it: one call, JSON in and out, over the Kubernetes client's session, credentials and TLS.

The client's own models are not used: an object of ours is a dictionary that `burnish.manifests` renders, and what comes back is trimmed to what
planning needs (`burnish.controller.views`). That is half the CPU and a fraction of the memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from burnish import names

Object = dict[str, Any]

JSON = "application/json"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
TIMEOUT_SECONDS = 30
_TEXT = 512


class ApiError(Exception):
    """The apiserver's refusal, or that it can't be reached (status 0)."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(f"{status} {reason}: {text}" if status else text)
        self.status, self.reason, self.text = status, reason, text


@dataclasses.dataclass(frozen=True)
class Resource:
    """Where objects of a kind are."""

    kind: str
    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        """As in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The request's path: of all objects, those of a namespace, one, or a part of one."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        parts += ["namespaces", namespace] if namespace else []
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/" + "/".join(quote(part, safe="") for part in parts)


MODEL = Resource(names.KIND, names.GROUP, names.VERSION, names.PLURAL)
JOB = Resource("Job", "batch", "v1", "jobs")
POD = Resource("Pod", "", "v1", "pods")
DEPLOYMENT = Resource("Deployment", "apps", "v1", "deployments")
SERVICE = Resource("Service", "", "v1", "services")
NETWORK_POLICY = Resource("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies")
CLAIM = Resource("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims")
EVENT = Resource("Event", "events.k8s.io", "v1", "events")
CORE_EVENT = Resource("Event", "", "v1", "events")
NODE = Resource("Node", "", "v1", "nodes")
LEASE = Resource("Lease", "coordination.k8s.io", "v1", "leases")

WATCHED = (JOB, POD, DEPLOYMENT, SERVICE)
"""Children whose changes lead to a reconcile."""
BY_KIND = {r.kind: r for r in (MODEL, *WATCHED, NETWORK_POLICY, CLAIM)}


async def connect() -> ApiClient:
    """A client with the pod's service account, or else the kubeconfig of whoever starts the controller (KUBECONFIG)."""
    settings = Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    settings.connection_pool_maxsize = 64
    return ApiClient(configuration=settings)


class ApiServer:
    """Calls to one apiserver."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One object, or None.

        Raises:
            ApiError: anything but a 404.
        """
        try:
            return await self.request("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, resource: Resource, namespace: str | None = None, **query: str) -> Object:
        """A list, whole: `items`, and `metadata.resourceVersion`.

        Raises:
            ApiError: refused, or not reached.
        """
        return await self.request("GET", resource.path(namespace), query=query)

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """POST.

        Raises:
            ApiError: 409 where one of its name is there.
        """
        return await self.request("POST", resource.path(namespace), query={"fieldManager": names.FIELD_MANAGER}, body=body)

    async def merge(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """PATCH what is in `body`; with `metadata.uid`, only if that is still the object.

        Raises:
            ApiError: 404, or 409 where the uid is another.
        """
        return await self.request("PATCH", resource.path(namespace, name), query={"fieldManager": names.FIELD_MANAGER}, body=body, content_type=MERGE)

    async def apply_status(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """Server-side apply of the status.

        Raises:
            ApiError: 404, or 409 where the uid is another.
        """
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        return await self.request("PATCH", resource.path(namespace, name, "status"), query=query, body=body, content_type=APPLY)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """DELETE in the background, with a precondition on the uid.

        Raises:
            ApiError: 404, or 409 where the uid is another.
        """
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self.request("DELETE", resource.path(namespace, name), body=body)

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Object | None = None, content_type: str = JSON
    ) -> Object:
        """One call.

        Raises:
            ApiError: the apiserver refused it, or could not be reached.
        """
        headers = {"Accept": JSON, "Content-Type": content_type}
        try:
            prepared = await self._client.param_serialize(
                method, path, query_params=list((query or {}).items()), header_params=headers, auth_settings=["BearerToken"]
            )
            response = await self._client.call_api(*prepared[:3], body=body, _request_timeout=TIMEOUT_SECONDS)
            content: bytes = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", f"the apiserver can't be reached: {type(error).__name__}: {error}") from error
        if 200 <= response.status < 300:
            found: Object = json.loads(content)
            return found
        raise _error(response.status, content)


def _error(status: int, content: bytes) -> ApiError:
    try:
        told = json.loads(content)
        return ApiError(status, str(told.get("reason", "")), str(told.get("message", ""))[:_TEXT])
    except (ValueError, AttributeError):
        return ApiError(status, "", content[:_TEXT].decode(errors="replace"))
