"""`hf:` sources against a server that speaks the Hub's own HTTPS interface: revisions, large files on another host, tokens, what is left out."""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from burnish.api.job_contract import SourceRecord
from burnish.errors import BurnishError, Reason
from burnish.pipeline import fetch
from burnish.pipeline.hub import parse
from burnish.store.credentials import Credentials
from burnish.store.store import Store, open_store

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_hunter2"  # noqa: S105  # made up
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"w" * 300_000,
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "onnx/model.onnx": b"onnx" * 10,
    "README.md": b"# read me",
}


class Hub(http.server.ThreadingHTTPServer):
    """One repository, org/model, of which large files are served by `cdn`; org/gated asks for the token."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://{name}:{self.server_address[1]}"
        self.cdn: Hub | None = None
        self.seen: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = dict(FILES)
        self.listed: dict[str, int] = {}

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is none of ours."""


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "")
        self.server.seen.append((self.path, token))
        path = self.path.partition("?")[0]
        if "/org/gated" in path and token != f"Bearer {TOKEN}":
            self.send_error(401)
        elif path.startswith(("/api/models/org/", "/api/datasets/org/")):
            self.listing(path.rpartition("/")[2])
        elif self.server.cdn is None:
            self.send(self.server.files.get(path.removeprefix("/cdn/")))
        else:
            name = path.partition(f"/resolve/{COMMIT}/")[2]
            self.file(name)

    def listing(self, revision: str) -> None:
        if revision not in ("main", "v2"):
            self.send_error(404)
            return
        entries: list[dict[str, Any]] = []
        for name, content in self.server.files.items():
            size = self.server.listed.get(name, len(content))
            large = {"lfs": {"size": size, "sha256": hashlib.sha256(content).hexdigest()}} if size > 100_000 else {"size": size}
            entries.append({"rfilename": name, **large})
        self.send(json.dumps({"sha": COMMIT, "siblings": entries}).encode())

    def file(self, name: str) -> None:
        if name in self.server.files and len(self.server.files[name]) > 100_000:
            assert self.server.cdn is not None
            self.send_response(302)
            self.send_header("Location", f"{self.server.cdn.url}/cdn/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.send(self.server.files.get(name))

    def send(self, content: bytes | None) -> None:
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Nothing: pytest's output is for the tests."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    with Hub(context, "localhost") as made, Hub(context, "127.0.0.1") as cdn:
        made.cdn = cdn
        for server in (made, cdn):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield made
        made.shutdown()
        cdn.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def fetched(uri: str, store: Store, *, said: list[str] | None = None, max_bytes: int = 2**30, **more: Any) -> SourceRecord:
    def tell(line: str, done: float | None = None) -> None:
        if said is not None:
            said.append(line)

    options = {"digest": None, "refresh": None, "field": "spec.source.uri", **more}
    return fetch.fetch(uri, Path("/"), store, limits=fetch.FetchLimits(max_bytes=max_bytes, idle_seconds=5), progress=tell, **options)


def refused(uri: str, store: Store, **more: Any) -> BurnishError:
    with pytest.raises(BurnishError) as caught:
        fetched(uri, store, **more)
    assert TOKEN not in str(caught.value)
    return caught.value


def test_a_repository_is_its_safetensors_and_what_describes_them_at_one_commit(hub: Hub, store: Store) -> None:
    said: list[str] = []
    record = fetched("hf://org/model", store, said=said)
    assert [f.path for f in record.tree.files] == ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"]
    assert any(COMMIT[:12] in line for line in said)
    assert all(f"/resolve/{COMMIT}/" in path for path, _ in hub.seen[1:])
    for file in record.tree.files:
        with store.open_blob(file.digest) as stream:
            assert stream.read() == FILES[file.path]


def test_what_was_found_is_kept_until_refresh_changes(hub: Hub, store: Store) -> None:
    first = fetched("hf://org/model@v2", store)
    asked = len(hub.seen)
    hub.files["config.json"] = b"{}"
    assert fetched("hf://org/model@v2", store).tree == first.tree and len(hub.seen) == asked
    assert fetched("hf://org/model@v2", store, refresh="again").tree != first.tree


def test_a_file_and_a_folder_of_a_repository(hub: Hub, store: Store) -> None:
    file = fetched("hf://org/model/onnx/model.onnx", store)
    assert not file.tree.is_directory and file.tree.files[0].path == "model.onnx"
    folder = fetched("hf://org/model@main/1_Pooling", store)
    assert folder.tree.is_directory and [f.path for f in folder.tree.files] == ["config.json"]
    data = fetched("hf://datasets/org/data/tokenizer.json", store)
    assert data.tree.files[0].path == "tokenizer.json"


def test_a_token_goes_to_the_hub_and_not_to_the_host_of_large_files(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "give a token" in refused("hf://org/gated", store).message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetched("hf://org/gated", store)
    assert {token for _, token in hub.seen[1:]} == {f"Bearer {TOKEN}"}
    assert hub.cdn is not None and hub.cdn.seen and {token for _, token in hub.cdn.seen} == {""}


def test_a_secret_for_other_uris_is_not_sent(hub: Hub, store: Store) -> None:
    access = fetch.Access(credentials=Credentials(token=TOKEN, hub=hub.url, uri_prefix="hf://mine"))
    assert refused("hf://org/model", store, access=access).reason is Reason.SourceForbidden
    assert hub.seen == []
    access = fetch.Access(credentials=Credentials(token=TOKEN, hub=hub.url, uri_prefix="hf://org"))
    fetched("hf://org/gated", store, access=access)


@pytest.mark.parametrize(
    ("uri", "reason", "words"),
    [
        ("hf://org/model@none", Reason.SourceNotFound, "the revision"),
        ("hf://org/model/none.json", Reason.SourceNotFound, "no such file"),
        ("hf://org/gated", Reason.SourceForbidden, "HF_TOKEN"),
        ("hf://model", Reason.InvalidManifest, "hf://org/name"),
        ("hf://org/model/../other", Reason.InvalidManifest, "names no repository"),
        ("hf://datasets/org/data", Reason.InvalidManifest, "for data"),
    ],
)
def test_what_can_not_be_fetched_is_told(hub: Hub, store: Store, uri: str, reason: Reason, words: str) -> None:
    found = refused(uri, store)
    assert (found.reason, found.field) == (reason, "spec.source.uri") and words in found.message


def test_sizes_are_checked_before_and_after(hub: Hub, store: Store) -> None:
    assert refused("hf://org/model", store, max_bytes=1000).reason is Reason.SourceTooLarge
    assert not any("/resolve/" in path for path, _ in hub.seen)
    hub.listed["tokenizer.json"] = 7
    assert refused("hf://org/model", store).reason is Reason.SourceIncomplete


def test_a_name_that_leads_out_and_an_answer_that_is_none(hub: Hub, store: Store) -> None:
    hub.files["../evil.json"] = b"{}"
    assert refused("hf://org/model", store).reason is Reason.UnsafeSource
    hub.files = {"pytorch_model.bin": b"a pickle"}
    assert "name a file" in refused("hf://org/model", store).message


def test_credentials_in_a_uri_are_not_shown() -> None:
    with pytest.raises(BurnishError) as caught:
        parse("hf://user:hunter2@org/name")
    assert "hunter2" not in caught.value.message
