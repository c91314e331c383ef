"""An artifact in a store, as a run files it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.api.job_contract import ArtifactRef
from burnish.store.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", namespace="vision")


@pytest.fixture
def artifact(store: Store, tmp_path: Path, file_artifact: Callable[[Store, Path, bytes], ArtifactRef]) -> str:
    """Its digest."""
    return file_artifact(store, tmp_path / "made", b"graph" * 100).digest
