"""Data as people have it: every kind becomes the same npz, and what can't be read is refused by name before anything runs."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from burnish.api.job_contract import PipelineRequest, StageRecord, StepName
from burnish.api.v1alpha1.optimized_model import Datasets, DynamicAxis, Evaluation, Input, Metric
from burnish.api.v1alpha1.preprocess import Preprocess, Resize
from burnish.errors import BurnishError, Reason
from burnish.pipeline import archives, prepare
from burnish.pipeline.workdir import WorkDir
from burnish.plugins.base import DataType, Signature, Tensor

FIELD = "spec.datasets.evaluation"
PLAIN = Preprocess()
NPY = b"\x93NUMPY\x01\0"


def signature(shape: tuple[int, ...] = (-1, 3, 4, 6), inputs: tuple[str, ...] = ("x",), kind: DataType = DataType.FP32) -> Signature:
    tensors = tuple(Tensor(name=name, data_type=kind, shape=shape) for name in inputs)
    return Signature(inputs=tensors, outputs=(Tensor(name="y", data_type=DataType.FP32, shape=(-1, 2)),))


TEXT = signature((-1, -1), ("input_ids", "attention_mask", "token_type_ids"), DataType.INT64)
LENGTHS = (Input(name="input_ids", dynamic=[DynamicAxis(axis=1, min=1, opt=6, max=8)]),)


def made(
    folder: Path,
    data: Path,
    model: Signature | None = None,
    *,
    preprocess: Preprocess | None = None,
    inputs: tuple[Input, ...] = (),
    samples: int | None = None,
    source: Path | None = None,
) -> dict[str, np.ndarray]:
    """The npz that `prepare` makes of `data`."""
    work = WorkDir(folder)
    work.save(StepName.stage, StageRecord(source="", evaluation=data.relative_to(folder).as_posix()))
    datasets = Datasets(evaluation=Evaluation(uri="file:data", metric=Metric.Accuracy, samples=samples), preprocess=preprocess)
    request = PipelineRequest.model_construct(inputs=inputs, datasets=datasets)
    prepare.run(work, request, model or signature(), source, work.folder(StepName.export) / prepare.FOLDER)
    assert not list(work.folder(StepName.export).rglob("*.unpacked")), "what was unpacked is gone"
    with np.load(prepare.dataset_path(work, "evaluation", "data"), allow_pickle=False) as archive:
        return dict(archive)


def refusal(reason: Reason, field: str, *arguments: Any, **options: Any) -> str:
    with pytest.raises(BurnishError) as caught:
        made(*arguments, **options)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    return caught.value.message


def picture(
    colour: tuple[int, ...] | int = (10, 20, 30), size: tuple[int, int] = (6, 4), mode: str = "RGB", kind: str = "PNG", **options: Any
) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, kind, **options)
    return stream.getvalue()


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / "data"


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


PACKED: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "data.tar": tar,
    "data.tar.gz": lambda files: tar(files, "w:gz"),
    "data.tar.zst": lambda files: zstandard.compress(tar(files)),
    "data.zip": zipped,
    "no-suffix": tar,
}
IMAGES = {"set/cat/1.png": picture((10, 20, 30)), "set/cat/2.png": picture((11, 20, 30)), "set/bird/1.png": picture((12, 20, 30))}


# --- npz parts and archives ------------------------------------------------------------------------------------------------------------


def test_npz_parts_are_joined_in_the_order_of_their_names(tmp_path: Path) -> None:
    data = write(tmp_path, {"b.npz": npz(x=np.full((1, 2), 3.0), label=[3]), "a.npz": npz(x=np.arange(4.0).reshape(2, 2), label=[1, 2])})
    found = made(tmp_path, data)
    np.testing.assert_array_equal(found["x"], [[0, 1], [2, 3], [3, 3]])
    np.testing.assert_array_equal(found["label"], [1, 2, 3])


@pytest.mark.parametrize("name", PACKED)
def test_archives_hold_what_folders_hold(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PACKED[name](IMAGES | {"set/.DS_Store": b"\0", "__MACOSX/set/._1.png": b"\0"}))
    found = made(tmp_path, tmp_path / name, preprocess=PLAIN)
    np.testing.assert_array_equal(found["label"], [0, 1, 1])  # bird, cat, cat: one of each class first
    np.testing.assert_array_equal(found["x"][:, 0, 0, 0], [12, 10, 11])


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"a.npz": npz(x=np.zeros((1, 2))), "b.npz": npz(x=np.zeros((1, 3)))}, "b.npz has 'x' as float64 .1, 3., and a.npz as float64 .1, 2."),
        ({"a.npz": npz(x=np.zeros((1, 2))), "b.npz": npz(z=np.zeros((1, 2)))}, "has 'x' as nothing"),
        ({"a.npz": npz(x=np.zeros((2, 2)), label=[1])}, "differ in their number of samples"),
        ({"a.npz": b"no zip"}, "a.npz is no readable .npz"),
        ({"a.npz": npz(x=np.array([object()]))}, "Python objects"),
        ({"a.npz": npz(x=np.zeros(1)), "b.png": picture()}, "mixes kinds of files"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path: Path, parts: dict[str, bytes], told: str) -> None:
    assert re.search(told, refusal(Reason.InvalidDataset, FIELD, tmp_path, write(tmp_path, parts)))


def special(kind: bytes, **facts: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("cat/1.png")
        info.type = kind
        for name, value in facts.items():
            setattr(info, name, value)
        archive.addfile(info)
    return stream.getvalue()


def zip_link() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("cat/1.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        special(tarfile.SYMTYPE, linkname="/etc/passwd"),
        special(tarfile.LNKTYPE, linkname="other"),
        special(tarfile.CHRTYPE, devmajor=1, devminor=3),
        special(tarfile.FIFOTYPE),
        tar({"../escaped.png": b""}),
        tar({"/absolute.png": b""}),
        zipped({"../escaped.png": b""}),
        zip_link(),
    ],
    ids=["symlink", "hardlink", "device", "pipe", "tar ..", "absolute", "zip ..", "zip link"],
)
def test_archives_that_reach_out_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "data").write_bytes(content)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    refusal(Reason.UnsafeSource, FIELD, tmp_path / "inner", tmp_path / "inner" / "data", preprocess=PLAIN)
    left = {p.name for p in tmp_path.rglob("*") if p.is_file()} - {p.name for p in before}
    assert left == {"record.json"}, "only what the test itself wrote"


@pytest.mark.parametrize("pack", [zipped, PACKED["data.tar.gz"], PACKED["data.tar.zst"]], ids=["zip", "gz", "zst"])
def test_bombs_are_refused_before_they_fill_the_disk(
    tmp_path: Path, pack: Callable[[Mapping[str, bytes]], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 2**20)
    (tmp_path / "data").write_bytes(pack({"cat/1.png": bytes(32 * 2**20)}))
    assert (tmp_path / "data").stat().st_size < 2**16
    assert "unpacks to more than" in refusal(Reason.InvalidDataset, FIELD, tmp_path, tmp_path / "data", preprocess=PLAIN)


def test_archives_of_too_many_or_too_deep_entries_or_huge_headers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(content: bytes) -> str:
        (tmp_path / "data").write_bytes(content)
        return refusal(Reason.InvalidDataset, FIELD, tmp_path, tmp_path / "data", preprocess=PLAIN)

    assert "folders deep" in told(tar({"/".join("abcdefghijk"): b""}))
    assert "no readable archive" in told(tar({"cat/1.png": bytes(5000)})[:3000])
    assert "no readable archive" in told(PACKED["data.tar.gz"](IMAGES)[:100])
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**33
    assert "header of" in told(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**20))
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    assert "more than 3 entries" in told(tar({f"a/{i}": b"" for i in range(4)}))
    assert "more than 3 entries" in told(zipped({f"a/{i}": b"" for i in range(4)}))


# --- images ----------------------------------------------------------------------------------------------------------------------------


def test_labels_are_numbers_or_the_models_names_or_sorted_folders(tmp_path: Path) -> None:
    data = write(tmp_path, IMAGES)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog", "2": "bird"}}))
    np.testing.assert_array_equal(made(tmp_path, data, preprocess=PLAIN, source=source)["label"], [2, 0, 0])
    (source / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    np.testing.assert_array_equal(made(tmp_path, data, preprocess=PLAIN, source=source)["label"], [0, 1, 1])
    (data / "set/cat").rename(data / "set/7")
    (data / "set/bird").rename(data / "set/10")
    np.testing.assert_array_equal(sorted(made(tmp_path, data, preprocess=PLAIN, source=source)["label"]), [7, 7, 10])
    (data / "set/7").rename(data / "set/cat")
    (source / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}}))
    told = refusal(Reason.InvalidDataset, FIELD, tmp_path, data, preprocess=PLAIN, source=source)
    assert "'10' is no class" in told and "cat, dog" in told


def test_fewer_samples_come_from_all_classes(tmp_path: Path) -> None:
    np.testing.assert_array_equal(made(tmp_path, write(tmp_path, IMAGES), preprocess=PLAIN, samples=2)["label"], [0, 1])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"GIF89a but no more", "is no readable image"),
        (b"#!/bin/sh\n", "is no readable image"),
        (picture(size=(64, 64), kind="JPEG")[:500], "is no readable image"),
        (picture(size=(64, 64))[:-40], "is no readable image"),
        (picture(9, mode="I;16"), "is stored as I;16"),
        (picture((1, 2, 3, 4), mode="CMYK", kind="JPEG"), "is stored as CMYK"),
        (picture(kind="GIF", save_all=True, append_images=[Image.new("RGB", (6, 4), (9, 9, 9))]), "is animated (2 frames)"),
    ],
    ids=["cut gif", "script", "cut jpeg", "cut png", "16 bit", "cmyk", "animated"],
)
def test_what_is_no_plain_image_is_refused_by_name(tmp_path: Path, content: bytes, told: str) -> None:
    message = refusal(Reason.InvalidDataset, FIELD, tmp_path, write(tmp_path, IMAGES | {"set/dog/1.png": content}), preprocess=PLAIN)
    assert told in message and "set/dog/1.png" in message


def test_palettes_and_transparency_become_plain_colours(tmp_path: Path) -> None:
    files = {"a/1.png": picture((10, 20, 30, 0), mode="RGBA"), "a/2.gif": picture(kind="GIF"), "a/3.png": picture(10, mode="L")}
    found = made(tmp_path, write(tmp_path, files), preprocess=PLAIN)["x"]
    np.testing.assert_array_equal(found[:, :, 0, 0], [[10, 20, 30], [10, 20, 30], [10, 10, 10]])


def test_images_of_too_many_pixels_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 400):  # Pillow only warns of the first
        data = write(tmp_path, {"a/1.png": picture(size=(side, side))})
        assert "more than 1000 pixels" in refusal(Reason.InvalidDataset, FIELD, tmp_path, data, preprocess=PLAIN)


def test_folders_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    def told(name: str, files: dict[str, bytes]) -> str:
        return refusal(Reason.InvalidDataset, FIELD, tmp_path, write(tmp_path, files) if not name else tmp_path / name, preprocess=PLAIN)

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo("set/dog")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        info = tarfile.TarInfo("set/cat/1.png")
        info.size = len(picture())
        archive.addfile(info, io.BytesIO(picture()))
    (tmp_path / "empty.tar").write_bytes(stream.getvalue())
    assert "class 'set/dog' has no images" in told("empty.tar", {})
    (tmp_path / "none.tar").write_bytes(tar({".DS_Store": b""}))
    assert "holds no files" in told("none.tar", {})
    assert "nested or share a name" in told("", {"a/b/1.png": picture(), "a/1.png": picture()})
    assert "outside of a class's folder" in told("", {"2.png": picture()})
    assert "is a single array (.npy)" in told("", {"0.npy": NPY, "1.npy": NPY})


def test_other_shapes_than_the_models_are_refused_with_both(tmp_path: Path) -> None:
    data = write(tmp_path, {"a/1.png": picture(), "a/2.png": picture(size=(8, 8))})
    told = refusal(Reason.InputsMismatch, "spec.datasets.preprocess", tmp_path, data, signature((-1, 3, 32, 32)), preprocess=PLAIN)
    assert "[3, 4, 6]" in told and "[3, 32, 32]" in told
    assert "[3, 8, 8]" in refusal(Reason.InvalidDataset, FIELD, tmp_path, data, signature((-1, 3, -1, -1)), preprocess=PLAIN)
    assert made(tmp_path, data, signature((-1, 3, 2, 2)), preprocess=Preprocess(resize=Resize(width=2, height=2)))["x"].shape == (2, 3, 2, 2)


def test_preprocess_stands_with_images_and_only_there(tmp_path: Path) -> None:
    data = write(tmp_path, IMAGES)
    assert "doesn't say how they become" in refusal(Reason.InvalidDataset, "spec.datasets.preprocess", tmp_path, data)
    assert "takes 2" in refusal(Reason.InvalidDataset, FIELD, tmp_path, data, signature(inputs=("a", "b")), preprocess=PLAIN)
    (tmp_path / "data.npz").write_bytes(npz(x=np.zeros((1, 2))))
    assert "nothing to preprocess" in refusal(Reason.InvalidManifest, "spec.datasets.preprocess", tmp_path, tmp_path / "data.npz", preprocess=PLAIN)


# --- text ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A source's folder: words of a small vocabulary, [CLS] and [SEP] around them, no padding of its own."""
    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106  # a word
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder = tmp_path / "source"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
    return folder


