"""`az:` sources against a server that speaks Azure's REST interface for blobs: keys, signatures, folders, what changes or breaks off on the way.

A fake of the wire, because Azure's own emulator (Azurite) needs Node. The same requests were made of Azurite 3.35 by hand.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
import trustme
from tests.integration.fetching import fetched

from burnish.errors import BurnishError, Reason
from burnish.pipeline import az, fetch
from burnish.pipeline.processes import child_environment
from burnish.store import trees
from burnish.store.credentials import Credentials
from burnish.store.store import Store, open_store

ACCOUNT = "reader"
KEY = base64.b64encode(b"hunter2 hunter2").decode()
SAS = "sv=2021-12-02&sr=c&sp=rl&sig=hunter2%2Bsignature%3D"
CONTENT = os.urandom(3 * 2**20)
BLOBS = {
    "digits/model.onnx": CONTENT,
    "bert/config.json": b"{}",
    "bert/1_Pooling/config.json": b"[]",
    "bert/model.safetensors": CONTENT[:100_000],
    "bert-large/model.onnx": b"no part of bert",
    "with space/ä+b%41.onnx": b"named oddly",
}


class Blobs(http.server.ThreadingHTTPServer):
    """The container `models` of an account whose name stands in the path, as with Azurite; `public` is open to all."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_address[1]}/{ACCOUNT}"
        self.blobs = dict(BLOBS)
        self.folders: set[str] = set()
        self.page = 5000
        self.listing: bytes | None = None
        self.cut_after: int | None = None
        self.when_cut: Callable[[], None] = lambda: None
        self.seen: list[tuple[str, str, str]] = []
        """Verb, path and Range of what was asked."""

    def etag(self, name: str) -> str:
        return '"0x' + hashlib.sha256(self.blobs[name]).hexdigest()[:15].upper() + '"'

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is none of ours."""


class Answer(http.server.BaseHTTPRequestHandler):
    server: Blobs

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, self.headers.get("Range", "")))
        parts = urlsplit(self.path)
        _, account, container, *rest = unquote(parts.path).split("/", 3)
        assert account == ACCOUNT
        if container != "public" and not self.may_read():
            self.send_error(409 if "Authorization" not in self.headers and "sig=" not in parts.query else 403)
        elif container not in ("models", "public"):
            self.send_error(404)
        elif not rest:
            self.list({name: values[0] for name, values in parse_qs(parts.query).items()})
        elif rest[0] in self.server.folders:
            self.answer(b"", {"x-ms-meta-hdi_isfolder": "true", "ETag": '"0x1"'})
        elif rest[0] in self.server.blobs:
            self.blob(rest[0])
        else:
            self.send_error(404)

    def may_read(self) -> bool:
        """Shared Key as Microsoft's page tells it, from what came over the wire; or the one signature that was given out."""
        parts, given = urlsplit(self.path), self.headers.get("Authorization", "")
        if not given:
            return parts.query.endswith(SAS)
        length = self.headers.get("Content-Length", "")
        lines = [self.command, "", "", "" if length == "0" else length, "", self.headers.get("Content-Type", ""), self.headers.get("Date", "")]
        lines += [self.headers.get(name, "") for name in ("If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range")]
        lines += sorted(f"{name.lower()}:{value.strip()}" for name, value in self.headers.items() if name.lower().startswith("x-ms-"))
        lines += [f"/{ACCOUNT}{parts.path}", *sorted(f"{name}:{','.join(sorted(values))}" for name, values in parse_qs(parts.query).items())]
        signature = hmac.digest(base64.b64decode(KEY), "\n".join(lines).encode(), "sha256")
        return given == f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"

    def list(self, query: dict[str, str]) -> None:
        assert (query["restype"], query["comp"]) == ("container", "list")
        names = sorted(name for name in {*self.server.blobs, *self.server.folders} if name.startswith(query.get("prefix", "")))
        first = int(query.get("marker", "0"))
        more = first + self.server.page if len(names) > first + self.server.page else ""
        blobs = "".join(self.entry(name) for name in names[first : first + self.server.page])
        text = f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{more}</NextMarker></EnumerationResults>'
        self.answer(self.server.listing or ("\ufeff" + text).encode(), {})

    def entry(self, name: str) -> str:
        if name in self.server.folders:
            facts = "<Content-Length>0</Content-Length><Etag>0x1</Etag><ResourceType>directory</ResourceType>"
        else:
            facts = f"<Content-Length>{len(self.server.blobs[name])}</Content-Length><Etag>{self.server.etag(name).strip(chr(34))}</Etag>"
        shown = '<Name Encoded="true">bert%2Fbell%07</Name>' if name == "bert/bell\a" else f"<Name>{escape(name)}</Name>"
        return f"<Blob>{shown}<Properties>{facts}</Properties></Blob>"

    def blob(self, name: str) -> None:
        content, etag = self.server.blobs[name], self.server.etag(name)
        assert "If-Range" not in self.headers, "Azure's page on Get Blob knows none"
        if self.headers.get("If-Match", etag) != etag:
            self.send_error(412)
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if "Range" in self.headers else {}
        self.answer(content[start:], {"ETag": etag, "Accept-Ranges": "bytes", **ranged}, status=206 if ranged else 200, may_break=True)

    def answer(self, body: bytes, headers: dict[str, str], *, status: int = 200, may_break: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut, self.server.cut_after = (self.server.cut_after, None) if may_break else (None, self.server.cut_after)
        self.wfile.write(body[:cut])
        if cut is not None:
            self.server.when_cut()

    def log_message(self, *arguments: object) -> None:
        """Nothing: pytest's output is for the tests."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Blobs]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    with Blobs(context) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        for name, value in (
            ("SSL_CERT_FILE", str(tmp_path / "authority.pem")),
            ("NO_PROXY", "localhost"),
            ("AZURE_STORAGE_ACCOUNT", ACCOUNT),
            ("AZURE_STORAGE_KEY", KEY),
            ("AZURE_STORAGE_SERVICE_ENDPOINT", made.url),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AZURE_STORAGE_SAS_TOKEN", raising=False)
        yield made
        made.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def refused(uri: str, store: Store, **more: Any) -> BurnishError:
    with pytest.raises(BurnishError) as caught:
        fetched(uri, store, **more)
    assert "hunter2" not in str(caught.value) and KEY not in str(caught.value)
    assert caught.value.field == "spec.source.uri"
    return caught.value


def access(server: Blobs, **changes: str) -> fetch.Access:
    """What a cluster's Secret gives."""
    keys = {"azure_account": ACCOUNT, "azure_key": KEY, "azure_endpoint": server.url, **changes}
    return fetch.Access(credentials=Credentials(**keys), claims={})


@pytest.mark.parametrize(
    ("verb", "path", "query", "signature"),
    [
        ("GET", "models", {"restype": "container", "comp": "list", "prefix": "bert/"}, "58rWsVHawelYcKpNzEbIiAkL9TR7DbXydUjzjTdXeyI="),
        ("HEAD", "models/with space/ä+b%41.onnx", {}, "QXb/h7oa4jgYhZBP5epkcgHsYimytPwI/36qIVBMLoQ="),
    ],
)
def test_requests_are_signed_as_azures_own_library_signs_them(
    monkeypatch: pytest.MonkeyPatch, verb: str, path: str, query: dict[str, str], signature: str
) -> None:
    """The signatures are those of azure-storage-blob 12.31.1."""
    monkeypatch.setattr(az, "formatdate", lambda usegmt: "Fri, 27 Nov 2026 22:00:00 GMT")
    account = az.Account("reader", "aHVudGVyMg==")
    assert account.headers(verb, account.place(path, query), "", 0)["Authorization"] == f"SharedKey reader:{signature}"


def test_a_blob_is_pinned_and_looked_at_once(server: Blobs, store: Store) -> None:
    first = fetched("az://models/digits/model.onnx", store)
    assert (first.uri, [f.path for f in first.tree.files], first.tree.is_directory) == ("az://models/digits/model.onnx", ["model.onnx"], False)
    assert store.read_blob(first.tree.digest) == CONTENT
    asked = len(server.seen)
    server.blobs["digits/model.onnx"] = b"second"
    assert fetched("az://models/digits/model.onnx", store) == first and len(server.seen) == asked
    changed = fetched("az://models/digits/model.onnx", store, refresh="2")
    assert store.read_blob(changed.tree.digest) == b"second"
    assert refused("az://models/digits/model.onnx", store, refresh="3", digest=first.tree.digest).reason is Reason.DigestMismatch


def test_a_container_of_the_same_name_in_another_account_is_another_source(server: Blobs, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched("az://public/digits/model.onnx", store)
    look = {"digest": None, "refresh": None, "limits": fetch.FetchLimits(), "field": "spec.source.uri"}
    assert fetch.look_up("az://public/digits/model.onnx", Path("/"), store, **look).is_stored
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "other")
    assert not fetch.look_up("az://public/digits/model.onnx", Path("/"), store, **look).is_stored


def test_a_path_is_the_folder_below_it_and_no_other(server: Blobs, store: Store, tmp_path: Path) -> None:
    server.folders = {"bert", "bert/1_Pooling"}  # as an account with a hierarchical namespace shows them
    record = fetched("az://models/bert", store)
    assert record.tree.is_directory
    assert [f.path for f in record.tree.files] == ["1_Pooling/config.json", "config.json", "model.safetensors"]
    trees.materialize_tree(store, record.tree, tmp_path / "copy")
    assert (tmp_path / "copy/model.safetensors").read_bytes() == CONTENT[:100_000]
    server.folders = set()
    assert fetched("az://models/bert/", store, refresh="2").tree == record.tree


def test_a_long_listing_comes_in_pages_and_odd_names_as_they_are(server: Blobs, store: Store) -> None:
    server.page, server.blobs["bert/bell\a"] = 2, b"ding"
    assert [f.path for f in fetched("az://models/bert", store).tree.files] == ["1_Pooling/config.json", "bell\a", "config.json", "model.safetensors"]
    assert len([path for _, path, _ in server.seen if "comp=list" in path]) == 2
    assert store.read_blob(fetched("az://models/with space/ä+b%41.onnx", store).tree.digest) == b"named oddly"


@pytest.mark.parametrize("known_by", ["key", "sas"])
def test_what_is_cut_off_is_resumed_at_the_same_etag(server: Blobs, store: Store, known_by: str) -> None:
    server.cut_after = 1_000_000
    keys = access(server) if known_by == "key" else access(server, azure_key="", azure_sas="?" + SAS)
    assert store.read_blob(fetched("az://models/digits/model.onnx", store, access=keys).tree.digest) == CONTENT
    assert [of for verb, _, of in server.seen if verb == "GET"] == ["", "bytes=1000000-"]


def test_a_blob_that_changes_while_it_is_read_is_no_mixture(server: Blobs, store: Store) -> None:
    server.cut_after, server.when_cut = 1_000_000, lambda: server.blobs.update({"digits/model.onnx": CONTENT[::-1]})
    assert refused("az://models/digits/model.onnx", store).reason is Reason.SourceIncomplete


def test_a_signature_reads_what_it_is_for_and_stands_in_no_message(server: Blobs, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched("az://models/bert", store, access=access(server, azure_key="", azure_sas=SAS))
    assert refused("az://models/none", store, access=access(server, azure_key="", azure_sas=SAS)).reason is Reason.SourceNotFound
    assert refused("az://models/x", store, access=access(server, azure_key="", azure_sas=SAS + "2")).reason is Reason.SourceForbidden
    server.listing = b"<EnumerationResults>"
    assert refused("az://models/y", store, access=access(server, azure_key="", azure_sas=SAS)).reason is Reason.SourceUnavailable
    assert "hunter2" not in repr(access(server, azure_key="", azure_sas=SAS)) + repr(az.Account(ACCOUNT, KEY, SAS)) and KEY not in repr(
        access(server)
    )
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", SAS)
    assert SAS in child_environment(downloads=True).values() and SAS not in child_environment(uses_store=True).values()


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"azure_key": base64.b64encode(b"another").decode()}, Reason.SourceForbidden, "correct AZURE_STORAGE_KEY"),
        ({"azure_key": "hunter2!"}, Reason.SourceForbidden, "is base64"),
        ({"azure_key": "", "azure_sas": "sv=1 hunter2"}, Reason.SourceForbidden, "no signature"),
        ({"azure_key": ""}, Reason.SourceForbidden, "give AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN"),
        ({"azure_account": ""}, Reason.SecretNotFound, "AZURE_STORAGE_ACCOUNT"),
        ({"azure_account": "evil.example/"}, Reason.SecretNotFound, "AZURE_STORAGE_ACCOUNT"),
        ({"azure_endpoint": "http://localhost:9"}, Reason.SourceUnavailable, "no https: address"),
        ({"azure_endpoint": "https://localhost:9"}, Reason.SourceUnavailable, "can't reach"),
        ({"uri_prefix": "az://mine"}, Reason.SourceForbidden, "az://mine only"),
    ],
)
def test_credentials_that_are_none_are_told(server: Blobs, store: Store, changes: dict[str, str], reason: Reason, words: str) -> None:
    found = refused("az://models/bert", store, access=access(server, **changes))
    assert found.reason is reason and words in found.message


