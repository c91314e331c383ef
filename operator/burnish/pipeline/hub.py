"""Repositories of the Hugging Face Hub: `hf://org/name[@revision][/path]`, and `hf://datasets/org/name[@revision]/path` for data.

Two requests of the Hub's own HTTPS interface are all it takes: what a revision holds, with sizes and the commit, and each file at that commit. The client
library would do the same with a cache and a transfer program of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from typing import Any
from urllib.parse import quote

from burnish.api.uris import scrub
from burnish.errors import BurnishError, Reason
from burnish.pipeline import https
from burnish.pipeline.remote_files import Pieces, RemoteFile, RemoteFiles

HUB = "https://huggingface.co"
_MAX_LISTING_BYTES = 32 * 2**20
_URI = re.compile(r"(?i:hf)://(?P<kind>datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/?#\s]+))?(?:/(?P<path>[^?#]*))?")
_KEPT = (".json", ".txt", ".model", ".safetensors", ".spm", ".jinja", ".codes", ".tokenizer")
"""Of a whole repository: weights as safetensors and what describes them. Pickles, and copies for other libraries, stay where they are."""


@dataclasses.dataclass(frozen=True)
class Repository:
    """What a URI names."""

    kind: str
    """`datasets/`, or nothing for models."""
    name: str
    revision: str
    path: str
    """A file or a folder; empty for all of it."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """One file of a repository."""

    path: str
    size: int


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a repository holds of what a URI names, at one commit."""

    commit: str
    files: tuple[Listed, ...]
    is_directory: bool


@dataclasses.dataclass(frozen=True)
class Hub:
    """A Hub, as it may be asked."""

    transport: https.Transport
    endpoint: str = HUB
    token: str = dataclasses.field(default="", repr=False)

    def find(self, uri: str, wanted: Repository, *, max_bytes: int) -> RemoteFiles:
        """What is there.

        Args:
            uri: for messages.
            wanted: what it names.
            max_bytes: most that one file may hold.

        Raises:
            BurnishError: SourceNotFound, SourceForbidden, UnsafeSource, and what `https.download` raises.
        """
        listing = self._list_files(uri, wanted)
        files = [
            RemoteFile(
                entry.path.removeprefix(wanted.path).lstrip("/") if listing.is_directory else entry.path,
                entry.size,
                functools.partial(self._download, uri, wanted, listing.commit, entry.path, max_bytes),
            )
            for entry in listing.files
        ]
        return RemoteFiles(files, listing.is_directory, f"commit {listing.commit[:12]}")

    def _list_files(self, uri: str, wanted: Repository) -> Listing:
        place = f"{self.endpoint}/api/{wanted.kind or 'models/'}{wanted.name}/revision/{quote(wanted.revision, safe='')}?blobs=true"
        body = b"".join(chunk for chunk, _ in self._get(uri, place, _MAX_LISTING_BYTES))
        try:
            told = json.loads(body)
            found = [Listed(str(entry["rfilename"]), _size(entry)) for entry in told["siblings"]]
            commit = str(told["sha"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BurnishError(Reason.SourceUnavailable, f"the Hub's answer about {uri} is none that is known; check HF_ENDPOINT") from error
        return _select(uri, wanted, commit, found)

    def _download(self, uri: str, wanted: Repository, commit: str, path: str, max_bytes: int) -> Pieces:
        return self._get(uri, f"{self.endpoint}/{wanted.kind}{wanted.name}/resolve/{commit}/{quote(path)}", max_bytes)

    def _get(self, uri: str, place: str, max_bytes: int) -> Pieces:
        try:
            yield from https.download(place, max_bytes=max_bytes, transport=self.transport, headers=https.bearer(self.token))
        except BurnishError as error:
            if error.reason is Reason.SourceForbidden:  # the Hub says so of what isn't there, too
                cure = (
                    "correct the URI, or ask for access with this token"
                    if self.token
                    else "correct the URI, or give a token (Secret key `token`; HF_TOKEN)"
                )
                raise BurnishError(Reason.SourceForbidden, f"{uri} is not there, or not for everybody; {cure}") from error
            if error.reason is Reason.SourceNotFound:
                raise BurnishError(Reason.SourceNotFound, f"nothing is at {uri}; correct the name, the revision or the path") from error
            raise


def parse(uri: str) -> Repository:
    """The parts of an hf: URI.

    Raises:
        BurnishError: InvalidManifest.
    """
    found = _URI.fullmatch(uri)
    path = (found["path"] or "").strip("/") if found else ""
    if found is None or ".." in path.split("/") or (found["kind"] and not path):
        raise BurnishError(
            Reason.InvalidManifest,
            f"{scrub(uri)} names no repository; write hf://org/name, hf://org/name@revision/path, or hf://datasets/org/name/path for data",
        )
    return Repository(found["kind"] or "", found["name"], found["revision"] or "main", path)


def _size(entry: dict[str, Any]) -> int:
    return int((entry.get("lfs") or {}).get("size", entry.get("size") or 0))


def _select(uri: str, wanted: Repository, commit: str, found: list[Listed]) -> Listing:
    exact = [entry for entry in found if entry.path == wanted.path]
    if exact:
        return Listing(commit, (dataclasses.replace(exact[0], path=wanted.path),), is_directory=False)
    below = [entry for entry in found if not wanted.path or entry.path.startswith(f"{wanted.path}/")]
    kept = tuple(entry for entry in below if wanted.path or entry.path.lower().endswith(_KEPT))  # who names a folder means all of it
    if not kept:
        why = f"holds nothing that is taken from a Hub ({', '.join(_KEPT)})" if below else "has no such file or folder"
        raise BurnishError(Reason.SourceNotFound, f"{uri} {why}; name a file of the repository")
    for entry in kept:
        if entry.path.startswith("/") or ".." in entry.path.split("/"):
            raise BurnishError(Reason.UnsafeSource, f"{uri} holds a file named {entry.path!r}, which leads out of its folder")
    return Listing(commit, kept, is_directory=True)
