"""What is read of a source's small files, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.plugins import files


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b"{", b"\xff\xfe", b""], ids=["lists", "objects", "cut", "no text", "empty"])
def test_json_that_is_none_is_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert files.read_json(files.LocalFiles(tmp_path), "config.json") is None
