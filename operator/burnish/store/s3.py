"""S3 and what speaks its protocol: the connection that stores and sources share, and the store's backend on it.

Reading is s3fs's. What a store needs beyond it is one call that fsspec doesn't have: a PUT that fails where there is something already
(`If-None-Match: *`), so that of two publishers one wins.
"""

from __future__ import annotations

import contextlib
import errno
import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from burnish.errors import BurnishError, Reason
from burnish.store.backend import RENEW_SECONDS, Backend, Found, Scratch, UntrustedError, reading, writing
from burnish.store.credentials import AUTHORITY_CURE, Credentials

_TIMEOUT_S = 30
_ATTEMPTS = 3
_BLOCK_BYTES = 16 * 2**20
"""Of a read, and of an upload in parts, which is what is at least twice as large."""
_PARTS_AT_ONCE = 4
"""Each is in memory about twice, and a light step of a Job has 512 MiB."""
_FULL_CODES = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507", "EntityTooLarge", "SlowDownWrite"}
_TAKEN_CODES = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_DENIED_CODES = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "403", "401", "ExpiredToken", "InvalidToken"}
_MISSING_CODES = {"NoSuchKey", "NoSuchBucket", "NotFound", "404"}


def connect(credentials: Credentials) -> Any:
    """An s3fs file system with these credentials and no others: no profile files, no instance metadata.

    Raises:
        BurnishError: ToolchainUnavailable, where s3fs is not installed.
    """
    try:
        import s3fs
        from aiobotocore.httpsession import AIOHTTPSession
        from aiobotocore.session import AioSession
    except ImportError as error:
        raise BurnishError(Reason.ToolchainUnavailable, "s3:// needs the extra burnish[s3]; install it") from error
    session = AioSession()

    class TrustingSession(AIOHTTPSession):  # type: ignore[misc]
        """Trusts the authorities that everything else here trusts, beside the client's own list: the system's, SSL_CERT_FILE's, the Secret's."""

        def _get_ssl_context(self) -> ssl.SSLContext:
            context: ssl.SSLContext = super()._get_ssl_context()
            context.load_default_certs()
            if credentials.authority:
                context.load_verify_locations(credentials.authority)
            return context

    for variable, value in (("config_file", os.devnull), ("credentials_file", os.devnull), ("profile", None)):
        session.set_config_variable(variable, value)
    keys = {"key": credentials.access_key, "secret": credentials.secret_key, "token": credentials.session_token or None}
    return s3fs.S3FileSystem(
        anon=not credentials.access_key,
        **(keys if credentials.access_key else {}),
        endpoint_url=credentials.endpoint or None,
        session=session,
        default_block_size=_BLOCK_BYTES,
        use_listings_cache=False,
        skip_instance_cache=True,
        client_kwargs={"region_name": credentials.region or "us-east-1"},
        config_kwargs={
            "http_session_cls": TrustingSession,
            "connect_timeout": _TIMEOUT_S,
            "read_timeout": _TIMEOUT_S,
            "retries": {"max_attempts": _ATTEMPTS, "mode": "standard"},
            "request_checksum_calculation": "when_required",  # newer checksums are not known to every S3-compatible server
            "response_checksum_validation": "when_required",
            **({"s3": {"addressing_style": "path"}} if credentials.endpoint else {}),
        },
    )


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """Turn the client's errors into the operating system's, which everything above knows."""
    from botocore.exceptions import BotoCoreError, ClientError, SSLError

    try:
        yield
    except ClientError as error:
        raise _os_error(str(error.response.get("Error", {}).get("Code", ""))) from error
    except (FileNotFoundError, PermissionError, FileExistsError):
        raise
    except SSLError as error:
        raise UntrustedError(errno.EPROTO, f"its certificate is not trusted; {AUTHORITY_CURE}") from error
    except BotoCoreError as error:
        raise OSError(errno.EHOSTUNREACH, f"no answer ({type(error).__name__})") from error
    except OSError as error:  # s3fs's own translation, with the server's words, which may hold a key
        cause = error.__cause__
        code = str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""
        if code or error.errno is None:
            raise _os_error(code or type(error).__name__) from error
        raise


