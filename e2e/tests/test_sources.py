"""Sources and datasets that are read over https, from servers whose certificate is of an authority of our own, by a cluster's Job: az, gs and hf."""

from __future__ import annotations

import contextlib
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from installation import EXAMPLES, ROOT, Installation, Space, converted, is_ready, is_stalled

sys.path.insert(0, str(ROOT / "tests/integration"))
import az_server
import forward_proxy
import gcs_server
import hub_server

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

FILES = {f"digits/{name}": (EXAMPLES / "digits" / name).read_bytes() for name in ("model.onnx", "evaluation.npz")}
Serving = Callable[[ssl.SSLContext, str, Path], contextlib.AbstractContextManager[tuple[str, dict[str, str]]]]
"""With a certificate's context, the name that it is for, and a folder: the URI of the folder `digits`, and what the Secret has to say."""


@contextlib.contextmanager
def _azure(context: ssl.SSLContext, name: str, _: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with az_server.running(context, name) as server:
        server.blobs = dict(FILES)
        keys = {"AZURE_STORAGE_ACCOUNT": az_server.ACCOUNT, "AZURE_STORAGE_KEY": az_server.KEY, "AZURE_STORAGE_SERVICE_ENDPOINT": server.url}
        yield "az://models/digits", keys


@contextlib.contextmanager
def _google(context: ssl.SSLContext, name: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with gcs_server.running(folder, context, name) as server:
        server.make_bucket("models")
        for path, content in FILES.items():
            server.upload("models", path, content)
        server.is_closed = True
        yield "gs://models/digits", {"GOOGLE_APPLICATION_CREDENTIALS": server.key_file(), "STORAGE_EMULATOR_HOST": server.url}


@contextlib.contextmanager
def _hub(context: ssl.SSLContext, name: str, _: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with hub_server.running(context, name, name) as server:
        assert server.cdn is not None
        server.files = server.cdn.files = dict(FILES)
        yield "hf://org/gated@v2/digits", {"HF_ENDPOINT": server.url, "token": hub_server.TOKEN}


@pytest.fixture(scope="module")
def private(installation: Installation) -> Iterator[None]:
    """The installation lets sources be on this machine."""
    installation.install(allowPrivateAddresses=True)
    yield
    installation.install()


@pytest.mark.usefixtures("private")
@pytest.mark.parametrize("serving", [_azure, _google, _hub], ids=["az", "gs", "hf"])
def test_authority_of_a_source(installation: Installation, space: Space, tmp_path: Path, serving: Serving) -> None:
    host = urlsplit(installation.credentials.endpoint).hostname
    assert host is not None
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    with serving(context, host, tmp_path) as (uri, keys):
        _secret(space, keys)
        source, metric = {"uri": f"{uri}/model.onnx", "secretRef": {"name": "reader"}}, {"metric": "Accuracy", "output": "logits"}
        model = converted(source=source, datasets={"evaluation": {"uri": f"{uri}/evaluation.npz", **metric}}, serving={"mode": "PublishOnly"})
        space.apply(model)
        failure = space.wait("digits", is_stalled)["status"]["lastFailure"]
        assert failure["reason"] == "SourceUnavailable" and "under the key ca.crt" in failure["message"]

        _secret(space, {**keys, "ca.crt": authority.cert_pem.bytes().decode()})
        model["spec"]["source"]["refresh"] = "with the authority"
        space.apply(model)
        status = space.wait("digits", is_ready)["status"]
    assert status["source"]["format"] == "ONNX"
    assert status["targets"][0]["artifact"]["served"] == "Baseline"
    seen = space.kubectl("get", "om,jobs,pods,events", "-o", "yaml")
    assert not [name for name in ("AZURE_STORAGE_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "token") if name in keys and keys[name] in seen]


def test_source_that_only_a_proxy_reaches(installation: Installation, space: Space) -> None:
    """The cluster doesn't know the name; where the proxy leads is its business, so that no private address is in the way."""
    host = urlsplit(installation.credentials.endpoint).hostname
    assert host is not None
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("blobs.example").configure_cert(context)
    with az_server.running(context) as server, forward_proxy.running(host, "blobs.example") as proxy:
        server.blobs = dict(FILES)
        installation.install(proxy__https=proxy.url, proxy__noProxy=".svc")
        keys = {"AZURE_STORAGE_ACCOUNT": az_server.ACCOUNT, "AZURE_STORAGE_KEY": az_server.KEY, "ca.crt": authority.cert_pem.bytes().decode()}
        _secret(space, {**keys, "AZURE_STORAGE_SERVICE_ENDPOINT": server.url.replace("localhost", "blobs.example")})
        source = {"uri": "az://models/digits/model.onnx", "secretRef": {"name": "reader"}}
        space.apply(converted(source=source, datasets={}, constraints={}, serving={"mode": "PublishOnly"}))
        space.wait("digits", is_ready)
    assert set(proxy.asked) == {"blobs.example"}
    installation.install()


def _secret(space: Space, keys: dict[str, Any]) -> None:
    space.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reader"}, "stringData": keys})
