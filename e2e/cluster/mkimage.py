#!/usr/bin/env python3
"""Write a one-layer image archive (what `docker save` writes) from files of this machine; needs no engine.

usage: mkimage.py NAME:TAG OUT.tar ENTRYPOINT [DEST=SOURCE | DEST->TARGET]...     (-> makes a symbolic link; ENTRYPOINT may be "")
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path


def add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    """Add one file, owned by root, without a time."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    tar.addfile(member, io.BytesIO(content))


def layer_of(entries: list[str]) -> bytes:
    """The layer as a tar: /tmp, /etc, /bin and what is named."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder in ("tmp", "etc", "bin"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            layer.addfile(member)
        for entry in entries:
            if "->" in entry:
                name, target = entry.split("->")
                member = tarfile.TarInfo(name.lstrip("/"))
                member.type, member.linkname = tarfile.SYMTYPE, target
                layer.addfile(member)
            else:
                name, source = entry.split("=")
                add(layer, name.lstrip("/"), Path(source).read_bytes(), 0o755)
    return buffer.getvalue()


def main(reference: str, out: str, entrypoint: str, *entries: str) -> None:
    """Write the archive; see the usage above."""
    layer = layer_of(list(entries))
    config = json.dumps({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": [entrypoint] if entrypoint else None, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }).encode()  # fmt: skip
    name = hashlib.sha256(config).hexdigest() + ".json"
    with tarfile.open(out, "w") as tar:
        add(tar, name, config)
        add(tar, "layer.tar", layer)
        add(tar, "manifest.json", json.dumps([{"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}]).encode())


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
