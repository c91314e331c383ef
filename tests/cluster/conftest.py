"""One control plane for all tests here (tests/conftest.py), with the CRD in it; each test that asks for `namespace` gets one of its own.

`api` is the client (`control_plane.ControlPlane`): `api.kubeconfig`, `api.kubectl(...)`, `api.request(method, path, body)`, `api.create_model(...)`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import ControlPlane


@pytest.fixture
def namespace(api: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a fresh namespace."""
    name = api.create_namespace(request.node.name)
    yield name
    api.delete_namespace(name)
