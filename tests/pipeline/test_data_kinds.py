"""Whole runs on data as people have it: prepared once without network, published so that a client can do the same, measured again without a build."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from burnish.api.v1alpha1.preprocess import Preprocess, PreprocessType
from burnish.pipeline import preprocess
from burnish.toolchains import environments

LAYOUT = {"layout": "NHWC"}


def images(folder: Path, count: int, seed: int) -> None:
    """Noise in four classes' folders."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        path = folder / f"class-{number % 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (5, 7), dtype=np.uint8)).save(path)


def image_model() -> onnx.ModelProto:
    """(n, 4, 4, 1) -> (n, 4): each class looks at one row of the image."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.kron(np.eye(4, dtype=np.float32), np.ones((4, 1), np.float32))
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([-1, 16], np.int64), "flat")]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", *s]) for n, s in (("x", (4, 4, 1)), ("y", (4,))))
    return helper.make_model(helper.make_graph(nodes, "rows", [x], [y], initializers), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_images_are_prepared_once_published_and_measured_again_without_a_build(project: Any, make_spec: Callable[..., dict[str, Any]]) -> None:
    onnx.save(image_model(), project.path / "model.onnx")
    images(project.path / "held-out", 40, 0)
    how = {"resize": {"width": 4, "height": 4}, "colour": "Gray", "scale": "0.00392156862745098", **LAYOUT}
    data = {"evaluation": {"uri": "file:held-out", "metric": "Agreement"}, "preprocess": how}
    spec = make_spec(datasets=data)
    ran = project.run(project.write(spec), "--work", project.path / "work")
    assert ran.code == 0, ran.stderr
    assert 'preprocess: {"resize": {"width": 4, "height": 4}' in ran.stderr
    assert "folders' names in sorted order: class-0=0" in ran.stderr
    pulled = project.path / "pulled"
    assert project.burnish("pull", "tiny", "-o", pulled, "--store", project.store).code == 0
    published = json.loads((pulled / "companions" / "preprocess.json").read_text())
    assert published["resize"] == {"width": 4, "height": 4} and published["layout"] == "NHWC"
    assert '"colour": "Gray"' in (pulled / "CARD.md").read_text()

    # another evaluation set: nothing is built, so `measure` prepares it, in a child
    images(project.path / "others", 24, 1)
    spec["datasets"]["calibration"] = {"uri": "file:held-out"}  # what the golden request came from stays
    first = project.run(project.write(spec), "--work", project.path / "work2")
    assert first.code == 0, first.stderr
    spec["datasets"]["evaluation"]["uri"] = "file:others"
    again = project.run(project.write(spec), "--work", project.path / "work3")
    assert again.code == 0, again.stderr
    assert again.target["cache"]["artifact"] == "Hit" and again.target["cache"]["measurement"] == "Miss"
    assert any((project.path / "work3").rglob("*-measure/datasets/evaluation.npz"))

    (project.path / "others" / "class-1" / "1.png").write_bytes(b"no image")
    refused = project.run(project.write(spec))
    assert refused.failure["reason"] == "InvalidDataset" and "class-1/1.png is no readable image" in refused.failure["message"]


def test_an_archive_that_reaches_out_publishes_nothing(project: Any, make_spec: Callable[..., dict[str, Any]]) -> None:
    onnx.save(image_model(), project.path / "model.onnx")
    with tarfile.open(project.path / "data.tar", "w") as archive:
        link = tarfile.TarInfo("a/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link, io.BytesIO())
    spec = make_spec(datasets={"evaluation": {"uri": "file:data.tar", "metric": "Accuracy"}, "preprocess": {"colour": "Gray", **LAYOUT}})
    ran = project.run(project.write(spec))
    assert (ran.code, ran.failure["reason"]) == (2, "UnsafeSource"), ran.stderr
    assert not project.records("results") and not project.records("builds")


@pytest.mark.parametrize(
    ("processor", "options"),
    [
        ("ViTImageProcessor", {"size": {"height": 30, "width": 26}, "resample": 2}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 30}, "crop_size": {"height": 27, "width": 27}, "resample": 3}),
    ],
)
def test_from_huggingface_agrees_with_transformers(tmp_path: Path, processor: str, options: dict[str, Any]) -> None:
    """Its own processor on the same image: at most one of 256 levels apart, where its resize rounds otherwise than Pillow's."""
    noise = np.random.default_rng(3).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((91, 77), Image.Resampling.BICUBIC).save(tmp_path / "image.png")
    script = textwrap.dedent(
        f"""
        import numpy, transformers, PIL.Image
        made = transformers.{processor}(**{options!r})
        made.save_pretrained({str(tmp_path)!r})
        numpy.save({str(tmp_path / "theirs.npy")!r}, made(PIL.Image.open({str(tmp_path / "image.png")!r}), return_tensors="np")["pixel_values"][0])
        """
    )
    python = environments.find("torch").python  # type: ignore[union-attr]  # the fixture made it
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    found = preprocess.resolve(Preprocess(type=PreprocessType.FromHuggingFace), config)
    ours, theirs = preprocess.load_image(tmp_path / "image.png", found), np.load(tmp_path / "theirs.npy")
    assert ours.shape == theirs.shape
    levels = np.abs(ours - theirs) * np.array([float(s) for s in found.std], np.float32).reshape(-1, 1, 1) * 255
    assert levels.max() <= 1.01
    assert levels.mean() <= 0.5
    shuffled = np.abs(ours[::-1] - theirs).max()
    assert shuffled > 0.1, "another order of channels would be seen"


