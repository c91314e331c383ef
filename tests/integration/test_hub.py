"""`hf:` sources against a server that speaks the Hub's own HTTPS interface: revisions, large files on another host, tokens, what is left out."""

from __future__ import annotations

import ssl
import sys
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

sys.path.insert(0, str(Path(__file__).parent))
import hub_server
from hub_server import COMMIT, FILES, TOKEN, Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    with hub_server.running(context, "localhost", "127.0.0.1") as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield made


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
    hub.files |= dict.fromkeys(("set/cat/1.png", "set/dog/1.webp", "set/dog/2.bmp", "set/parts.tar.zst"), b"data")
    data = fetched("hf://datasets/org/data/set", store)
    assert [f.path for f in data.tree.files] == ["cat/1.png", "dog/1.webp", "dog/2.bmp", "parts.tar.zst"]  # no kind of data is left out
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
