"""Objects of Google Cloud Storage: `gs://bucket/path`, one of them or all below a path.

Its JSON interface over plain HTTPS, as with the Hub: the client libraries would bring retries, redirects and searches for credentials of their own (a
machine's metadata, files of gcloud), and downloads here are bounded, resumed and kept out of private networks already. A generation is one content of
one object for ever, so what was listed is what is read.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from burnish.errors import BurnishError, Reason
from burnish.pipeline import https
from burnish.pipeline.remote_files import Pieces, RemoteFile, RemoteFiles, below

ENDPOINT = "https://storage.googleapis.com"
KEY_NAME = "GOOGLE_APPLICATION_CREDENTIALS"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
"""RFC 7523, 2.1."""
_TOKEN_SECONDS, _RENEW_SECONDS = 3600, 3000
_FIELDS = "name,size,generation,contentEncoding"
_PAGE = 1000
"""Objects; as many as Google's answers hold at most."""
_MAX_LISTING_BYTES = 32 * 2**20


@dataclasses.dataclass
class ServiceAccount:
    """A service account, as its JSON key tells of it. Shows nothing of its key."""

    key: str = dataclasses.field(repr=False)
    """The JSON text; empty: nobody, who reads what is public."""
    transport: https.Transport
    _token: str = dataclasses.field(default="", repr=False)
    _since: float = 0.0

    def headers(self, start: int = 0) -> Mapping[str, str]:
        """What the storage is sent to know it by.

        Raises:
            BurnishError: SourceForbidden (no key, or one that is refused), ToolchainUnavailable, and what `https.post` raises.
        """
        if self.key and (not self._token or time.monotonic() - self._since > _RENEW_SECONDS):
            self._token, self._since = self._ask(), time.monotonic()
        return https.bearer(self._token)(start)

    def _ask(self) -> str:
        """An access token for a signed claim (RFC 7523)."""
        told = _checked_key(self.key)
        form = urlencode({"grant_type": _GRANT, "assertion": _signed_claim(told)}).encode()
        try:
            answer = https.post(told["token_uri"], form, transport=self.transport)
            return str(json.loads(answer)["access_token"])
        except BurnishError as error:
            if error.reason is not Reason.SourceForbidden:
                raise
            raise _RefusedKeyError(
                Reason.SourceForbidden,
                f"Google refuses the key of the service account {told['client_email']}; make a new one, and put it into the Secret's key {KEY_NAME}",
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BurnishError(Reason.SourceUnavailable, f"the answer of {told['token_uri']} holds no token; check token_uri in {KEY_NAME}") from None


def _checked_key(text: str) -> dict[str, str]:
    try:
        told = json.loads(text)
        found = {name: str(told[name]) for name in ("client_email", "private_key", "token_uri")}
        if told["type"] == "service_account" and found["token_uri"].startswith("https://"):
            return {**found, "private_key_id": str(told.get("private_key_id", ""))}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise _RefusedKeyError(
        Reason.SourceForbidden,
        f"{KEY_NAME} holds no service account's key; make one (gcloud iam service-accounts keys create FILE --iam-account=NAME) and take the file's JSON",
    ) from None


def _signed_claim(told: Mapping[str, str]) -> str:
    try:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding, rsa
    except ImportError as error:
        raise BurnishError(Reason.ToolchainUnavailable, "gs:// with a service account needs the extra burnish[gs]; install it") from error
    try:
        key = serialization.load_pem_private_key(told["private_key"].encode(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _RefusedKeyError(
            Reason.SourceForbidden, f"private_key in {KEY_NAME} is no RSA key in PEM; take the whole JSON file as it was made"
        ) from None
    now = int(time.time())
    claims = {"iss": told["client_email"], "scope": _SCOPE, "aud": told["token_uri"], "iat": now, "exp": now + _TOKEN_SECONDS}
    head = {"alg": "RS256", "typ": "JWT", "kid": told["private_key_id"]}
    text = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
    return f"{text}.{_base64(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket, as it may be asked."""

    uri: str
    """Of the source, for messages."""
    name: str
    account: ServiceAccount
    endpoint: str = ENDPOINT

    def find(self, path: str, *, max_bytes: int, max_files: int) -> RemoteFiles:
        """The object of that name, or those below it; of more than `max_files` some.

        Raises:
            BurnishError: SourceNotFound, SourceForbidden, UnsafeSource, SourceIncomplete (stored compressed), and what `https.download` raises.
        """
        with contextlib.suppress(_MissingError):
            found = self._ask(f"/{quote(path, safe='')}?{urlencode({'fields': _FIELDS})}")
            return RemoteFiles([self._file(found, path, max_bytes)], is_directory=False)
        files: list[RemoteFile] = []
        query = {"prefix": f"{path}/", "maxResults": str(_PAGE), "fields": f"items({_FIELDS}),nextPageToken"}
        while True:
            page = self._ask(f"?{urlencode(query)}")
            listed = [
                entry for entry in page.get("items", ()) if not str(entry.get("name")).endswith("/")
            ]  # placeholders that consoles make of folders
            files += [self._file(entry, below(self.uri, str(entry["name"]), path), max_bytes) for entry in listed]
            if not page.get("nextPageToken") or len(files) > max_files:
                return RemoteFiles(files, is_directory=True)
            query["pageToken"] = str(page["nextPageToken"])

    def _file(self, told: Mapping[str, Any], path: str, max_bytes: int) -> RemoteFile:
        try:
            name, size, generation = str(told["name"]), int(told["size"]), int(told["generation"])
        except (ValueError, KeyError, TypeError):
            raise self._strange() from None
        if told.get("contentEncoding"):  # what is served then has another length than what is listed
            raise BurnishError(
                Reason.SourceIncomplete,
                f"{self.uri}: {name} is stored with the encoding {told['contentEncoding']}; upload it without (gcloud storage cp)",
            )
        return RemoteFile(path, size, functools.partial(self._download, name, generation, max_bytes))

    def _download(self, name: str, generation: int, max_bytes: int) -> Pieces:
        place = f"{self.endpoint}/download/storage/v1/b/{quote(self.name, safe='')}/o/{quote(name, safe='')}?alt=media&generation={generation}"
        try:
            with self._told():
                yield from self._get(place, max_bytes, is_pinned=True)
        except _MissingError:
            raise BurnishError(Reason.SourceIncomplete, f"{self.uri} changed while it was read; try again when nobody writes it") from None

    def _ask(self, rest: str) -> Any:
        """The answer to a question about objects."""
        with self._told():
            place = f"{self.endpoint}/storage/v1/b/{quote(self.name, safe='')}/o{rest}"
            body = b"".join(chunk for chunk, _ in self._get(place, _MAX_LISTING_BYTES, is_pinned=False))
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            raise self._strange() from None
        if not isinstance(told, dict):
            raise self._strange()
        return told

    def _get(self, place: str, max_bytes: int, *, is_pinned: bool) -> Pieces:
        account = self.account
        return https.download(place, max_bytes=max_bytes, transport=account.transport, headers=account.headers, is_pinned=is_pinned)

    def _strange(self) -> BurnishError:
        return BurnishError(Reason.SourceUnavailable, f"the answer about {self.uri} is none of Google's; check STORAGE_EMULATOR_HOST")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except _RefusedKeyError:
            raise
        except BurnishError as error:
            if error.reason is Reason.SourceNotFound:
                raise _MissingError(Reason.SourceNotFound, f"nothing is at {self.uri}; correct the URI") from None
            if error.reason is Reason.SourceForbidden:
                cure = "give this service account storage.objects.get and .list on the bucket" if self.account.key else f"give a key ({KEY_NAME})"
                raise BurnishError(Reason.SourceForbidden, f"{self.uri} is not there, or may not be read; correct the URI, or {cure}") from None
            raise


class _MissingError(BurnishError):
    """An object, or the whole bucket."""


class _RefusedKeyError(BurnishError):
    """The service account's, not the object's, fault."""
