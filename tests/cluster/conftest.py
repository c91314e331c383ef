"""One control plane for all tests here, with the CRD in it; each test that asks for `namespace` gets one of its own.

`api` is the client (`control_plane.ControlPlane`): `api.kubeconfig`, `api.kubectl(...)`, `api.request(method, path, body)`, `api.create_model(...)`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import control_plane
from control_plane import ControlPlane


@pytest.fixture(scope="session")
def bare_api() -> Iterator[ControlPlane]:
    """A control plane; whether the CRD is in it is not said."""
    with control_plane.running() as found:
        yield found


@pytest.fixture(scope="session")
def api(bare_api: ControlPlane) -> ControlPlane:
    """A control plane with the CRD."""
    bare_api.install_crd()
    return bare_api


@pytest.fixture
def namespace(api: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a fresh namespace."""
    name = api.create_namespace(request.node.name)
    yield name
    api.delete_namespace(name)
