"""PyTorch's zip files, changed as somebody with bad intentions would; needs no PyTorch."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable


def rewritten(content: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """A zip file with entries changed, or left out."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return stream.getvalue()


def without(content: bytes, entry: str) -> bytes:
    return rewritten(content, lambda name, data: None if name == entry else data)


def infected(content: bytes, code: str) -> bytes:
    """A .pt2 file in which the first size is an expression that runs `code`."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        start = data.index(b"Symbol('")
        payload = f"exec(__import__('base64').b64decode('{base64.b64encode(code.encode()).decode()}')) or "
        return data[:start] + payload.encode() + data[start:]

    return rewritten(content, change)
