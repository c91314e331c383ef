"""Images as the model's input: equal to Pillow and NumPy by hand, and, for FromHuggingFace, to transformers itself (tests/pipeline)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from burnish.api.v1alpha1.preprocess import Colour, Interpolation, Layout, PixelType, Preprocess, PreprocessType, Resize, Size
from burnish.errors import BurnishError, Reason
from burnish.pipeline import preprocess

CONFIG: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_convert_rgb": None,
    "do_resize": True,
    "size": {"height": 24, "width": 20},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def test_every_step_is_what_pillow_and_numpy_do_by_hand(image: Path) -> None:
    wanted = Preprocess(
        resize=Resize(shortest_side=30),
        interpolation=Interpolation.Bicubic,
        crop=Size(width=27, height=25),
        colour=Colour.BGR,
        scale="0.00392156862745098",
        mean=["0.1", "0.2", "0.3"],
        std=["0.5", "0.6", "0.7"],
        layout=Layout.NHWC,
    )
    found = preprocess.load_image(image, wanted)
    resized = Image.open(image).resize((30 * 61 // 40, 30), Image.Resampling.BICUBIC)
    left, top = (resized.size[0] - 27) // 2, (30 - 25) // 2
    pixels = np.asarray(resized, np.float64)[top : top + 25, left : left + 27, ::-1]
    np.testing.assert_allclose(found, (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7], atol=1e-5)
    assert (found.dtype, found.shape) == (np.float32, (25, 27, 3))


def test_gray_and_data_types(image: Path) -> None:
    gray = preprocess.load_image(image, Preprocess(colour=Colour.Gray, data_type=PixelType.UINT8))
    np.testing.assert_array_equal(gray[0], np.asarray(Image.open(image).convert("L")))
    assert (gray.dtype, gray.shape) == (np.uint8, (1, 40, 61))
    assert preprocess.load_image(image, Preprocess(data_type=PixelType.FP16)).dtype == np.float16


def test_the_orientation_of_a_camera_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    found = preprocess.load_image(tmp_path / "turned.png", Preprocess())
    assert found.shape == (3, 8, 4) and found[0, 0, 0] == 255 and found[0, 7, 0] == 0


def test_a_crop_larger_than_the_image_is_refused(image: Path) -> None:
    with pytest.raises(preprocess.ImageError, match="is 61 x 40 before the crop to 100 x 10"):
        preprocess.load_image(image, Preprocess(crop=Size(width=100, height=10)))


def test_from_huggingface_becomes_explicit_values() -> None:
    found = preprocess.resolve(Preprocess(type=PreprocessType.FromHuggingFace), CONFIG)
    assert found == Preprocess(
        resize=Resize(width=20, height=24), scale="0.00392156862745098", mean=["0.485", "0.456", "0.406"], std=["0.229", "0.224", "0.225"]
    )
    clip = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 30}, "resample": 3, "do_center_crop": True, "crop_size": 28}
    found = preprocess.resolve(Preprocess(type=PreprocessType.FromHuggingFace), {**CONFIG, **clip})
    assert (found.resize, found.crop, found.interpolation) == (Resize(shortest_side=30), Size(width=28, height=28), Interpolation.Bicubic)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "is of ConvNextImageProcessor"),
        ({"do_pad": True, "crop_pct": 0.9}, "asks for crop_pct, do_pad"),
        ({"size": {"longest_edge": 9}}, "size in preprocessor_config.json"),
        ({"size": 224}, "size in preprocessor_config.json is 224"),
        ({"resample": 4}, "resample in preprocessor_config.json is 4"),
        ({"do_resize": None}, "doesn't say do_resize"),
        ({"do_resize": "yes"}, "do_resize in preprocessor_config.json is 'yes'"),
        ({"image_mean": None}, "image_mean in preprocessor_config.json is None"),
        ({"image_std": [0.0, 0.0, 0.0]}, "values out of range"),
        ({"image_mean": [0.1, 0.2]}, "values out of range"),
        ({"size": {"height": 0, "width": 9}}, "values out of range"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    with pytest.raises(BurnishError) as caught:
        preprocess.resolve(Preprocess(type=PreprocessType.FromHuggingFace), {**CONFIG, **change})
    assert (caught.value.reason, caught.value.field) == (Reason.InvalidManifest, "spec.datasets.preprocess.type")
    assert told in caught.value.message


def test_a_source_without_configuration_is_refused() -> None:
    with pytest.raises(BurnishError, match=r"has no preprocessor_config\.json; write type: Explicit"):
        preprocess.resolve(Preprocess(type=PreprocessType.FromHuggingFace), None)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mean": ["1", "2"]}, "has 2 values, and colour RGB has 3"),
        ({"colour": "Gray", "std": ["1", "1", "1"]}, "colour Gray has 1"),
        ({"std": ["0"]}, "0 can't be divided by"),
        ({"dataType": "UINT8", "scale": "0.5"}, "UINT8 holds the values as they are"),
        ({"type": "FromHuggingFace", "scale": "0.5"}, "takes scale from the source"),
        ({"resize": {"width": 3}}, "width and height, or shortestSide alone"),
        ({"resize": {"width": 3, "height": 3, "shortestSide": 3}}, "width and height, or shortestSide alone"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Preprocess.model_validate(values)


def test_bytes_of_an_image_are_read_from_a_file_of_any_name(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (2, 2), 7).save(stream, "BMP")
    (tmp_path / "7").write_bytes(stream.getvalue())
    assert preprocess.load_image(tmp_path / "7", Preprocess())[0, 0, 0] == 7


def test_a_request_carries_it_to_the_steps_unchanged() -> None:
    """Records are written with their defaults; read again, these are no values of the user's."""
    written = Preprocess(type=PreprocessType.FromHuggingFace, layout=Layout.NHWC)
    assert Preprocess.model_validate_json(written.model_dump_json(by_alias=True, exclude_none=True)) == written
