"""What the store needs of the place it lives in: the seam where an object store comes in beside plain directories.

Reading is fsspec's, the same everywhere. Writing is not: a record must appear whole or not at all, and of two writers one has to win. A file
system does that with a link, an object store with a conditional PUT, and fsspec offers neither for files; so these two calls are a backend's
own, and everything above them is shared.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from burnish.errors import BurnishError, Reason

SCRATCH = "tmp"
"""Folder of files that are being written; on the file system of the store, so that publishing one is a rename."""
LEFTOVER_SECONDS = 24 * 3600
"""A scratch file that nobody wrote to for a day belongs to a writer that was killed."""

MIN_GRACE_SECONDS = 24 * 3600
"""Nothing younger is ever swept: whoever filed a blob has this long to write the record that refers to it."""
RENEW_SECONDS = MIN_GRACE_SECONDS / 4
"""A blob that a publisher finds in the store counts as its own only while it is younger than this."""

_ASIDE = re.compile(r"swept-([0-9.]+)-[0-9a-f]{32}-([A-Za-z0-9][\w.-]*(?:@[A-Za-z0-9][\w.-]*)*)")
"""Name of a file that is being removed: before when it has to be written (seconds since the epoch), and its path, @ for /."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn the operating system's errors into the store's.

    Raises:
        BurnishError: StoreNotReadable; NotInStore where there is no such file.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise BurnishError(Reason.NotInStore, f"the store has no {what}; run the manifest again to make it") from error
    except OSError as error:
        raise BurnishError(
            Reason.StoreNotReadable,
            f"can't read {what} ({_why(error)}); {_cure(what, 'read')}",
        ) from error


@contextlib.contextmanager
def writing(where: str) -> Iterator[None]:
    """Turn the operating system's errors into the store's.

    Raises:
        BurnishError: StoreFull, StoreNotWritable.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise BurnishError(
                Reason.StoreFull, f"no room left in the store {where} ({_why(error)}); free some space or quota, or name another store"
            ) from error
        raise BurnishError(
            Reason.StoreNotWritable,
            f"can't write to the store {where} ({_why(error)}); {_cure(where, 'write')}",
        ) from error


def _cure(where: str, verb: str) -> str:
    if where.startswith("s3://"):
        return f"check that the bucket exists, that the credentials may {verb} it, and AWS_ENDPOINT_URL"
    return f"it has to be a directory that you may {verb}, or name another store"


class UntrustedError(OSError):
    """A server's certificate is of no authority that is known; the words are ours, and hold the cure."""


def _why(error: OSError) -> str:
    if isinstance(error, UntrustedError):
        return str(error.strerror)
    return os.strerror(error.errno) if error.errno else type(error).__name__


