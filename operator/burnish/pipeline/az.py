"""Blobs of Azure Storage: `az://container/path`, one of them or all below a path; the account is the credentials'.

Its REST interface over plain HTTPS, for the reasons of `burnish.pipeline.gs`. An ETag is one content of one blob, and goes along with every read.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import functools
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from email.message import Message
from email.utils import formatdate
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from xml.etree import ElementTree

from burnish.errors import BurnishError, Reason
from burnish.pipeline import https
from burnish.pipeline.remote_files import Pieces, RemoteFile, RemoteFiles, below

ACCOUNT_NAME, KEY_NAME, SAS_NAME = "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"
_VERSION = "2021-12-02"
"""Of the interface (x-ms-version)."""
_MAX_LISTING_BYTES = 32 * 2**20


@dataclasses.dataclass(frozen=True)
class Account:
    """A storage account, and what it knows the reader by: a key, a signature (SAS), or nothing, for what is public. Shows neither."""

    name: str
    key: str = dataclasses.field(default="", repr=False)
    """In base64, as the portal shows it."""
    sas: str = dataclasses.field(default="", repr=False)
    endpoint: str = ""
    """Of its blobs, where that isn't Azure's own."""

    def __post_init__(self) -> None:
        """Raises: BurnishError (SecretNotFound, SourceForbidden), where they can't be any account's."""
        if not re.fullmatch("[a-z0-9]{3,24}", self.name):
            raise BurnishError(
                Reason.SecretNotFound, f"az: needs the name of the storage account; put it into the Secret's key {ACCOUNT_NAME} (or that variable)"
            )
        try:
            base64.b64decode(self.key, validate=True)
        except (binascii.Error, ValueError):
            raise BurnishError(Reason.SourceForbidden, f"{KEY_NAME} is no key of a storage account, which is base64; copy it again") from None
        if not re.fullmatch(r"\??[\x21-\x7e]*", self.sas):
            raise BurnishError(Reason.SourceForbidden, f"{SAS_NAME} holds what no signature does (spaces, or more than ASCII); copy it again")

    @property
    def root(self) -> str:
        """URL of its blobs."""
        return self.endpoint or f"https://{self.name}.blob.core.windows.net"

    def place(self, path: str, query: Mapping[str, str]) -> str:
        """The URL to ask for, the signature with it unless there is a key."""
        parts = [urlencode(query), "" if self.key else self.sas.lstrip("?")]
        asked = "&".join(part for part in parts if part)
        return f"{self.root}/{quote(path, safe='/~')}{'?' if asked else ''}{asked}"

    def headers(self, verb: str, place: str, etag: str, start: int) -> Mapping[str, str]:
        """Those of a request, signed where there is a key (Shared Key of Azure Storage, from version 2015-02-21 on)."""
        ours = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION}
        if self.key:
            text = _text_to_sign(verb, place, {**ours, "if-match": etag, "range": f"bytes={start}-" if start else ""}, self.name)
            signature = hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()
            ours["Authorization"] = f"SharedKey {self.name}:{base64.b64encode(signature).decode()}"
        return {**ours, **({"If-Match": etag} if etag else {})}


def _text_to_sign(verb: str, place: str, headers: Mapping[str, str], account: str) -> str:
    """Microsoft's "Authorize with Shared Key": the standard headers by position, those of Azure, and what is asked for."""
    parts = urlsplit(place)
    # encoding, language, length, MD5 and type of a body, and Date: never sent
    standard = [verb, "", "", "", "", "", "", "", headers["if-match"], "", "", headers["range"]]
    own = [f"{name}:{value}" for name, value in sorted(headers.items()) if name.startswith("x-ms-")]
    query = [f"{name.lower()}:{value}" for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True))]
    return "\n".join([*standard, *own, f"/{account}{parts.path}", *query])


