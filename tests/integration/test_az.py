"""`az:` sources against a server that speaks Azure's REST interface for blobs: keys, signatures, folders, what changes or breaks off on the way."""

from __future__ import annotations

import base64
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.integration.fetching import fetched

from burnish.errors import BurnishError, Reason
from burnish.pipeline import az, fetch
from burnish.pipeline.processes import child_environment
from burnish.store import trees
from burnish.store.credentials import Credentials
from burnish.store.store import Store, open_store

sys.path.insert(0, str(Path(__file__).parent))
import az_server
from az_server import ACCOUNT, CONTENT, KEY, SAS, Blobs


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Blobs]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    with az_server.running(context) as made:
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