def _os_error(code: str) -> OSError:
    if code in _DENIED_CODES:
        return PermissionError(errno.EACCES, f"the credentials are refused ({code})")
    if code in _MISSING_CODES:
        return FileNotFoundError(errno.ENOENT, code)
    if code in _TAKEN_CODES:
        return FileExistsError(errno.EEXIST, code)
    if code in _FULL_CODES:
        return OSError(errno.ENOSPC, code)
    return OSError(errno.EIO, f"the server answers {code or 'an error'}")


class S3Backend(Backend):
    """A bucket, or a part of one. An object appears whole or not at all; a conditional PUT decides between two writers."""

    def __init__(self, bucket: str, prefix: str, credentials: Credentials) -> None:
        """Use `open_store`."""
        super().__init__(connect(credentials), "/".join(part for part in (f"s3://{bucket}", prefix.strip("/")) if part))
        self._bucket, self._prefix = bucket, prefix.strip("/")

    def open(self, path: str) -> BinaryIO:
        """See `Backend.open`."""
        with reading(self.describe(path)), os_errors():
            return super().open(path)

    def size(self, path: str) -> int | None:
        """See `Backend.size`."""
        with reading(self.describe(path)), os_errors():
            try:
                found = self._fs.call_s3("head_object", Bucket=self._bucket, Key=self._key(path))
            except FileNotFoundError:
                return None
        return int(found["ContentLength"])

    def names(self, folder: str) -> list[str]:
        """See `Backend.names`."""
        with reading(self.describe(folder)), os_errors():
            return super().names(folder)

    def entries(self, folder: str) -> list[Found]:
        """See `Backend.entries`."""
        with reading(self.describe(folder)), os_errors():
            try:
                listing = self._fs.ls(self.describe(folder), detail=True)
            except FileNotFoundError:
                return []
        files = (facts for facts in listing if facts["type"] == "file")
        return [Found(str(facts["name"]).rpartition("/")[2], int(facts["size"]), facts["LastModified"].timestamp()) for facts in files]

    def renew(self, path: str) -> bool:
        """See `Backend.renew`. An object can't be touched, only written again."""
        with reading(self.describe(path)), os_errors():
            try:
                found = self._fs.call_s3("head_object", Bucket=self._bucket, Key=self._key(path))
            except FileNotFoundError:
                return False
        return bool(time.time() - found["LastModified"].timestamp() < RENEW_SECONDS)

    def remove_older(self, path: str, before: float) -> bool:
        """See `Backend.remove_older`.

        The look is a request and the removal another, and S3 can't make a removal depend on an object's age. A blob that is written again between
        the two is lost: the next run finds what refers to it incomplete (`records.has_artifacts`, `trees.has_tree`) and makes it again.
        """
        with writing(self.root), os_errors():
            try:
                found = self._fs.call_s3("head_object", Bucket=self._bucket, Key=self._key(path))
            except FileNotFoundError:
                return False
            if found["LastModified"].timestamp() >= before:
                return False
            self._fs.call_s3("delete_object", Bucket=self._bucket, Key=self._key(path))
        return True

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Scratch]:
        """A temporary file on this machine; the object is made of it at once."""
        with writing(tempfile.gettempdir()):
            descriptor, name = tempfile.mkstemp(prefix="burnish-")
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield Scratch(path, stream, self.root)
        finally:
            path.unlink(missing_ok=True)

    def publish(self, scratch: Scratch, path: str) -> bool:
        """See `Backend.publish`."""
        scratch.finish()
        with writing(self.root), os_errors():
            try:
                self._fs.call_s3("put_object", Bucket=self._bucket, Key=self._key(path), Body=scratch.path.read_bytes(), IfNoneMatch="*")
            except FileExistsError:
                return False
            except OSError as error:
                if getattr(error, "errno", None) == errno.EEXIST or _code(error) in _TAKEN_CODES:
                    return False
                raise
        return True

    def replace(self, scratch: Scratch, path: str) -> None:
        """See `Backend.replace`."""
        scratch.finish()
        with writing(self.root), os_errors():
            self._fs.put_file(str(scratch.path), self.describe(path), chunksize=_BLOCK_BYTES, max_concurrency=_PARTS_AT_ONCE)

    def leftovers(self) -> list[Found]:
        """None: unfinished uploads are the bucket's to expire."""
        return []

    def tidy(self) -> list[Found]:
        """See `Backend.tidy`."""
        return []

    def _key(self, path: str) -> str:
        return "/".join(part for part in (self._prefix, path) if part)


def _code(error: BaseException) -> str:
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
