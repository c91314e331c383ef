"""`gs:` sources on a real server of Google's interface: objects and folders, who may read, what changes or breaks off on the way."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.integration.fetching import fetched

from burnish.errors import BurnishError, Reason
from burnish.pipeline import fetch
from burnish.pipeline.processes import child_environment
from burnish.store import trees
from burnish.store.credentials import Credentials
from burnish.store.store import Store, open_store

sys.path.insert(0, str(Path(__file__).parent))
import gcs_server
from gcs_server import TOKEN, Front

CONTENT = os.urandom(3 * 2**20)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with gcs_server.running(tmp_path_factory.mktemp("gcs"), context) as front:
        front.make_bucket("models")
        front.upload("models", "digits/model.onnx", CONTENT)
        for name, content in (("config.json", b"{}"), ("1_Pooling/config.json", b"[]"), ("model.safetensors", CONTENT[:100_000]), ("", b"")):
            front.upload("models", f"bert/{name}", content)
        front.upload("models", "bert-large/model.onnx", b"no part of bert")
        front.upload("models", "with space/ä+b%41.onnx", b"named oddly")
        yield front


@pytest.fixture
def bucket(server: Front, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Front:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    for name, value in (("SSL_CERT_FILE", str(tmp_path / "authority.pem")), ("NO_PROXY", "localhost"), ("STORAGE_EMULATOR_HOST", server.url)):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    server.is_closed, server.cut_after, server.seen = False, None, []
    server.when_cut = lambda: None
    return server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def refused(uri: str, store: Store, **more: Any) -> BurnishError:
    with pytest.raises(BurnishError) as caught:
        fetched(uri, store, **more)
    assert TOKEN not in str(caught.value) and "PRIVATE KEY" not in str(caught.value)
    assert caught.value.field == "spec.source.uri"
    return caught.value


def access(front: Front, **changes: str) -> fetch.Access:
    """What a cluster's Secret gives."""
    return fetch.Access(credentials=Credentials(google_key=front.key_file(**changes), google_endpoint=front.url), claims={})


def test_an_object_is_pinned_and_looked_at_once(bucket: Front, store: Store) -> None:
    bucket.upload("models", "moving/model.onnx", b"first")
    first = fetched("gs://models/moving/model.onnx", store)
    assert (first.uri, [f.path for f in first.tree.files], first.tree.is_directory) == ("gs://models/moving/model.onnx", ["model.onnx"], False)
    asked = len(bucket.seen)
    bucket.upload("models", "moving/model.onnx", b"second")
    assert fetched("gs://models/moving/model.onnx", store) == first and len(bucket.seen) == asked
    changed = fetched("gs://models/moving/model.onnx", store, refresh="2")
    assert store.read_blob(changed.tree.digest) == b"second"
    assert refused("gs://models/moving/model.onnx", store, refresh="3", digest=first.tree.digest).reason is Reason.DigestMismatch


def test_a_path_is_the_folder_below_it_and_no_other(bucket: Front, store: Store, tmp_path: Path) -> None:
    record = fetched("gs://models/bert", store)
    assert record.tree.is_directory
    assert [f.path for f in record.tree.files] == ["1_Pooling/config.json", "config.json", "model.safetensors"]
    trees.materialize_tree(store, record.tree, tmp_path / "copy")
    assert (tmp_path / "copy/model.safetensors").read_bytes() == CONTENT[:100_000]
    assert fetched("gs://models/bert/", store).tree == record.tree


