"""Against real TLS servers on this machine, each fault made by the server itself."""

import hashlib
import http.server
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from burnish.api.job_contract import SourceRecord
from burnish.errors import BurnishError, Reason
from burnish.pipeline import fetch, https
from burnish.pipeline.progress import emit
from burnish.store import trees
from burnish.store.credentials import Credentials
from burnish.store.store import Store, open_store

MODEL = os.urandom(300_000)
DIGEST = "sha256:" + hashlib.sha256(MODEL).hexdigest()
WRONG = "sha256:" + "0" * 64
LIMITS = fetch.FetchLimits(max_bytes=1_000_000, total_seconds=20, idle_seconds=5)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        route = self.path.partition("?")[0].strip("/").partition("/")[0]
        self.close_connection = True
        if route.isdigit():
            self.send_error(int(route))
        else:
            getattr(self, route)()

    def head(self, length: int | None, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def ok(self) -> None:
        self.head(len(MODEL))
        self.wfile.write(MODEL)

    def mutable(self) -> None:
        content = self.server.content
        self.head(len(content))
        self.wfile.write(content)

    def chunked(self) -> None:
        self.head(None, **{"Transfer-Encoding": "chunked"})
        for start in range(0, len(MODEL), 70_000):
            piece = MODEL[start : start + 70_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def chunked_cut(self) -> None:
        self.head(None, **{"Transfer-Encoding": "chunked"})
        self.wfile.write(b"%x\r\n%s" % (1000, MODEL[:400]))

    def stays_open(self) -> None:
        self.ok()
        self.server.stop.wait(30)

    def cut(self) -> None:
        self.head(len(MODEL))
        self.wfile.write(MODEL[:1000])

    def cut_without_length(self) -> None:
        self.head(None)
        self.wfile.write(MODEL[:1000])

    def reset(self) -> None:
        self.head(len(MODEL))
        self.wfile.write(MODEL[:1000])
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def resumable(self) -> None:
        """Each answer is cut off; with a Range and the right If-Range the next goes on from there."""
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        is_same = self.headers.get("If-Range") == f'"{self.server.version}"'
        self.server.auth.append(self.headers.get("Authorization"))
        facts = {"ETag": f'"{self.server.version}"', "Accept-Ranges": "bytes"}
        if wanted and is_same:
            self.head(len(MODEL) - start, 206, **facts, **{"Content-Range": f"bytes {start}-{len(MODEL) - 1}/{len(MODEL)}"})
        else:
            start = 0
            self.head(len(MODEL), **facts)
        self.wfile.write(MODEL[start : start + self.server.piece])
        if self.path.endswith("changed.onnx"):
            self.server.version += 1

    def elsewhere(self) -> None:
        self.server.auth.append(self.headers.get("Authorization"))
        self.head(0, 302, Location=self.server.uri("/resumable/model.onnx").replace("localhost", "LOCALHOST"))

    def sends_more(self) -> None:
        self.head(1000)
        self.wfile.write(MODEL)

    def announces_too_much(self) -> None:
        self.head(10**12)

    def endless(self) -> None:
        self.head(None, **{"Transfer-Encoding": "chunked"})
        try:
            while not self.server.stop.is_set():
                self.wfile.write(b"%x\r\n%s\r\n" % (len(MODEL), MODEL))
        except OSError:
            pass  # the client has had enough

    def drip(self) -> None:
        self.head(len(MODEL))
        self._drip(MODEL)

    def drip_headers(self) -> None:
        self._drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 60_000)

    def _drip(self, data: bytes) -> None:
        try:
            for byte in data:
                self.wfile.write(bytes([byte]))
                if self.server.stop.wait(0.02):
                    return
        except OSError:
            pass  # the client has had enough

    def silent(self) -> None:
        self.head(len(MODEL))
        self.server.stop.wait(30)

    def to_ok(self) -> None:
        self.head(0, 302, Location="/ok/model.onnx")

    def to_http(self) -> None:
        self.head(0, 302, Location="http://user:hunter2@localhost/x?sig=hunter2")

    def to_file(self) -> None:
        self.head(0, 302, Location="file:///etc/hostname")

    def loop(self) -> None:
        self.head(0, 302, Location=self.path.partition("?")[0] + "/x")

    def not_http(self) -> None:
        self.wfile.write(b"hello\r\n\r\n")

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.seen: list[str] = []
        self.content = b"first"
        self.version, self.piece = 1, 100_000
        self.auth: list[str | None] = []
        self.stop = threading.Event()

    def uri(self, path: str) -> str:
        return f"https://localhost:{self.server_address[1]}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are what is tested


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(context) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield running
        finally:
            running.stop.set()
            running.shutdown()
            thread.join(10)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def pin(
    store: Store, uri: str, base: Path = Path("/"), *, digest: str | None = None, refresh: str | None = None, limits: fetch.FetchLimits = LIMITS
) -> SourceRecord:
    return fetch.fetch(uri, base, store, digest=digest, refresh=refresh, limits=limits, field="spec.source.uri", progress=emit)


def refused(store: Store, uri: str, base: Path = Path("/"), **arguments: object) -> BurnishError:
    """The error, after a look that nothing was left behind and nothing secret was told."""
    with pytest.raises(BurnishError) as raised:
        pin(store, uri, base, **arguments)  # type: ignore[arg-type]
    assert raised.value.field == "spec.source.uri"
    assert "hunter2" not in str(raised.value)
    root = Path(store.location)
    assert {p.name for p in root.rglob("*") if p.is_file()} <= {"oci-layout", "index.json"}
    return raised.value


# --- https ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ok/model.onnx", "/chunked/model.onnx", "/to_ok/model.onnx", "/stays_open/model.onnx"])
def test_https_file_is_pinned_and_stored(server: Server, store: Store, tmp_path: Path, path: str) -> None:
    record = pin(store, server.uri(path), digest=DIGEST)
    assert (record.tree.digest, record.tree.is_directory, record.tree.files[0].path) == (DIGEST, False, "model.onnx")
    trees.materialize_tree(store, record.tree, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == MODEL
    assert list(Path(store.location, "tmp").iterdir()) == []


def test_https_uri_is_looked_at_once_until_refresh_changes(server: Server, store: Store) -> None:
    uri = server.uri("/mutable/m")
    first = pin(store, uri)
    server.content = b"second"
    assert pin(store, uri) == first
    assert server.seen == ["/mutable/m"]
    assert pin(store, uri, refresh="again").tree.digest == "sha256:" + hashlib.sha256(b"second").hexdigest()


def test_https_record_whose_blob_is_gone_is_fetched_again(server: Server, store: Store) -> None:
    first = pin(store, server.uri("/mutable/m"))
    Path(store.location, "blobs/sha256", first.tree.digest.removeprefix("sha256:")).unlink()
    server.content = b"second"
    second = pin(store, server.uri("/mutable/m"))
    assert second.tree.digest == "sha256:" + hashlib.sha256(b"second").hexdigest()
    assert pin(store, server.uri("/mutable/m")) == second
    assert len(server.seen) == 2


def test_query_is_sent_but_never_stored_or_told(server: Server, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    record = pin(store, server.uri("/ok/m.onnx?X-Signature=hunter2"))
    assert server.seen == ["/ok/m.onnx?X-Signature=hunter2"]
    assert record.uri == server.uri("/ok/m.onnx?...")
    assert "hunter2" not in capsys.readouterr().err
    assert not any(b"hunter2" in p.read_bytes() for p in Path(store.location).rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/404", Reason.SourceNotFound),
        ("/410", Reason.SourceNotFound),
        ("/401", Reason.SourceForbidden),
        ("/403", Reason.SourceForbidden),
        ("/500", Reason.SourceUnavailable),
        ("/503", Reason.SourceUnavailable),
        ("/429", Reason.SourceUnavailable),
        ("/not_http", Reason.SourceUnavailable),
        ("/cut", Reason.SourceIncomplete),
        ("/cut_without_length", Reason.SourceIncomplete),
        ("/chunked_cut", Reason.SourceIncomplete),
        ("/reset", Reason.SourceIncomplete),
        ("/sends_more", Reason.SourceTooLarge),
        ("/announces_too_much", Reason.SourceTooLarge),
        ("/endless", Reason.SourceTooLarge),
        ("/to_http", Reason.UnsafeSource),
        ("/to_file", Reason.UnsafeSource),
        ("/loop", Reason.SourceUnavailable),
    ],
)
def test_https_fault_has_its_reason_and_leaves_nothing(server: Server, store: Store, path: str, reason: Reason) -> None:
    assert refused(store, server.uri(path + "?sig=hunter2")).reason is reason


def test_https_stops_after_five_redirects(server: Server, store: Store) -> None:
    refused(store, server.uri("/loop"))
    assert len(server.seen) == https.MAX_REDIRECTS + 1


@pytest.mark.parametrize("path", ["/drip", "/drip_headers"])
def test_https_total_time_ends_a_server_that_drips(server: Server, store: Store, path: str) -> None:
    limits = fetch.FetchLimits(max_bytes=1_000_000, total_seconds=1.0, idle_seconds=20.0)
    assert refused(store, server.uri(path), limits=limits).reason is Reason.SourceTimeout


def test_https_idle_time_ends_a_silent_server(server: Server, store: Store) -> None:
    limits = fetch.FetchLimits(max_bytes=1_000_000, total_seconds=60.0, idle_seconds=0.5)
    assert refused(store, server.uri("/silent"), limits=limits).reason is Reason.SourceTimeout


def test_https_wrong_digest_shows_both(server: Server, store: Store) -> None:
    error = refused(store, server.uri("/ok"), digest=WRONG)
    assert error.reason is Reason.DigestMismatch
    assert DIGEST in error.message
    assert WRONG in error.message


def test_https_untrusted_certificate_names_the_cure(server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    error = refused(store, server.uri("/ok"))
    assert error.reason is Reason.SourceUnavailable
    assert "SSL_CERT_FILE" in error.message and "ca.crt" in error.message
    assert server.seen == []


def test_https_authority_of_the_secret_is_trusted_beside_the_others(
    server: Server, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = trustme.CA()
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    both = {"credentials": Credentials(authority=str(tmp_path / "other.pem")), "has_private_addresses": True}
    assert _on_cluster(server.uri("/ok/first.onnx"), store, **both).tree.digest == DIGEST  # SSL_CERT_FILE's
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(BurnishError, match="not trusted"):
        _on_cluster(server.uri("/ok/second.onnx"), store, **both)
    both["credentials"] = Credentials(authority=str(tmp_path / "ca.pem"))
    assert _on_cluster(server.uri("/ok/second.onnx"), store, **both).tree.digest == DIGEST


def test_https_certificate_has_to_name_the_host(server: Server, store: Store) -> None:
    assert refused(store, server.uri("/ok").replace("localhost", "127.0.0.1")).reason is Reason.SourceUnavailable


@pytest.mark.parametrize("uri", ["https://localhost:1/x", "https://no-such-host.invalid/x"])
def test_https_unreachable_host_is_unavailable(store: Store, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert refused(store, uri).reason is Reason.SourceUnavailable


def test_interrupted_download_leaves_no_file(server: Server, tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from burnish.pipeline import fetch, progress
        from burnish.store.store import open_store
        fetch.fetch(sys.argv[1], Path("/"), open_store(sys.argv[2]), digest=None, refresh=None, limits=fetch.FetchLimits(), field="f",
                    progress=lambda text, done=None: print(text, flush=True) if done else None)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), server.uri("/drip"), str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("fetching")
        child.send_signal(signal.SIGINT)
        assert child.wait(30) != 0
    left = {p.name for p in Path(open_store(tmp_path / "store").location).rglob("*") if p.is_file()}
    assert left == {"oci-layout", "index.json"}


# --- file ----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "manifests"
    (base / "model").mkdir(parents=True)
    (base / "model" / "m.onnx").write_bytes(MODEL)
    (base / "model" / "m.data").write_bytes(b"weights")
    (base / "a b.onnx").write_bytes(MODEL)
    (base / "link.onnx").symlink_to("model/m.onnx")
    (tmp_path / "above.onnx").write_bytes(MODEL)
    return base


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("file:model/m.onnx", "m.onnx"),
        ("file:./model/m.onnx", "m.onnx"),
        ("FILE:a%20b.onnx", "a b.onnx"),
        ("file:../above.onnx", "above.onnx"),
        ("file:link.onnx", "link.onnx"),
        ("file://{base}/link.onnx", "link.onnx"),
        ("file://localhost{base}/model/m.onnx", "m.onnx"),
        ("file:{base}/model/m.onnx", "m.onnx"),
    ],
)
def test_file_uri_forms(store: Store, base: Path, tmp_path: Path, uri: str, name: str) -> None:
    record = pin(store, uri.format(base=base), base, digest=DIGEST)
    assert (record.tree.digest, record.tree.files[0].path) == (DIGEST, name)
    trees.materialize_tree(store, record.tree, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == MODEL


def test_file_directory_is_a_tree(store: Store, base: Path) -> None:
    record = pin(store, "file:model", base)
    assert record.tree.is_directory
    assert [f.path for f in record.tree.files] == ["m.data", "m.onnx"]
    assert pin(store, "file:model/", base, digest=record.tree.digest).tree == record.tree


def test_edited_file_is_noticed_in_the_next_run(store: Store, base: Path) -> None:
    before = pin(store, "file:model/m.onnx", base)
    (base / "model" / "m.onnx").write_bytes(b"edited")
    assert pin(store, "file:model/m.onnx", base).tree.digest != before.tree.digest


def link_inside(base: Path) -> str:
    (base / "model" / "x").symlink_to("/etc/hostname")
    return "file:model"


def pipe(base: Path) -> str:
    os.mkfifo(base / "pipe")
    return "file:pipe"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: "file:missing.onnx", Reason.SourceNotFound),
        (lambda _: "file:link.onnx/below", Reason.SourceNotFound),
        (link_inside, Reason.UnsafeSource),
        (pipe, Reason.UnsafeSource),
        (lambda _: "file:/dev/zero", Reason.UnsafeSource),
        (lambda b: (b / "loop").symlink_to("loop") or "file:loop", Reason.UnsafeSource),
        (lambda b: (b / "gone").symlink_to("nowhere") or "file:gone", Reason.SourceNotFound),
        (lambda _: "file:", Reason.InvalidManifest),
        (lambda _: "file:a?b", Reason.InvalidManifest),
        (lambda _: "file:a%00b", Reason.InvalidManifest),
        (lambda _: "file://host/model.onnx", Reason.InvalidManifest),
    ],
)
def test_file_fault_has_its_reason(store: Store, base: Path, make: Callable[[Path], str], reason: Reason) -> None:
    assert refused(store, make(base), base).reason is reason


def test_file_over_the_limit_and_with_wrong_digest(store: Store, base: Path) -> None:
    limits = fetch.FetchLimits(max_bytes=1000)
    assert refused(store, "file:a%20b.onnx", base, limits=limits).reason is Reason.SourceTooLarge
    error = refused(store, "file:a%20b.onnx", base, digest=WRONG)
    assert error.reason is Reason.DigestMismatch
    assert DIGEST in error.message
    assert WRONG in error.message


def test_store_error_does_not_blame_the_source(base: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no directory")
    with pytest.raises(BurnishError) as raised:
        pin(open_store(tmp_path / "store"), "file:model/m.onnx", base)
    assert raised.value.field is None


# --- on a cluster --------------------------------------------------------------------------------------------------------------------------


def test_download_that_is_cut_off_goes_on_where_it_was(server: Server, store: Store) -> None:
    record = pin(store, server.uri("/resumable/model.onnx"), digest=DIGEST)
    assert record.tree.size_bytes == len(MODEL)
    assert len(server.seen) == 3  # 100,000 bytes each


def test_file_that_changes_meanwhile_is_not_put_together_of_two(server: Server, store: Store) -> None:
    error = refused(store, server.uri("/resumable/changed.onnx"))
    assert (error.reason, len(server.seen)) == (Reason.SourceUnavailable, 2)


def test_download_that_never_gets_further_is_given_up(server: Server, store: Store) -> None:
    server.piece = 0
    assert refused(store, server.uri("/resumable/model.onnx")).reason is Reason.SourceIncomplete


def _on_cluster(uri: str, store: Store, **access: object) -> SourceRecord:
    facts = {"claims": {}, "has_private_addresses": False} | access
    return fetch.fetch(
        uri, Path("/"), store, digest=None, refresh=None, limits=LIMITS, field="spec.source.uri", progress=emit, access=fetch.Access(**facts)  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("path", ["/ok/model.onnx", "/to_ok/model.onnx"])
def test_private_address_is_refused_unless_allowed(server: Server, store: Store, path: str) -> None:
    with pytest.raises(BurnishError, match=r"private address 127\.0\.0\.1") as raised:
        _on_cluster(server.uri(path), store)
    assert raised.value.reason is Reason.UnsafeSource
    assert server.seen == []  # nothing was sent
    assert _on_cluster(server.uri(path), store, has_private_addresses=True).tree.digest == DIGEST


def test_token_goes_to_its_own_host_and_no_other(server: Server, store: Store) -> None:
    server.piece = len(MODEL)
    keys = Credentials(token="hunter2", uri_prefix=server.uri(""))  # noqa: S106
    _on_cluster(server.uri("/resumable/model.onnx"), store, has_private_addresses=True, credentials=keys)
    assert server.auth.pop() == "Bearer hunter2"
    _on_cluster(server.uri("/elsewhere/model.onnx"), store, has_private_addresses=True, credentials=keys)
    assert server.auth == ["Bearer hunter2", None]
    other = Credentials(token="hunter2", uri_prefix="https://example.org/models")  # noqa: S106
    _on_cluster(server.uri("/resumable/other.onnx"), store, has_private_addresses=True, credentials=other)
    assert server.auth[2:] == [None]


def test_volume_is_read_and_links_stay_within(store: Store, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "models").mkdir(parents=True)
    (volume / "models" / "m.onnx").write_bytes(MODEL)
    (volume / "link").symlink_to("models/m.onnx")
    (volume / "out").symlink_to("/etc/hostname")
    claims = {"shared": volume}
    assert _on_cluster("pvc://shared/models/m.onnx", store, claims=claims).tree.digest == DIGEST
    assert _on_cluster("pvc://shared/link", store, claims=claims).tree.digest == DIGEST
    for uri, reason in (
        ("pvc://shared/out", Reason.UnsafeSource),
        ("pvc://shared/../../etc/hostname", Reason.UnsafeSource),
        ("pvc://shared/none", Reason.SourceNotFound),
        ("pvc://other/m.onnx", Reason.InvalidManifest),
        ("pvc://shared", Reason.InvalidManifest),
        ("file:models/m.onnx", Reason.InvalidManifest),
    ):
        with pytest.raises(BurnishError) as raised:
            _on_cluster(uri, store, claims=claims)
        assert (uri, raised.value.reason) == (uri, reason)


# --- URIs ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "cure"),
    [
        ("http://host/m.onnx?sig=hunter2", "use https:"),
        ("s3://bucket", "s3://bucket/path"),
        ("s3://key:hunter2@bucket/m.onnx", "spec.source.secretRef"),
        ("pvc://claim/m.onnx", "on this machine use file:"),
        ("ftp://bucket/m.onnx", "use s3:"),
        ("model.onnx", "write file:model.onnx"),
        ("https:///m.onnx", "https://host/path"),
        ("https://", "https://host/path"),
        ("https://host:port/m", "https://host/path"),
        ("https://host/a b", "percent-encode"),
        ("https://host/a\nb", "percent-encode"),
        ("https://[::1/m", "https://host/path"),
        ("https://user:hunter2@host/m", "remove the part before @"),
        ("https://user:hun/hunter2@host/m", "https://host/path"),
        ("https:user:hunter2@host/m", "https://host/path"),
        ("ftp://user:hunter2@host/m", "file: (on this machine)"),
    ],
)
def test_wrong_uri_names_the_cure_and_no_secret(store: Store, uri: str, cure: str) -> None:
    error = refused(store, uri)
    assert error.reason is Reason.InvalidManifest
    assert cure in error.message


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:hunter2@host/a/b?sig=hunter2#hunter2", "https://host/a/b?..."),
        ("https://host/a/b#hunter2", "https://host/a/b"),
        ("https://host/a/b", "https://host/a/b"),
        ("file:a@b.onnx", "file:a@b.onnx"),
        ("model.onnx", "model.onnx"),
    ],
)
def test_scrub_keeps_what_is_no_secret(uri: str, shown: str) -> None:
    assert fetch.scrub(uri) == shown