class Scratch:
    """A file being written, which nobody sees until a backend publishes it. Counts and hashes what is written."""

    def __init__(self, path: Path, stream: BinaryIO, where: str) -> None:
        self.path = path
        self.size = 0
        self._stream, self._where, self._hash = stream, where, hashlib.sha256()

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the bytes so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            BurnishError: StoreFull, StoreNotWritable.
        """
        with writing(self._where):
            self._stream.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def finish(self) -> None:
        """Bring the bytes to the disk; may be called again.

        Raises:
            BurnishError: StoreFull, StoreNotWritable.
        """
        with writing(self._where):
            if not self._stream.closed:
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._stream.close()


class Found(NamedTuple):
    """A file of the store as a listing shows it."""

    name: str
    size: int
    modified: float
    """Seconds since the epoch, by the clock of whoever keeps the files."""


class Backend(abc.ABC):
    """A place for a store. Paths are relative to its root, `/`-separated, and made by the store itself."""

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str) -> None:
        self.root = root
        self._fs = fs

    def describe(self, path: str) -> str:
        """How messages name `path`."""
        return f"{self.root}/{path}"

    def open(self, path: str) -> BinaryIO:
        """Open for reading.

        Raises:
            BurnishError: NotInStore, StoreNotReadable.
        """
        with reading(self.describe(path)):
            return cast(BinaryIO, self._fs.open(self.describe(path), "rb"))

    def size(self, path: str) -> int | None:
        """Bytes of the file, or None where there is none.

        Raises:
            BurnishError: StoreNotReadable.
        """
        with reading(self.describe(path)):
            try:
                facts: dict[str, Any] = self._fs.info(self.describe(path))
            except FileNotFoundError:
                return None
        return int(facts["size"]) if facts["type"] == "file" else None

    def names(self, folder: str) -> list[str]:
        """File names in `folder`, sorted; none where there is no such folder.

        Raises:
            BurnishError: StoreNotReadable.
        """
        with reading(self.describe(folder)):
            try:
                return sorted(str(path).rpartition("/")[2] for path in self._fs.ls(self.describe(folder), detail=False))
            except FileNotFoundError:
                return []

    @abc.abstractmethod
    def entries(self, folder: str) -> list[Found]:
        """The files in `folder`; none where there is no such folder.

        Raises:
            BurnishError: StoreNotReadable.
        """

    @abc.abstractmethod
    def renew(self, path: str) -> bool:
        """Make a file that is there young again, so that no sweep takes it. False: it isn't there, or has to be written again.

        True also for who may not write here: no record can follow, so nothing depends on it.

        Raises:
            BurnishError: StoreNotReadable.
        """

    @abc.abstractmethod
    def remove_older(self, path: str, before: float) -> bool:
        """Remove a file that was last written or renewed before a time; looks again at the last moment. True: it was removed.

        Raises:
            BurnishError: StoreNotWritable.
        """

    @abc.abstractmethod
    def scratch(self) -> AbstractContextManager[Scratch]:
        """A new scratch file; whatever was not published when the context ends is removed."""

    @abc.abstractmethod
    def publish(self, scratch: Scratch, path: str) -> bool:
        """Make the scratch file appear as `path`, whole, unless something is there already. True: ours is the one that is there.

        Raises:
            BurnishError: StoreFull, StoreNotWritable.
        """

    @abc.abstractmethod
    def replace(self, scratch: Scratch, path: str) -> None:
        """Make the scratch file appear as `path`, whole, in the place of whatever is there.

        Raises:
            BurnishError: StoreFull, StoreNotWritable.
        """

    @abc.abstractmethod
    def leftovers(self) -> list[Found]:
        """What killed writers and sweeps left to be removed, paths for names, sorted.

        Raises:
            BurnishError: StoreNotReadable.
        """

    @abc.abstractmethod
    def tidy(self) -> list[Found]:
        """Remove the leftovers, and return those that are gone; does nothing in a store that can't be written."""