def test_text_is_tokenized_padded_and_cut_by_the_models_own_tokenizer(tmp_path: Path, tokenizer: Path) -> None:
    rows = [{"text": "a good film", "label": "yes"}, {"text": "bad", "label": 0}, {"text": "a good bad film a good bad film", "label": "no"}]
    data = write(tmp_path, {"rows": "".join(json.dumps(row) + "\n" for row in rows)}) / "rows"
    found = made(tmp_path, data, TEXT, inputs=LENGTHS, source=tokenizer)
    np.testing.assert_array_equal(found["input_ids"], [[2, 4, 5, 7, 3, 0], [2, 6, 3, 0, 0, 0], [2, 4, 5, 6, 7, 3]])
    np.testing.assert_array_equal(found["attention_mask"].sum(1), [5, 3, 6])
    np.testing.assert_array_equal(found["label"], [1, 0, 0])
    assert found["input_ids"].dtype == np.int64


def test_csv_says_the_same_as_jsonl_and_pairs_have_two_types(tmp_path: Path, tokenizer: Path) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerows([["text", "text_pair", "label", "id"], ['a "good", film', "bad", "1", "x"]])
    rows = json.dumps({"text": 'a "good", film', "text_pair": "bad", "label": 1}) + "\n"
    fixed = signature((-1, 9), ("input_ids", "token_type_ids"), DataType.INT64)
    a, b = (made(tmp_path, write(tmp_path, {n: text}) / n, fixed, source=tokenizer) for n, text in (("a.csv", stream.getvalue()), ("b.jsonl", rows)))
    assert a.keys() == {"input_ids", "token_type_ids", "label"}
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert a["token_type_ids"][0].tolist().count(1) == 2  # bad [SEP]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"text": "a"}\n{"text": \n', "no JSON in line 2"),
        ('{"text": "a"}\n[1]\n', "no object in line 2"),
        ('{"label": 1}\n', "no 'text' in line 1"),
        ('{"text": "a", "label": 1}\n{"text": "b"}\n', "1 of 2 rows without 'label'"),
        ('{"text": "a", "label": 0.5}\n', "neither a number nor a name"),
        ('{"text": "\\ud800"}\n', "lone surrogate"),
        ('{"text": "a", "label": "maybe"}\n', "'maybe' is no class"),
        ('{"text": "a", "label": -1}\n', "classes count from 0"),
        ('{"text": "a", "label": 99999999999999999999}\n', "classes count from 0"),
        ("text,label\na,99999999999999999999\n", "is no class of the model"),
        ("good,1\nbad,0\n", "names a column 'text'"),
        ("text,label\na,b,c\n", "another number of fields"),
        ("text,label\n", "has no rows"),
        (b"text\n\xff\xfe", "not UTF-8"),
        (b"", "is empty; give it again"),
        (NPY, "is a single array (.npy); save it under its input's name"),
        (picture(), "is a single image; put images into a folder for each class"),
        (b"PAR1\x15\x04", "is Parquet, which is not read; write it as JSONL"),
        (pickle.dumps({"text": "a"}), "is a pickle, which is never read"),
        (bytes(10240), "as an empty tar does"),
        ('[{"text": "a"}]', "is a JSON array; write one object per line"),
    ],
)
def test_rows_that_can_not_be_read_are_refused(tmp_path: Path, tokenizer: Path, content: bytes | str, told: str) -> None:
    data = write(tmp_path, {"rows.txt": content}) / "rows.txt"
    assert told in refusal(Reason.InvalidDataset, FIELD, tmp_path, data, TEXT, inputs=LENGTHS, source=tokenizer)


def test_text_needs_a_tokenizer_that_pads_and_a_declared_length(tmp_path: Path, tokenizer: Path) -> None:
    data = write(tmp_path, {"rows.csv": "text,label\na,1\n"}) / "rows.csv"
    assert "source has none" in refusal(Reason.InvalidDataset, FIELD, tmp_path, data, TEXT, inputs=LENGTHS)
    assert "axis: 1" in refusal(Reason.InputsMismatch, "spec.inputs", tmp_path, data, TEXT, source=tokenizer)
    assert "takes x" in refusal(Reason.InvalidDataset, FIELD, tmp_path, data, inputs=LENGTHS, source=tokenizer)
    (tokenizer / "tokenizer_config.json").unlink()
    assert "which token pads" in refusal(Reason.InvalidDataset, FIELD, tmp_path, data, TEXT, inputs=LENGTHS, source=tokenizer)
    (tokenizer / "tokenizer.json").write_text("{}")
    assert "can't be read" in refusal(Reason.InvalidDataset, FIELD, tmp_path, data, TEXT, inputs=LENGTHS, source=tokenizer)
