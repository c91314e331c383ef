import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.api.job_contract import FileRef, TreeRef
from burnish.errors import BurnishError, Reason
from burnish.store import trees
from burnish.store.store import Store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "data" / "deep").mkdir(parents=True)
    (root / "model.onnx").write_bytes(b"graph")
    (root / "data" / "w0").write_bytes(b"weights" * 1000)
    (root / "data" / "deep" / "ü.bin").write_bytes(b"")
    return root


def test_file_digest_is_what_sha256sum_prints(store: Store, source: Path) -> None:
    tree = trees.put_tree(store, source / "model.onnx")
    assert tree.digest == "sha256:" + hashlib.sha256(b"graph").hexdigest()
    assert (tree.is_directory, tree.files[0].path, tree.size_bytes) == (False, "model.onnx", 5)


def test_directory_round_trips(store: Store, source: Path, tmp_path: Path) -> None:
    tree = trees.put_tree(store, source)
    assert [f.path for f in tree.files] == ["data/deep/ü.bin", "data/w0", "model.onnx"]
    assert trees.has_tree(store, tree)
    trees.materialize_tree(store, tree, tmp_path / "out" / "model")
    assert trees.hash_tree(tmp_path / "out" / "model") == tree


def test_file_materializes_under_the_target_name(store: Store, source: Path, tmp_path: Path) -> None:
    trees.materialize_tree(store, trees.put_tree(store, source / "model.onnx"), tmp_path / "out" / "m.onnx")
    assert (tmp_path / "out" / "m.onnx").read_bytes() == b"graph"


def test_directory_digest_is_that_of_its_canonical_list(source: Path) -> None:
    def entry(path: str, content: bytes) -> str:
        return f'{{"digest":"sha256:{hashlib.sha256(content).hexdigest()}","path":"{path}","size":{len(content)}}}'

    listed = "[" + ",".join((entry("data/deep/ü.bin", b""), entry("data/w0", b"weights" * 1000), entry("model.onnx", b"graph"))) + "]"
    assert trees.hash_tree(source).digest == "sha256:" + hashlib.sha256(listed.encode()).hexdigest()


def test_directory_digest_tells_names_and_content(source: Path) -> None:
    digest = trees.hash_tree(source).digest
    (source / "model.onnx").rename(source / "other.onnx")
    renamed = trees.hash_tree(source).digest
    (source / "other.onnx").write_bytes(b"grapH")
    assert len({digest, renamed, trees.hash_tree(source).digest}) == 3


def link(root: Path) -> None:
    (root / "link").symlink_to("/etc/hostname")


def linked_directory(root: Path) -> None:
    (root / "data" / "up").symlink_to(root)


def pipe(root: Path) -> None:
    os.mkfifo(root / "pipe")


def unix_socket(root: Path) -> None:
    here = Path.cwd()
    os.chdir(root)  # a socket's path may be 107 bytes long, pytest's are longer
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("socket")
    finally:
        os.chdir(here)


def not_utf8(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.bin")).write_bytes(b"")


def too_deep(root: Path) -> None:
    (root / "/".join("d" * 40)).mkdir(parents=True)


@pytest.mark.parametrize("plant", [link, linked_directory, pipe, unix_socket, not_utf8, too_deep])
def test_unsafe_directory_is_refused_by_name(store: Store, source: Path, plant: Callable[[Path], None]) -> None:
    plant(source)
    with pytest.raises(BurnishError, match=str(source)) as raised:
        trees.put_tree(store, source)
    assert raised.value.reason is Reason.UnsafeSource
    assert not Path(store.location).exists()


def test_top_level_link_and_device_are_refused(store: Store, source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "file_link").symlink_to(source / "model.onnx")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "link", tmp_path / "file_link", tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BurnishError) as raised:
            trees.put_tree(store, path)
        assert raised.value.reason is Reason.UnsafeSource


def test_size_caps_hold(store: Store, source: Path) -> None:
    for call in (
        lambda: trees.put_tree(store, source, max_bytes=7000),
        lambda: trees.put_tree(store, source, max_files=2),
        lambda: trees.put_tree(store, source / "model.onnx", max_bytes=4),
    ):
        with pytest.raises(BurnishError) as raised:
            call()
        assert raised.value.reason is Reason.SourceTooLarge
    trees.put_tree(store, source, max_bytes=7005, max_files=3)


def test_file_that_changes_between_hash_and_copy_is_refused(store: Store, source: Path) -> None:
    tree = trees.hash_tree(source)
    (source / "model.onnx").write_bytes(b"GRAPH")
    with pytest.raises(BurnishError, match="changed while it was read"):
        trees.copy_tree(store, source, tree)


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a/../../b", "a//b", ""])
def test_tree_from_elsewhere_cannot_write_outside_its_target(store: Store, tmp_path: Path, path: str) -> None:
    ref = FileRef(path=path, digest=store.put_blob(b"evil"), size=4)
    with pytest.raises(BurnishError) as raised:
        trees.materialize_tree(store, TreeRef(digest=ref.digest, is_directory=True, files=(ref,)), tmp_path / "target")
    assert raised.value.reason is Reason.UnsafeSource
    assert list((tmp_path / "target").iterdir()) == []