@pytest.mark.long
def test_a_huggingface_classifier_is_judged_on_images_by_its_own_processor_and_class_names(
    project: Any, make_spec: Callable[..., dict[str, Any]]
) -> None:
    source = project.path / "vit"
    script = textwrap.dedent(
        f"""
        import torch, transformers
        torch.manual_seed(0)
        names = {{0: "class-3", 1: "class-2", 2: "class-1", 3: "class-0"}}
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4, id2label=names,
            label2id={{name: number for number, name in names.items()}},
        )
        transformers.ViTForImageClassification(config).save_pretrained({str(source)!r})
        transformers.ViTImageProcessor(size={{"height": 8, "width": 8}}).save_pretrained({str(source)!r})
        """
    )
    python = environments.find("torch").python  # type: ignore[union-attr]  # the fixture made it
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    images(project.path / "held-out", 24, 0)
    data = {"evaluation": {"uri": "file:held-out", "metric": "Accuracy"}, "preprocess": {"type": "FromHuggingFace"}}
    ran = project.run(project.write(make_spec(source={"uri": "file:vit"}, datasets=data)), "--work", project.path / "work")
    assert ran.code == 0, ran.stderr
    assert "config.json (id2label): class-0=3, class-1=2, class-2=1, class-3=0" in ran.stderr
    (made,) = (project.path / "work").rglob("*-export/datasets/evaluation.npz")
    with np.load(made) as archive:
        assert archive["pixel_values"].shape == (24, 3, 8, 8)
        np.testing.assert_array_equal(archive["label"][:4], [3, 2, 1, 0])
    published = list((project.path / "work").rglob("*-build/artifacts/baseline/companions/preprocess.json"))
    assert json.loads(published[0].read_text())["resize"] == {"width": 8, "height": 8}


