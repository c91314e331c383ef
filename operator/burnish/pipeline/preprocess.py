"""Images as the model's input: one image at a time, by Pillow and NumPy, as the manifest or the source's own configuration says."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from burnish.api.v1alpha1.preprocess import Colour, Interpolation, Layout, Preprocess, PreprocessType, Resize, Size
from burnish.errors import BurnishError, Reason

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")
"""Of Pillow: 8 bits or fewer per channel, grey, palette or RGB."""
FIELD = "spec.datasets.preprocess"
CONFIG = "preprocessor_config.json"

_PROCESSORS = ("ViT", "DeiT", "CLIP", "Bit", "Siglip", "MobileNetV1", "MobileNetV2")
"""Image processors of transformers that do colour, resize, centre crop, scale and mean/std in this order and nothing else."""
_RESAMPLE = {0: Interpolation.Nearest, 1: Interpolation.Lanczos, 2: Interpolation.Bilinear, 3: Interpolation.Bicubic}  # PIL.Image.Resampling
_UNDERSTOOD = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb", "do_resize", "size", "resample", "do_center_crop"),
    *("crop_size", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "default_to_square"),
    *("_valid_processor_keys", "use_fast", "return_tensors", "disable_grouping", "device"),
}


class ImageError(Exception):
    """What is wrong with one image; the caller knows which one."""


def load_image(path: Path, preprocess: Preprocess) -> np.ndarray:
    """One image as the model takes it: (C, H, W) or (H, W, C) of the declared data type.

    Orientation that a camera noted (EXIF) is applied. Transparency is dropped, as `Image.convert("RGB")` does.

    Args:
        path: of any type in `FORMATS`.
        preprocess: of type Explicit.

    Raises:
        ImageError: no image, damaged, animated, too large, or of a mode that is not in `MODES`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if (frames := getattr(image, "n_frames", 1)) > 1:
                    raise ImageError(f"is animated ({frames} frames); save the one frame that counts")
                if image.mode not in MODES:
                    raise ImageError(f"is stored as {image.mode}; only 8-bit grey, palette and RGB are read: convert it as it was done in training")
                upright = ImageOps.exif_transpose(image)
                return _to_array(_resized(upright.convert("L" if preprocess.colour is Colour.Gray else "RGB"), preprocess), preprocess)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from None
    except Exception as error:  # a damaged file makes a decoder raise anything: struct.error, KeyError, zlib.error
        known = ", ".join(FORMATS)
        detail = "cannot be identified" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(f"is no readable image ({detail}); known are {known}: remove the file, or save it again") from error


def _resized(image: Any, preprocess: Preprocess) -> Any:
    from PIL import Image

    if preprocess.resize is not None:
        size = target_size(image.size, preprocess.resize)
        if max(size) > 4 * 8192:
            raise ImageError(f"would become {size[0]} x {size[1]} pixels; crop it")
        image = image.resize(size, Image.Resampling[preprocess.interpolation.name.upper()])
    if preprocess.crop is not None:
        (width, height), crop = image.size, preprocess.crop
        if crop.width > width or crop.height > height:
            raise ImageError(f"is {width} x {height} before the crop to {crop.width} x {crop.height}; resize to at least that")
        left, top = (width - crop.width) // 2, (height - crop.height) // 2  # rounded down, as transformers does; torchvision rounds 1.5 up
        image = image.crop((left, top, left + crop.width, top + crop.height))
    return image