@dataclasses.dataclass(frozen=True)
class Container:
    """A container, as it may be asked."""

    uri: str
    """Of the source, for messages."""
    name: str
    account: Account
    transport: https.Transport

    def find(self, path: str, *, max_bytes: int, max_files: int) -> RemoteFiles:
        """The blob of that name, or those below it; of more than `max_files` some.

        Raises:
            BurnishError: SourceNotFound, SourceForbidden, UnsafeSource, and what `https.download` raises.
        """
        with contextlib.suppress(_MissingError):
            found = self._look(path)
            if found.get("x-ms-meta-hdi_isfolder") != "true":  # a folder of an account with hierarchical namespace is a blob, too
                return RemoteFiles([self._file(path, path, found.get("Content-Length"), found.get("ETag"), max_bytes)], is_directory=False)
        files: list[RemoteFile] = []
        query = {"restype": "container", "comp": "list", "prefix": f"{path}/"}
        while True:
            page = self._list(query)
            for blob in page.iter("Blob"):
                facts = {node.tag: node.text or "" for part in blob for node in (part, *part)}
                if facts.get("ResourceType") == "directory" or facts.get("hdi_isfolder") == "true":
                    continue
                is_encoded = blob.find("Name[@Encoded='true']") is not None  # where it holds what XML can't
                name = unquote(facts.get("Name", "")) if is_encoded else facts.get("Name", "")
                files.append(self._file(name, below(self.uri, name, path), facts.get("Content-Length"), facts.get("Etag"), max_bytes))
            marker = page.findtext("NextMarker")
            if not marker or len(files) > max_files:
                return RemoteFiles(files, is_directory=True)
            query["marker"] = marker

    def _file(self, name: str, path: str, size: str | None, etag: str | None, max_bytes: int) -> RemoteFile:
        if not etag or not size or not size.isdecimal():
            raise self._strange()
        strong = etag if etag.startswith('"') else f'"{etag}"'  # listings leave the quotes out
        return RemoteFile(path, int(size), functools.partial(self._get, f"{self.name}/{name}", {}, strong, max_bytes))

    def _look(self, path: str) -> Message:
        place = self.account.place(f"{self.name}/{path}", {})
        headers = functools.partial(self.account.headers, "HEAD", place, "")
        with self._told():
            return https.look(place, transport=self.transport, headers=headers)

    def _list(self, query: Mapping[str, str]) -> ElementTree.Element:
        body = b"".join(chunk for chunk, _ in self._get(self.name, query, "", _MAX_LISTING_BYTES))
        try:
            if b"<!" not in body:  # no listing has a document type, and entities that are declared there can grow without limit
                return ElementTree.fromstring(body)  # noqa: S314
        except ElementTree.ParseError:
            pass
        raise self._strange()

    def _get(self, path: str, query: Mapping[str, str], etag: str, max_bytes: int) -> Pieces:
        place = self.account.place(path, query)
        headers = functools.partial(self.account.headers, "GET", place, etag)
        with self._told():
            yield from https.download(place, max_bytes=max_bytes, transport=self.transport, headers=headers, is_pinned=bool(etag))

    def _strange(self) -> BurnishError:
        return BurnishError(Reason.SourceUnavailable, f"the answer about {self.uri} is none of Azure's; check AZURE_STORAGE_SERVICE_ENDPOINT")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BurnishError as error:
            if error.reason is Reason.SourceNotFound:
                raise _MissingError(Reason.SourceNotFound, f"nothing is at {self.uri} in the account {self.account.name}; correct the URI") from None
            if error.reason is Reason.SourceForbidden:
                known = self.account.key or self.account.sas
                cure = f"correct {KEY_NAME} or {SAS_NAME} (which has to allow read and list)" if known else f"give {KEY_NAME} or {SAS_NAME}"
                raise BurnishError(
                    Reason.SourceForbidden, f"{self.uri} may not be read in the account {self.account.name}; {cure} in the Secret, or the environment"
                ) from None
            raise


class _MissingError(BurnishError):
    """A blob, or the whole container."""
