"""A local cluster with Burnish in it for each worker of pytest-xdist; each test has a namespace of its own.

BURNISH_E2E_CLUSTER=0 (one worker) uses (and keeps) the cluster of that number, which makes the second run of a test a matter of seconds.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis.internal.observability  # noqa: F401  (why: tests/conftest.py)
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from installation import Installation, Space


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    kept = os.environ.get("BURNISH_E2E_CLUSTER")
    found = Installation(kept or str(8 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))))
    if kept is None:
        found.stop()  # a run that was killed leaves its cluster, with its models in it
    found.start("--metrics-server", "--storage")
    try:
        yield found
    finally:
        if kept is None:
            found.stop()


@pytest.fixture
def space(installation: Installation, request: pytest.FixtureRequest) -> Iterator[Space]:
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    made = installation.space(name)
    try:
        yield made
    finally:
        if not request.session.testsfailed or os.environ.get("BURNISH_E2E_CLUSTER") is None:
            made.remove()