def target_size(size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """(width, height) after resize; the longer side rounded down, as torchvision.transforms.Resize does."""
    if resize.shortest_side is None:
        return resize.width or 1, resize.height or 1
    short = min(size)
    width, height = (resize.shortest_side if side == short else resize.shortest_side * side // short for side in size)
    return width, height


def _to_array(image: Any, preprocess: Preprocess) -> np.ndarray:
    pixels = np.asarray(image, dtype=np.uint8).reshape(image.size[1], image.size[0], -1)
    if preprocess.colour is Colour.BGR:
        pixels = pixels[:, :, ::-1]
    if preprocess.data_type.value != "UINT8":
        values: np.ndarray = pixels.astype(np.float32)
        if preprocess.scale is not None:
            values = values * np.float32(preprocess.scale)
        if preprocess.mean:
            values = values - np.array([float(value) for value in preprocess.mean], np.float32)
        if preprocess.std:
            values = values / np.array([float(value) for value in preprocess.std], np.float32)
        pixels = values.astype(np.float16 if preprocess.data_type.value == "FP16" else np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if preprocess.layout is Layout.NCHW else pixels)


def resolve(preprocess: Preprocess, config: Mapping[str, Any] | None) -> Preprocess:
    """Explicit values, whatever the manifest says.

    Args:
        preprocess: as written.
        config: the source's preprocessor_config.json; None where it has none.

    Raises:
        BurnishError: InvalidManifest: FromHuggingFace, and there is no such file, or it holds what is not understood.
    """
    if preprocess.type is PreprocessType.Explicit:
        return preprocess
    if config is None:
        raise _not_understood(f"the source has no {CONFIG}")
    _check_understood(config)
    try:
        return Preprocess(layout=preprocess.layout, data_type=preprocess.data_type, **_declared(config))
    except ValueError as error:
        raise _not_understood(f"{CONFIG} holds values out of range") from error


def _declared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Preprocess` that the file gives a value."""
    given: dict[str, Any] = {}
    if _does(config, "do_resize", required=True):
        given["resize"], given["interpolation"] = _size(config), _interpolation(config)
    if _does(config, "do_center_crop", default="crop_size" in config):
        given["crop"] = _crop(config)
    if _does(config, "do_rescale", default=True):
        given["scale"] = _decimal(config.get("rescale_factor", 1 / 255), "rescale_factor")
    if _does(config, "do_normalize", required=True):
        given["mean"], given["std"] = (_decimals(config, name) for name in ("image_mean", "image_std"))
    return given


def _check_understood(config: Mapping[str, Any]) -> None:
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    if not any(kind in (f"{p}ImageProcessor", f"{p}ImageProcessorFast", f"{p}ImageProcessorPil", f"{p}FeatureExtractor") for p in _PROCESSORS):
        raise _not_understood(f"{CONFIG} is of {kind or 'no named type'}; understood are the image processors of {', '.join(_PROCESSORS)}")
    unknown = sorted(
        name for name, value in config.items() if name not in _UNDERSTOOD and value and (name, value) != ("data_format", "channels_first")
    )
    if unknown:
        raise _not_understood(f"{CONFIG} asks for {', '.join(unknown[:8])}")


def _does(config: Mapping[str, Any], name: str, *, default: bool = False, required: bool = False) -> bool:
    value = config.get(name)
    if value is None and required:
        raise _not_understood(f"{CONFIG} doesn't say {name}")
    if value is not None and not isinstance(value, bool):
        raise _not_understood(f"{name} in {CONFIG} is {value!r}")
    return default if value is None else value


def _size(config: Mapping[str, Any]) -> Resize:
    size = config.get("size")
    if isinstance(size, dict) and all(isinstance(value, int) for value in size.values()):
        if set(size) == {"height", "width"}:
            return Resize(width=size["width"], height=size["height"])
        if set(size) == {"shortest_edge"}:
            return Resize(shortest_side=size["shortest_edge"])
    raise _not_understood(f"size in {CONFIG} is {size!r}, neither height and width nor shortest_edge")


def _crop(config: Mapping[str, Any]) -> Size:
    crop = config.get("crop_size")
    if isinstance(crop, dict) and set(crop) == {"height", "width"}:
        return Size(**crop)
    if isinstance(crop, int):
        return Size(width=crop, height=crop)
    raise _not_understood(f"crop_size in {CONFIG} is {crop!r}")


def _interpolation(config: Mapping[str, Any]) -> Interpolation:
    found = _RESAMPLE.get(config.get("resample"))  # type: ignore[arg-type]  # None is in no table
    if found is None:
        raise _not_understood(f"resample in {CONFIG} is {config.get('resample')!r}")
    return found


def _decimals(config: Mapping[str, Any], name: str) -> list[str]:
    values = config.get(name)
    return [_decimal(value, name) for value in (values if isinstance(values, list) else [values])]


def _decimal(value: object, name: str) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e6:
        raise _not_understood(f"{name} in {CONFIG} is {value!r}")
    return np.format_float_positional(value, trim="-")


def _not_understood(what: str) -> BurnishError:
    return BurnishError(
        Reason.InvalidManifest, f"{what}; write type: Explicit with the values that the model was trained with", field=f"{FIELD}.type"
    )
