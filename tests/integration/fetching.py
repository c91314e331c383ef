"""Fetching a source as `resolve` does, with limits that a test can reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish.api.job_contract import SourceRecord
from burnish.pipeline import fetch
from burnish.store.store import Store


def fetched(uri: str, store: Store, *, max_bytes: int = 2**30, max_files: int = 100, **more: Any) -> SourceRecord:
    """What came of it; `more` as of `fetch.fetch`."""
    limits = fetch.FetchLimits(max_bytes=max_bytes, max_files=max_files, idle_seconds=5)
    options = {"digest": None, "refresh": None, "field": "spec.source.uri", "progress": lambda *_, **__: None, **more}
    return fetch.fetch(uri, Path("/"), store, limits=limits, **options)
