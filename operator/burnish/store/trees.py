"""Sources and datasets in the store: a file, or a directory of files, each stored as the blob it is.

A tree is stored file by file, unpacked and uncompressed, because sources are read once and mostly hold weights, which don't compress.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from burnish.api.job_contract import FileRef, TreeRef
from burnish.errors import BurnishError, Reason
from burnish.store import files
from burnish.store.keys import canonical_json

if TYPE_CHECKING:
    from burnish.store.store import Store


class Progress(Protocol):
    """Who wants to know how far it is (`burnish.pipeline.progress.emit` is one)."""

    def __call__(self, text: str, *, done: float | None = None) -> None:
        """`done`: fraction, 0 to 1, where it is known."""


class StoredFiles:
    """A tree's files as detection looks at them (`burnish.plugins.files.Files`)."""

    def __init__(self, store: Store, tree: TreeRef, name: str) -> None:
        """`name`: what the user calls it."""
        self._store, self._tree, self.name = store, tree, name
        self._digests = {ref.path if tree.is_directory else name: ref.digest for ref in tree.files}

    @property
    def is_directory(self) -> bool:
        """As the tree is."""
        return self._tree.is_directory

    @property
    def paths(self) -> Sequence[str]:
        """Of a single file its name."""
        return sorted(self._digests)

    def open(self, path: str) -> BinaryIO:
        """Not verified.

        Raises:
            BurnishError: NotInStore, StoreNotReadable.
        """
        return self._store.peek_blob(self._digests[path])


def tree_digest(entries: Sequence[FileRef]) -> str:
    """Digest of a directory: SHA-256 over the canonical JSON of its files, sorted by path."""
    listed = [entry.model_dump(mode="json", by_alias=True) for entry in sorted(entries, key=lambda e: e.path)]
    return f"sha256:{hashlib.sha256(canonical_json(listed)).hexdigest()}"


def hash_tree(
    path: Path,
    *,
    max_bytes: int = files.MAX_BYTES,
    max_files: int = files.MAX_FILES,
    progress: Progress | None = None,
    leave_out: Sequence[str] = (),
) -> TreeRef:
    """The tree at `path`, a regular file or a directory, without storing it.

    Args:
        path: where it is.
        max_bytes: of all files together.
        max_files: how many there may be.
        progress: gets told how far it is.
        leave_out: patterns (fnmatch) of what isn't part of it, of the names in a directory.

    Raises:
        BurnishError: as `files.list_files` and `files.open_file`.
    """
    with files.reading(path):
        is_directory = path.is_dir()
    root, entries = (path, files.list_files(path, max_bytes=max_bytes, max_files=max_files)) if is_directory else _single(path, max_bytes)
    entries = [e for e in entries if not any(fnmatch.fnmatchcase(e.path.split("/")[0], pattern) for pattern in leave_out)]
    total, done, refs = sum(entry.size for entry in entries), 0, []
    for entry in entries:
        if progress:
            progress(f"reading {path.name}", done=done / total if total else 0.0)
        with files.open_file(root, entry.path) as file:
            refs.append(FileRef(path=entry.path, digest=files.digest(file), size=file.tell()))
        done += entry.size
    return TreeRef(digest=tree_digest(refs) if is_directory else refs[0].digest, is_directory=is_directory, files=tuple(refs))


def _single(path: Path, max_bytes: int) -> tuple[Path, list[files.Entry]]:
    with files.open_file(path.parent, path.name) as file:
        size = file.seek(0, 2)
    if size > max_bytes:
        raise BurnishError(Reason.SourceTooLarge, f"{path} has {size} bytes, more than the limit of {max_bytes}; use a smaller file")
    return path.parent, [files.Entry(path.name, size)]


def put_tree(
    store: Store, path: Path, *, max_bytes: int = files.MAX_BYTES, max_files: int = files.MAX_FILES, leave_out: Sequence[str] = ()
) -> TreeRef:
    """Store the file or directory at `path`.

    Raises:
        BurnishError: as `hash_tree` and `copy_tree`.
    """
    tree = hash_tree(path, max_bytes=max_bytes, max_files=max_files, leave_out=leave_out)
    copy_tree(store, path, tree)
    return tree


def copy_tree(store: Store, path: Path, tree: TreeRef) -> None:
    """Store those files of `path` that the store lacks; `tree` is what `hash_tree` found there.

    Raises:
        BurnishError: SourceIncomplete if a file changed since; StoreFull, StoreNotWritable, StoreNotReadable; as `files.open_file`.
    """
    root = path if tree.is_directory else path.parent
    for ref in tree.files:
        if store.keep_blob(ref.digest):
            continue
        with files.open_file(root, ref.path) as file, store.scratch() as scratch:
            for chunk in files.chunks(file):
                scratch.write(chunk)
            if scratch.digest != ref.digest:
                raise BurnishError(Reason.SourceIncomplete, f"{root / ref.path} changed while it was read; try again when nobody writes it")
            store.publish_blob(scratch)


def has_tree(store: Store, tree: TreeRef) -> bool:
    """True where the store has every file of the tree.

    Raises:
        BurnishError: StoreNotReadable.
    """
    return all(store.has_blob(ref.digest) for ref in tree.files)


def materialize_tree(store: Store, tree: TreeRef, target: Path) -> None:
    """Write the tree so that `target` is the file or the directory it was made of; every byte is verified.

    Raises:
        BurnishError: NotInStore, StoreNotReadable, StoreCorrupted, DiskFull; UnsafeSource if the tree names a path outside `target`.
    """
    if tree.is_directory:
        with files.writing(target):
            target.mkdir(parents=True, exist_ok=True)
    for ref in tree.files:
        store.copy_blob(ref.digest, target.joinpath(*files.split(ref.path)) if tree.is_directory else target)
