"""Downloads over https: bounded in size and time, checked for completeness, resumed when cut off, and silent about secrets.

The standard library's client is used, with three changes. Its time-out is per read, so a server that sends a byte now and then is never given up:
here the socket itself knows when the whole download has to be over. A body that stops early is an error here, not an end. And where private
addresses are out of bounds, it is the address that was connected to that counts: names and redirects say what they like.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any, NoReturn
from urllib.parse import urlsplit

import burnish
from burnish.api.uris import scrub
from burnish.errors import BurnishError, Reason
from burnish.store import credentials

MAX_REDIRECTS = 5
_CHUNK_BYTES = 2**20
_PEEK_SECONDS = 0.5
_RESUMPTIONS = 5
"""In a row, each of which has to bring something."""
_NOT_FOUND, _CHANGED = {404, 410}, 412
_FORBIDDEN = {401, 403, 407, 409}
"""409 is what Azure answers whom it doesn't know, where nothing is public."""
_MAX_ANSWER_BYTES = 64 * 1024


Headers = Callable[[int], Mapping[str, str]]
"""From the byte that a request starts at, to the headers that go to the URI's own host and no other."""


def bearer(token: str) -> Headers:
    """`Authorization: Bearer`, where there is a token."""
    return lambda start: {"Authorization": f"Bearer {token}"} if token else {}


_NOBODY = bearer("")


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


@dataclass(frozen=True)
class Transport:
    """How servers are reached."""

    clock: Clock
    is_private_allowed: bool = True
    """Loopback, link-local and private addresses may be connected to."""
    authority: str = ""
    """A file of certificates in PEM that are trusted beside the system's (or SSL_CERT_FILE's)."""


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> urllib.request.Request | None:
        _check_redirect(scrub(req.full_url), newurl)
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            found.remove_header("Authorization")  # it was given to one host, and no other
        return found