def test_an_archive_over_https_is_read_and_plan_reaches_for_none(project: Any, make_spec: Callable[..., dict[str, Any]], site: Any) -> None:
    onnx.save(image_model(), project.path / "model.onnx")
    images(project.path / "train", 16, 1)
    images(project.path / "held-out", 40, 0)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(project.path / "held-out", "held-out")
    site.content = stream.getvalue()
    how = {"resize": {"width": 4, "height": 4}, "colour": "Gray", "scale": "0.00392156862745098", **LAYOUT}
    data = {
        "calibration": {"uri": "file:train"},
        "evaluation": {"uri": site.uri("ok/held-out.tar.gz?signature=hunter2"), "metric": "Agreement"},
        "preprocess": how,
    }
    passes = [{"type": "Quantize", "quantize": {"mode": "Dynamic"}}]
    spec = make_spec(datasets=data, passes=passes, constraints={"maxSlowdownPercent": 1000})
    manifest = project.write(spec)

    def planned() -> tuple[str, list[bool], list[str]]:
        site.seen.clear()
        found = project.burnish("plan", manifest, "--store", project.store, "-o", "json", env=site.environment)
        assert found.code == 0, found.stderr
        assert site.seen == [] and "hunter2" not in found.stdout + found.stderr
        (target,) = found.object["targets"]
        return target["plan"], [s["stored"] for s in found.object["sources"]], [s["name"] for s in target["steps"] if s["state"] == "run"]

    assert planned()[:2] == ("Unknown", [False, False, False])
    ran = project.run(manifest, "--work", project.path / "work", env=site.environment)
    assert ran.code == 0, ran.stderr
    assert "folders' names in sorted order: class-0=0" in ran.stderr and "hunter2" not in ran.stderr
    (made,) = (project.path / "work").rglob("*-export/datasets/evaluation.npz")
    with np.load(made) as archive:
        assert archive["x"].shape == (40, 4, 4, 1)
        np.testing.assert_array_equal(archive["label"][:5], [0, 1, 2, 3, 0])
    assert planned() == ("Nothing", [True, True, True], [])

    spec["datasets"]["evaluation"]["uri"] = "file:held-out"
    project.write(spec)
    assert planned()[0] == "Measure", "the folder is another dataset than the archive, and nothing is built for it"
    (project.path / "train" / "class-0" / "0.png").unlink()
    assert planned()[0] == "Build", "calibration is part of the artifact's key"


def test_a_huggingface_classifier_is_judged_on_text_by_its_own_tokenizer_and_class_names(
    project: Any, make_spec: Callable[..., dict[str, Any]]
) -> None:
    source = project.path / "bert"
    script = textwrap.dedent(
        f"""
        import torch, transformers
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        torch.manual_seed(0)
        words = {{word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a"])}}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        names = {{0: "negative", 1: "positive"}}
        config = transformers.BertConfig(
            vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=16,
            id2label=names, label2id={{name: number for number, name in names.items()}},
        )
        transformers.BertForSequenceClassification(config).save_pretrained({str(source)!r})
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained({str(source)!r})
        """
    )
    python = environments.find("torch").python  # type: ignore[union-attr]  # the fixture made it
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [{"text": "a good film" if n % 2 else "bad", "label": ["negative", "positive"][n % 2]} for n in range(24)]
    (project.path / "held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lengths = [{"name": n, "dynamic": [{"axis": 1, "min": 1, "opt": 6, "max": 8}]} for n in ("input_ids", "attention_mask", "token_type_ids")]
    data = {"evaluation": {"uri": "file:held-out.jsonl", "metric": "Accuracy"}}
    manifest = project.write(make_spec(source={"uri": "file:bert"}, inputs=lengths, datasets=data))
    ran = project.run(manifest, "--work", project.path / "work")
    assert ran.code == 0, ran.stderr
    assert ran.status["source"]["format"] == "HuggingFace" and "takes token ids" in ran.stderr
    (made,) = (project.path / "work").rglob("*-export/datasets/evaluation.npz")
    with np.load(made) as archive:
        np.testing.assert_array_equal(archive["input_ids"][:2], [[2, 5, 3, 0, 0, 0], [2, 7, 4, 6, 3, 0]])
        np.testing.assert_array_equal(archive["attention_mask"][:2], [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
        np.testing.assert_array_equal(archive["label"][:4], [0, 1, 0, 1])
    planned = project.burnish("plan", manifest, "--store", project.store, "-o", "json").object["targets"][0]
    assert planned["plan"] == "Nothing"

    (source / "tokenizer.json").unlink()
    refused = project.run(manifest)
    assert "tokenizer.json" in refused.failure["message"], refused.failure