class DirectoryBackend(Backend):
    """A directory on a file system with hard links (ext4, xfs, tmpfs, NFS, CephFS).

    Nothing but renames and links ever touches a published path, so a reader sees all of a file or nothing of it, also after a power cut: the
    bytes are synced before the name, the name before the call returns.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(LocalFileSystem(), str(root))

    def entries(self, folder: str) -> list[Found]:
        """See `Backend.entries`."""
        found = []
        with reading(self.describe(folder)):
            try:
                listing = list(os.scandir(self.describe(folder)))
            except FileNotFoundError:
                return []
            for entry in listing:
                with contextlib.suppress(FileNotFoundError):  # gone since
                    facts = entry.stat(follow_symlinks=False)
                    found.append(Found(entry.name, facts.st_size, facts.st_mtime))
        return found

    def renew(self, path: str) -> bool:
        """See `Backend.renew`."""
        target = Path(self.root, path)
        try:
            os.utime(target)
            target.lstat()  # a sweep that took it between the look-up of its name and the new time may not have seen that
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # another user's file, or a store that can only be read
            return not os.access(target.parent, os.W_OK)
        return True

    def remove_older(self, path: str, before: float) -> bool:
        """See `Backend.remove_older`.

        The file goes out of sight first and is looked at there: a publisher that renewed it in between gets it back, and one that comes later
        finds nothing and writes it again. Of a sweep that is killed there, the next `tidy` does the rest.
        """
        target = Path(self.root, path)
        aside = Path(self.root, SCRATCH, f"swept-{before!r}-{uuid.uuid4().hex}-{path.replace('/', '@')}")
        with writing(self.root):
            aside.parent.mkdir(parents=True, exist_ok=True)
            try:
                if target.lstat().st_mtime >= before:
                    return False
                target.rename(aside)
            except FileNotFoundError:
                return False
            return self._settle(aside, before, target)

    def _settle(self, aside: Path, before: float, target: Path) -> bool:
        """End the removal of a file that is out of sight: remove it, or give it back if it was renewed. True: it is gone."""
        try:
            is_renewed = aside.lstat().st_mtime >= before
        except FileNotFoundError:  # another's tidying came first
            return not target.exists()
        if is_renewed:
            with contextlib.suppress(FileExistsError):  # written again since: the same bytes
                os.link(aside, target)
                _sync(target.parent)
        aside.unlink(missing_ok=True)
        return not is_renewed

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Scratch]:
        """See `Backend.scratch`."""
        path = Path(self.root, SCRATCH, f"{os.getpid()}-{uuid.uuid4().hex}")
        stream: BinaryIO | None = None
        try:
            with writing(self.root):
                path.parent.mkdir(parents=True, exist_ok=True)
                stream = path.open("xb")
            yield Scratch(path, stream, self.root)
        finally:
            if stream is not None:
                with contextlib.suppress(OSError):  # a full disk is told by write or finish; what fails here is not wanted any more
                    stream.close()
            with contextlib.suppress(OSError):
                path.unlink()

    def publish(self, scratch: Scratch, path: str) -> bool:
        """See `Backend.publish`."""
        scratch.finish()
        target = self._target(path)
        with writing(self.root):
            try:
                os.link(scratch.path, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in _NO_LINKS:
                    raise BurnishError(
                        Reason.StoreNotWritable,
                        f"the file system of the store {self.root} has no hard links, without which two writers of one record can't be told apart; "
                        "keep the store on a file system that has them (ext4, xfs, NFS)",
                    ) from error
                raise
            _sync(target.parent)
        return True

    def replace(self, scratch: Scratch, path: str) -> None:
        """See `Backend.replace`."""
        scratch.finish()
        target = self._target(path)
        with writing(self.root):
            scratch.path.replace(target)
            _sync(target.parent)

    def leftovers(self) -> list[Found]:
        """See `Backend.leftovers`."""
        day_ago = time.time() - LEFTOVER_SECONDS
        found = [(file, _ASIDE.fullmatch(file.name)) for file in self.entries(SCRATCH)]
        return sorted(
            file._replace(name=f"{SCRATCH}/{file.name}") for file, aside in found if file.modified < (float(aside[1]) if aside else day_ago)
        )

    def tidy(self) -> list[Found]:
        """See `Backend.tidy`. What a killed sweep took and a publisher had renewed goes back to its place."""
        gone: list[Found] = []
        with contextlib.suppress(OSError, BurnishError):
            found = self.leftovers()
            for file in self.entries(SCRATCH):
                if aside := _ASIDE.fullmatch(file.name):
                    self._settle(Path(self.root, SCRATCH, file.name), float(aside[1]), Path(self.root, aside[2].replace("@", "/")))
            for file in found:
                Path(self.root, file.name).unlink(missing_ok=True)
                gone.append(file)
        return gone

    def _target(self, path: str) -> Path:
        target = Path(self.root, path)
        with writing(self.root):
            target.parent.mkdir(parents=True, exist_ok=True)
        return target


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