class _PublicConnection(http.client.HTTPSConnection):
    """Refuses to talk to loopback, link-local and private addresses: from inside a cluster they are other people's services, and the cloud's own."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._create_connection = self._connect_public

    def _connect_public(self, *arguments: Any) -> socket.socket:
        """A connection, closed before anything is sent if it leads where it must not."""
        connected = socket.create_connection(*arguments)
        address = ipaddress.ip_address(connected.getpeername()[0].partition("%")[0])
        real = getattr(address, "ipv4_mapped", None) or address
        is_proxy = bool(getattr(self, "_tunnel_host", None))  # an admin named it, and it decides
        if is_proxy or (real.is_global and not real.is_multicast):
            return connected
        connected.close()
        raise BurnishError(
            Reason.UnsafeSource,
            f"{self.host} is at the private address {real}; a source may be there only if the installation allows it (chart: allowPrivateAddresses)",
        )


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext, connection: type[http.client.HTTPSConnection]) -> None:
        super().__init__(context=context)
        self._connect = functools.partial(connection, context=context)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connect, req)


def _check_redirect(name: str, target: str) -> None:
    parts = urlsplit(target)
    if parts.scheme not in ("", "https") or "@" in parts.netloc:
        raise BurnishError(Reason.UnsafeSource, f"{name} redirects to {scrub(target)}; only redirects to https: without credentials are followed")


def _context(transport: Transport) -> ssl.SSLContext:
    class TimedSocket(ssl.SSLSocket):
        def recv_into(self, *args: Any, **kwargs: Any) -> int:
            self.settimeout(transport.clock.next_wait())
            self.suppress_ragged_eofs = False  # a connection that breaks is not the end of the body
            return super().recv_into(*args, **kwargs)

    context = ssl.create_default_context()
    if transport.authority:
        context.load_verify_locations(transport.authority)
    context.sslsocket_class = TimedSocket
    return context


def _opener(transport: Transport) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _HttpsHandler(_context(transport), http.client.HTTPSConnection if transport.is_private_allowed else _PublicConnection),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _OnlyHttps(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", f"burnish/{burnish.__version__}")]
    return opener


def download(
    uri: str, *, max_bytes: int, transport: Transport, headers: Headers = _NOBODY, is_pinned: bool = False
) -> Iterator[tuple[bytes, int | None]]:
    """Yield the body in pieces, each with the announced length where there is one. What is cut off is resumed, if it is still the same file.

    Args:
        uri: https.
        max_bytes: most that is accepted.
        transport: how it is reached, and when it has to be over.
        headers: what the URI's own host is sent, and no other.
        is_pinned: the URI or the headers name one version, so what is cut off needs no ETag to be resumed.

    Raises:
        BurnishError: SourceNotFound (404, 410), SourceForbidden (401, 403), SourceUnavailable (other answers, no connection, TLS), SourceTimeout,
            SourceTooLarge (more than `max_bytes`, or than announced), SourceIncomplete (less than announced, cut off, or another version: 412),
            UnsafeSource (a redirect to anything but https, or a private address), InvalidManifest (no URI that can be asked for).
    """
    name, clock = scrub(uri), transport.clock
    opener = _opener(transport)
    received, validator, useless = 0, "", 0
    with _naming_faults(name, clock):
        while True:
            request = _request(uri, headers, start=received)
            if received and not is_pinned:
                request.add_header("If-Range", validator)
            before = received
            try:
                with opener.open(request, timeout=clock.next_wait()) as response:
                    if received and response.status != http.HTTPStatus.PARTIAL_CONTENT:
                        raise _changed(name)
                    if received and not (response.headers.get("Content-Range") or "").startswith(f"bytes {received}-"):
                        raise _changed(name)
                    validator = validator or _validator(response)
                    for chunk, announced in _body(response, name, max_bytes - before, clock):
                        received += len(chunk)
                        yield chunk, announced + before if announced is not None else None
                return
            except BurnishError as error:
                useless = 0 if received > before else useless + 1
                if error.reason is not Reason.SourceIncomplete or not (validator or is_pinned) or not received or useless >= _RESUMPTIONS:
                    raise


def look(uri: str, *, transport: Transport, headers: Headers = _NOBODY) -> Message:
    """The headers of the answer to HEAD.

    Raises:
        BurnishError: as `download`.
    """
    request = _request(uri, headers, method="HEAD")
    clock = transport.clock
    with _naming_faults(scrub(uri), clock), _opener(transport).open(request, timeout=clock.next_wait()) as answer:
        return answer.headers  # type: ignore[no-any-return]


def post(uri: str, form: bytes, *, transport: Transport) -> bytes:
    """The answer to a form, 64 KiB of it at most.

    Raises:
        BurnishError: as `download`; SourceForbidden also for an answer of 400, which is what OAuth refuses with (RFC 6749, 5.2).
    """
    request = _request(uri, lambda _: {"Content-Type": "application/x-www-form-urlencoded"}, method="POST", data=form)
    clock = transport.clock
    with _naming_faults(scrub(uri), clock, refusals={400}), _opener(transport).open(request, timeout=clock.next_wait()) as answer:
        return bytes(answer.read(_MAX_ANSWER_BYTES))


def _request(uri: str, headers: Headers, *, start: int = 0, method: str = "GET", data: bytes | None = None) -> urllib.request.Request:
    request = urllib.request.Request(uri, method=method, data=data)  # noqa: S310  # https only: the opener has no other handler
    if start:
        request.add_header("Range", f"bytes={start}-")
    for header, value in headers(start).items():
        request.add_unredirected_header(header, value)
    return request


@contextlib.contextmanager
def _naming_faults(name: str, clock: Clock, refusals: frozenset[int] | set[int] = frozenset()) -> Iterator[None]:
    """What goes wrong on the way, with its reason."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        _check_redirect(name, error.headers.get("Location") or "")  # some schemes urllib itself refuses
        _raise_for_status(403 if error.code in refusals else error.code, name)
    except (http.client.InvalidURL, UnicodeError) as error:
        raise BurnishError(Reason.InvalidManifest, f"{name} is not a valid URI; percent-encode what is not plain text") from error
    except urllib.error.URLError as error:
        _raise_for_cause(error.reason, name, clock)
    except (OSError, http.client.HTTPException) as error:
        _raise_for_cause(error, name, clock)


def _validator(response: Any) -> str:
    """What names this very content (RFC 9110, 13.1.5): a strong ETag; without one, and without ranges, nothing can be resumed."""
    etag = response.headers.get("ETag") or ""
    has_ranges = (response.headers.get("Accept-Ranges") or "").strip().lower() == "bytes"
    return etag if has_ranges and etag.startswith('"') else ""


def _changed(name: str) -> BurnishError:
    return BurnishError(Reason.SourceUnavailable, f"{name} was cut off, and is not the same file any more; try again when nobody changes it")


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
    if code == _CHANGED:
        raise BurnishError(Reason.SourceIncomplete, f"{name} changed while it was read; try again when nobody writes it") from None
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
            f"the certificate of {name} is not trusted ({cause.verify_message}); {credentials.AUTHORITY_CURE}",
        ) from None
    why = (getattr(cause, "strerror", None) or type(cause).__name__) if isinstance(cause, BaseException) else "no connection"
    raise BurnishError(Reason.SourceUnavailable, f"can't reach {name} ({why}); check the address and the network, and try again") from None
