"""Bytes on their way out of the store, verified while they are read."""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO

from burnish.errors import BurnishError, Reason
from burnish.store.backend import reading


class BlobReader(io.RawIOBase):
    """Reads a blob and verifies it on the way: the digest has been compared once `read` has returned `b""`."""

    def __init__(self, stream: BinaryIO, digest: str, where: str) -> None:
        super().__init__()
        self._stream, self._digest, self._where, self._hash = stream, digest, where, hashlib.sha256()

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill `buffer`.

        Raises:
            BurnishError: StoreNotReadable; StoreCorrupted at the end of a blob that is not what its name says.
        """
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # typeshed's WriteableBuffer is private to it
        with reading(self._where):
            chunk = self._stream.read(len(view))
        view[: len(chunk)] = chunk
        self._hash.update(chunk)
        if not chunk and len(view) and f"sha256:{self._hash.hexdigest()}" != self._digest:
            raise BurnishError(
                Reason.StoreCorrupted,
                f"blob {self._digest} holds other bytes than its name says; delete the file {self._where}, the next run makes it again",
            )
        return len(chunk)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()