def test_a_private_address_is_refused_on_a_cluster(server: Blobs, store: Store) -> None:
    keys = fetch.Access(credentials=access(server).credentials, claims={}, has_private_addresses=False)
    assert refused("az://models/bert", store, access=keys).reason is Reason.UnsafeSource
    assert server.seen == []


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("az://models/none.onnx", Reason.SourceNotFound),
        ("az://nocontainer/model.onnx", Reason.SourceNotFound),
        ("az://models", Reason.InvalidManifest),
        ("az://models/bert/../other", Reason.InvalidManifest),
        ("az://user:hunter2@models/model.onnx", Reason.InvalidManifest),
        ("az://models/model.onnx?sig=hunter2", Reason.InvalidManifest),
    ],
)
def test_what_can_not_be_fetched_is_told(server: Blobs, store: Store, uri: str, reason: Reason) -> None:
    assert refused(uri, store).reason is reason


def test_limits_are_held_before_anything_is_read(server: Blobs, store: Store) -> None:
    assert refused("az://models/digits/model.onnx", store, max_bytes=1000).reason is Reason.SourceTooLarge
    assert refused("az://models/bert", store, max_files=2).reason is Reason.SourceTooLarge
    assert not any(verb == "GET" and "comp=list" not in path for verb, path, _ in server.seen)


def test_a_listing_that_leads_out_or_declares_entities_is_refused(server: Blobs, store: Store) -> None:
    server.blobs["evil/../../model.onnx"] = b"out"
    assert refused("az://models/evil", store).reason is Reason.UnsafeSource
    server.listing = b'<!DOCTYPE a [<!ENTITY b "bbbb">]><EnumerationResults><Blobs/></EnumerationResults>'
    assert refused("az://models/bomb", store).reason is Reason.SourceUnavailable