def test_a_long_listing_comes_in_pages(bucket: Front, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        bucket.upload("models", f"many/{number}.npz", b"%d" % number)
    monkeypatch.setattr("burnish.pipeline.gs._PAGE", 2)
    assert len(fetched("gs://models/many", store).tree.files) == 5
    assert len([path for path, _, _ in bucket.seen if "prefix=" in path]) == 3


def test_an_odd_name_is_asked_for_as_it_is(bucket: Front, store: Store) -> None:
    assert store.read_blob(fetched("gs://models/with space/ä+b%41.onnx", store).tree.digest) == b"named oddly"


def test_what_is_cut_off_is_resumed_at_the_same_generation(bucket: Front, store: Store) -> None:
    bucket.cut_after = 1_000_000
    assert store.read_blob(fetched("gs://models/digits/model.onnx", store).tree.digest) == CONTENT
    asked = [(path, of) for path, _, of in bucket.seen if "alt=media" in path]
    assert [of for _, of in asked] == ["", "bytes=1000000-"]
    assert len({path for path, _ in asked}) == 1 and "generation=" in asked[0][0]


def test_an_object_that_changes_while_it_is_read_is_no_mixture(bucket: Front, store: Store) -> None:
    bucket.upload("models", "changing/model.onnx", CONTENT)
    bucket.cut_after, bucket.when_cut = 1_000_000, lambda: bucket.upload("models", "changing/model.onnx", CONTENT[::-1])
    assert refused("gs://models/changing/model.onnx", store).reason is Reason.SourceIncomplete


def test_a_service_account_reads_what_others_may_not(bucket: Front, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.is_closed = True
    assert "GOOGLE_APPLICATION_CREDENTIALS" in refused("gs://models/bert", store).message
    fetched("gs://models/bert", store, access=access(bucket))
    assert {token for _, token, _ in bucket.seen[2:]} == {f"Bearer {TOKEN}"}
    (tmp_path / "key.json").write_text(bucket.key_file())
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    fetched("gs://models/bert", store, refresh="from the environment")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in child_environment(downloads=True)
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in child_environment(uses_store=True)


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"client_email": "other@project.iam.gserviceaccount.com"}, Reason.SourceForbidden, "refuses the key of the service account other@"),
        ({"type": "authorized_user"}, Reason.SourceForbidden, "no service account's key"),
        ({"private_key": "hunter2"}, Reason.SourceForbidden, "no RSA key"),
        ({"token_uri": "http://localhost:9/token"}, Reason.SourceForbidden, "no service account's key"),
        ({"token_uri": "https://localhost:9/token"}, Reason.SourceUnavailable, "can't reach"),
    ],
)
def test_a_key_that_is_none_is_told(bucket: Front, store: Store, changes: dict[str, str], reason: Reason, words: str) -> None:
    bucket.is_closed = True
    found = refused("gs://models/bert", store, access=access(bucket, **changes))
    assert found.reason is reason and words in found.message and "hunter2" not in found.message
    assert bucket.seen == []


def test_a_key_file_that_is_not_there_is_told(bucket: Front, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    assert refused("gs://models/bert", store).reason is Reason.SourceForbidden


def test_a_secret_for_other_uris_is_not_sent(bucket: Front, store: Store) -> None:
    keys = Credentials(google_key=bucket.key_file(), google_endpoint=bucket.url, uri_prefix="gs://mine")
    assert refused("gs://models/bert", store, access=fetch.Access(credentials=keys)).reason is Reason.SourceForbidden
    assert bucket.seen == []


def test_a_private_address_is_refused_on_a_cluster(bucket: Front, store: Store) -> None:
    keys = Credentials(google_endpoint=bucket.url)
    found = refused("gs://models/bert", store, access=fetch.Access(credentials=keys, claims={}, has_private_addresses=False))
    assert found.reason is Reason.UnsafeSource and bucket.seen == []


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("gs://models/none.onnx", Reason.SourceNotFound),
        ("gs://nobucket/model.onnx", Reason.SourceNotFound),
        ("gs://models", Reason.InvalidManifest),
        ("gs://models/../other/model.onnx", Reason.InvalidManifest),
        ("gs://user:hunter2@models/model.onnx", Reason.InvalidManifest),
    ],
)
def test_what_can_not_be_fetched_is_told(bucket: Front, store: Store, uri: str, reason: Reason) -> None:
    found = refused(uri, store)
    assert found.reason is reason and "hunter2" not in found.message


def test_limits_are_held_before_anything_is_read(bucket: Front, store: Store) -> None:
    assert refused("gs://models/digits/model.onnx", store, max_bytes=1000).reason is Reason.SourceTooLarge
    assert refused("gs://models/bert", store, max_files=2).reason is Reason.SourceTooLarge
    assert not any("alt=media" in path for path, _, _ in bucket.seen)


def test_what_is_stored_compressed_and_names_that_lead_out_are_refused(bucket: Front, store: Store) -> None:
    bucket.upload("models", "zipped/model.onnx", b"\x1f\x8b", encoding="gzip")
    assert "encoding gzip" in refused("gs://models/zipped/model.onnx", store).message
    bucket.upload("models", "evil/../../model.onnx", b"out")
    assert refused("gs://models/evil", store).reason is Reason.UnsafeSource


def test_an_endpoint_without_encryption_or_of_something_else_is_told(bucket: Front, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.behind)
    assert "no https: address" in refused("gs://models/bert", store).message
