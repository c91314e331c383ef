"""Downloads over https: bounded in size and time, checked for completeness, and silent about secrets.

The standard library's client is used, with two changes. Its time-out is per read, so a server that sends a byte now and then is never given up:
here the socket itself knows when the whole download has to be over. And a body that stops early is an error here, not an end.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

import burnish
from burnish.api.uris import scrub
from burnish.errors import BurnishError, Reason

MAX_REDIRECTS = 5
_CHUNK_BYTES = 2**20
_PEEK_SECONDS = 0.5
_NOT_FOUND, _FORBIDDEN = {404, 410}, {401, 403, 407}


@dataclass
class Clock:
    """When a download has to be over, and how long it may stay silent; seconds."""

    total_seconds: float
    idle_seconds: float

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.total_seconds

    def next_wait(self) -> float:
        """How long the next read may take.

        Raises:
            TimeoutError: the download's time is over.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, self.idle_seconds)


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> urllib.request.Request | None:
        _check_redirect(scrub(req.full_url), newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_redirect(name: str, target: str) -> None:
    parts = urlsplit(target)
    if parts.scheme not in ("", "https") or "@" in parts.netloc:
        raise BurnishError(Reason.UnsafeSource, f"{name} redirects to {scrub(target)}; only redirects to https: without credentials are followed")


def _context(clock: Clock) -> ssl.SSLContext:
    class TimedSocket(ssl.SSLSocket):
        def recv_into(self, *args: Any, **kwargs: Any) -> int:
            self.settimeout(clock.next_wait())
            self.suppress_ragged_eofs = False  # a connection that breaks is not the end of the body
            return super().recv_into(*args, **kwargs)

    context = ssl.create_default_context()  # the system's certificates, or SSL_CERT_FILE's
    context.sslsocket_class = TimedSocket
    return context


def _opener(clock: Clock) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(context=_context(clock)),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _OnlyHttps(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", f"burnish/{burnish.__version__}")]
    return opener


def download(uri: str, *, max_bytes: int, clock: Clock) -> Iterator[tuple[bytes, int | None]]:
    """Yield the body in pieces, each with the announced length where there is one.

    Raises:
        BurnishError: SourceNotFound (404, 410), SourceForbidden (401, 403), SourceUnavailable (other answers, no connection, TLS), SourceTimeout,
            SourceTooLarge (more than `max_bytes`, or than announced), SourceIncomplete (less than announced, or cut off), UnsafeSource (a redirect
            to anything but https), InvalidManifest (no URI that can be asked for).
    """
    name = scrub(uri)
    try:
        with _opener(clock).open(uri, timeout=clock.next_wait()) as response:
            yield from _body(response, name, max_bytes, clock)
    except urllib.error.HTTPError as error:
        error.close()
        _check_redirect(name, error.headers.get("Location") or "")  # some schemes urllib itself refuses
        _raise_for_status(error.code, name)
    except (http.client.InvalidURL, UnicodeError) as error:
        raise BurnishError(Reason.InvalidManifest, f"{name} is not a valid URI; percent-encode what is not plain text") from error
    except urllib.error.URLError as error:
        _raise_for_cause(error.reason, name, clock)
    except (OSError, http.client.HTTPException) as error:
        _raise_for_cause(error, name, clock)


def _body(response: http.client.HTTPResponse, name: str, max_bytes: int, clock: Clock) -> Iterator[tuple[bytes, int | None]]:
    # Left to itself, the client stops at the announced length, and what a server sends beyond its word goes unseen. It was asked to close the
    # connection, so reading on costs nothing; one that doesn't is silent, and gets a short wait.
    announced, response.length = response.length, None
    if announced is not None and announced > max_bytes:
        raise BurnishError(Reason.SourceTooLarge, f"{name} has {announced} bytes, more than the limit of {max_bytes}; use a smaller file")
    received = 0
    try:
        while chunk := response.read1(_CHUNK_BYTES):
            received += len(chunk)
            if received > max_bytes:
                raise BurnishError(Reason.SourceTooLarge, f"{name} sent more than the limit of {max_bytes} bytes; use a smaller file")
            if announced is not None and received > announced:
                raise BurnishError(
                    Reason.SourceTooLarge, f"{name} sent more than the {announced} bytes that it announced; its server is at fault, try another"
                )
            if received == announced:
                clock.idle_seconds = _PEEK_SECONDS
            yield chunk, announced
    except TimeoutError:
        if received != announced:
            raise
    except (OSError, http.client.IncompleteRead) as error:
        if received != announced:
            raise _incomplete(name, received, announced) from error
    if announced is not None and received < announced:
        raise _incomplete(name, received, announced)


def _incomplete(name: str, received: int, announced: int | None) -> BurnishError:
    of = f" of {announced}" if announced is not None else ""
    return BurnishError(Reason.SourceIncomplete, f"{name} ended after {received}{of} bytes; try again")


def _raise_for_status(code: int, name: str) -> NoReturn:
    if code in _NOT_FOUND:
        raise BurnishError(Reason.SourceNotFound, f"nothing is at {name} (HTTP {code}); correct the URI") from None
    if code in _FORBIDDEN:
        raise BurnishError(
            Reason.SourceForbidden, f"{name} may not be read (HTTP {code}); use a URI that needs no credentials, or a pre-signed one"
        ) from None
    if 300 <= code < 400:
        raise BurnishError(
            Reason.SourceUnavailable, f"{name} redirects in a circle, more than {MAX_REDIRECTS} times, or nowhere (HTTP {code}); use the final URI"
        ) from None
    raise BurnishError(Reason.SourceUnavailable, f"{name} answered HTTP {code}; try again later") from None


def _raise_for_cause(cause: object, name: str, clock: Clock) -> NoReturn:
    if isinstance(cause, TimeoutError):
        raise BurnishError(
            Reason.SourceTimeout,
            f"{name} did not deliver in time (at most {clock.idle_seconds:g} s of silence, {clock.total_seconds:g} s in all); try again, or use a nearer copy",
        ) from None
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise BurnishError(
            Reason.SourceUnavailable,
            f"the certificate of {name} is not trusted ({cause.verify_message}); name a file with its authority in SSL_CERT_FILE",
        ) from None
    why = (getattr(cause, "strerror", None) or type(cause).__name__) if isinstance(cause, BaseException) else "no connection"
    raise BurnishError(Reason.SourceUnavailable, f"can't reach {name} ({why}); check the address and the network, and try again") from None
