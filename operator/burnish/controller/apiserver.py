"""The apiserver as the controller talks to it: one call, JSON in and out, with the credentials that Kopf's own watches use.

No client library: an object of ours is a dictionary that `burnish.manifests` renders, and what comes back is trimmed to what planning needs
(`burnish.controller.views`). The official client's generated models would be 120 MB of the image and most of the process's memory (ADR 0006).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import kopf
from pydantic_core import from_json

from burnish import names

Object = dict[str, Any]

JSON = "application/json"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
TIMEOUT_SECONDS = 30
_TOKEN_SECONDS = 60.0
PAGE = 100
"""Objects of a list that are held at once."""
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


def micro_time() -> str:
    """Now, as Leases and Events want it (MicroTime)."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def login(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    """The pod's service account, or else the kubeconfig of whoever starts the controller (KUBECONFIG).

    Raises:
        ApiError: there is neither.
    """
    facts: dict[str, Any] = {"settings": settings}
    found = kopf.login_with_service_account(**facts) or kopf.login_with_kubeconfig(**facts)
    if found is None:
        raise ApiError(0, "NoCredentials", "there is no service account and no kubeconfig; set KUBECONFIG")
    return found


@asynccontextmanager
async def connect() -> AsyncIterator[ApiServer]:
    """A connection with the credentials of `login`.

    Raises:
        ApiError: there are no credentials.
    """
    info = login(kopf.OperatorSettings())
    connector = aiohttp.TCPConnector(ssl=info.as_ssl_context(), limit=64)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)) as session:
        yield ApiServer(session, info)


class ApiServer:
    """Calls to one apiserver."""

    def __init__(self, session: aiohttp.ClientSession, info: kopf.ConnectionInfo) -> None:
        self._session = session
        self._info = info
        self._read = time.monotonic()

    def _headers(self) -> dict[str, str]:
        """Credentials; a service account's token is renewed on disk, about hourly."""
        if time.monotonic() - self._read > _TOKEN_SECONDS:
            self._info, self._read = login(kopf.OperatorSettings()), time.monotonic()
        return dict(self._info.as_http_headers())

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

    async def pages(self, resource: Resource, namespace: str | None = None, **query: str) -> AsyncIterator[Object]:
        """The same in pages, all of one moment: a whole list of everything would be the most memory that the process ever takes.

        Raises:
            ApiError: refused, or not reached; 410 where the moment is too long ago.
        """
        more = ""
        while True:
            page = await self.list(resource, namespace, **query, limit=str(PAGE), **({"continue": more} if more else {}))
            yield page
            more = page["metadata"].get("continue", "")
            if not more:
                return

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

    async def log_end(self, namespace: str, pod: str, container: str) -> str:
        """The last lines of a container's log.

        Raises:
            ApiError: refused, or not reached.
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        query = {"container": container, "tailLines": "5", "limitBytes": "4096"}
        content = await self._call("GET", path, query, None, {"Accept": "*/*", **self._headers()})
        return content.decode(errors="replace")

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Object | None = None, content_type: str = JSON
    ) -> Object:
        """One call.

        Raises:
            ApiError: the apiserver refused it, or could not be reached.
        """
        headers = {"Accept": JSON, "Content-Type": content_type, **self._headers()}
        found: Object = from_json(await self._call(method, path, query, body, headers))  # thrice as fast as json.loads
        return found

    async def _call(self, method: str, path: str, query: Mapping[str, str] | None, body: Object | None, headers: Mapping[str, str]) -> bytes:
        data = json.dumps(body).encode() if body is not None else None
        try:
            async with self._session.request(method, self._info.server.rstrip("/") + path, params=query, data=data, headers=headers) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", f"the apiserver can't be reached: {type(error).__name__}: {error}") from error
        if 200 <= response.status < 300:
            return content
        raise _error(response.status, content)


def _error(status: int, content: bytes) -> ApiError:
    try:
        told = json.loads(content)
        return ApiError(status, str(told.get("reason", "")), str(told.get("message", ""))[:_TEXT])
    except (ValueError, AttributeError):
        return ApiError(status, "", content[:_TEXT].decode(errors="replace"))
