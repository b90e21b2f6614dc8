"""Images in and out of the library: the only place that knows file formats.

Everywhere else an image is a float tensor `(B, 3, H, W)` (one image: `(3, H, W)`), RGB, with values in `[0, 1]`.
"""

from __future__ import annotations

import math
import operator
import os
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from dragkit.cache import written_aside

Resampling = Literal["bilinear", "bicubic"]


@lru_cache(maxsize=64)
def _resize_matrix(
    n_in: int, n_out: int, interpolation: Resampling, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`(n_out, n_in)` matrix of the antialiased resize of one axis: what torch makes of an identity image."""
    with torch.inference_mode(False), torch.no_grad():
        eye = torch.eye(n_in, dtype=torch.float64)[None, None]
        matrix = F.interpolate(eye, size=(n_out, n_in), mode=interpolation, antialias=True, align_corners=False)
        return matrix[0, 0].to(device=device, dtype=dtype)


def resize_images(images: Tensor, size: tuple[int, int], interpolation: Resampling = "bilinear") -> Tensor:
    """Antialiased resize as two matrix products, `R_h @ x @ R_w^T`: equal to torchvision's, and deterministic on a GPU.

    Args:
        images: float `(B, C, H, W)`, any range.
        size: (height, width) wanted.
        interpolation: "bilinear" or "bicubic".

    Returns:
        `(B, C, *size)`, differentiable, not clamped (bicubic overshoots); `images` itself when the size is right.
    """
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    rows = _resize_matrix(height, size[0], interpolation, images.dtype, images.device)
    columns = _resize_matrix(width, size[1], interpolation, images.dtype, images.device)
    return rows @ images @ columns.T


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""What `load_images` looks for in a folder; `load_image` opens any file that Pillow can decode."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused: a decompression bomb, or 1.2 GB as a float tensor."""

_SCALE_16_BIT = 65535.0


def validate_images(x: Tensor, name: str = "images", *, eps: float = 1e-4) -> Tensor:
    """Check that `x` is what this library calls images, and return it unchanged.

    Args:
        x: expected `(B, 3, H, W)`, floating point, finite, in `[0, 1]`; B, H and W at least 1.
        name: how the caller's argument is called, for the message.
        eps: how far outside `[0, 1]` rounding may push a value.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: wrong shape, not finite, or out of range.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor (B, 3, H, W), got {type(x).__name__}")
    if not x.is_floating_point():
        hint = "; convert with x.float() / 255" if x.dtype == torch.uint8 else ""
        raise TypeError(f"{name} must be floating point in [0, 1], got {x.dtype}{hint}")
    if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape:
        raise ValueError(f"{name} must have shape (B, 3, H, W), got {tuple(x.shape)}{_shape_hint(x)}")
    # One pass: a NaN or an infinity anywhere ends up in the minimum or the maximum.
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = (~torch.isfinite(x.detach()).flatten(1).all(1)).nonzero().flatten().tolist()
        raise ValueError(f"{name} must be finite, got NaN or infinity in image(s) {bad[:8]} of the batch")
    if low < -eps or high > 1 + eps:
        raise ValueError(f"{name} must lie in [0, 1], got values from {low:.4g} to {high:.4g}{_range_hint(low, high)}")
    return x


def _shape_hint(x: Tensor) -> str:
    if x.ndim == 3 and x.shape[0] == 3:
        return "; for a single image pass x[None]"
    if x.ndim == 4 and x.shape[3] == 3:
        return "; channels are last, use x.permute(0, 3, 1, 2)"
    if x.ndim == 4 and x.shape[1] == 1:
        return "; for grayscale use x.expand(-1, 3, -1, -1)"
    return ""


def _range_hint(low: float, high: float) -> str:
    if high > 2:
        return "; 8-bit values are divided by 255" if high <= 255 and low >= 0 else ""
    return "; values in [-1, 1] become (x + 1) / 2, small overshoots x.clamp(0, 1)" if low >= -1.5 else ""


def load_image(path: str | os.PathLike[str], size: int | None = None) -> Tensor:
    """Read one picture as `(3, H, W)` float32 in `[0, 1]`, RGB.

    The EXIF orientation is applied. Transparent pixels are composited on white. Grayscale, palette, CMYK and YCbCr
    become RGB; no colour profile is applied. 16-bit grayscale keeps its precision (value / 65535), of 16-bit colour
    Pillow keeps the upper 8 bits. Animations and multi-page files are refused, because which frame is meant is for the
    caller to say; of a phone's MPO file (a JPEG with further pictures behind the photo) the photo is read.

    Args:
        path: an image file.
        size: when given, the central square is cut out and resized (bilinear, antialiased) to `(3, size, size)`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, an empty, corrupt or undecodable file, several frames, more than `MAX_PIXELS` pixels,
            or a `size` that is not a positive integer.
    """
    size = None if size is None else _positive(size, "size")
    path = _existing_file(path)
    with warnings.catch_warnings():
        # Pillow's own warning about large pictures; `_check_header` decides instead.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as file:
                _check_header(file, path)
                picture = ImageOps.exif_transpose(file)
                picture.format = file.format  # lost in the copy; it decides what 65535 means
                pixels = _to_rgb(picture if size is None else _centre_square(picture), path)
        except (_Refused, PermissionError, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise ValueError(_too_large(path)) from error
        except Image.UnidentifiedImageError as error:
            raise ValueError(
                f"{path} is not an image this installation can read (PNG, JPEG, WebP, BMP, TIFF, ... are; "
                "HEIC, camera RAW and SVG have to be converted first)"
            ) from error
        except Exception as error:  # decoders meet damaged data with whatever exception comes first
            raise ValueError(f"{path} is damaged or incomplete: {type(error).__name__}: {error}") from error
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return image if size is None else _resize(image, size)


def load_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], size: int | None = None) -> Tensor:
    """Read several pictures as one batch `(B, 3, H, W)` float32 in `[0, 1]`; see `load_image`.

    Args:
        paths: files, in this order; or one folder, of which `list_images` gives the order; or one file.
        size: as for `load_image`; needed unless all pictures have one size.

    Raises:
        FileNotFoundError, ValueError: as `load_image`; also for no picture at all and for differing sizes.
    """
    if isinstance(paths, (str, os.PathLike)):
        files = list_images(paths) if Path(paths).is_dir() else [Path(paths)]
    else:
        files = [Path(p) for p in paths]
    if not files:
        raise ValueError("paths must name at least one image, got none")
    loaded = [load_image(p, size) for p in files]
    for file, image in zip(files, loaded, strict=True):
        if image.shape != loaded[0].shape:
            raise ValueError(
                f"images differ in size: {files[0]} is {_height_width(loaded[0])} and {file} is {_height_width(image)} "
                "(height x width); pass size=... to crop and resize all of them to one square"
            )
    return torch.stack(loaded)


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The picture files directly in a folder, sorted by name; hidden files and other suffixes are left out.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: not a folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"folder not found: {folder}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a folder")
    entries = sorted(folder.iterdir())
    files = [p for p in entries if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]
    if not files:
        below = [p.name for p in entries if p.is_dir()][:3]
        hint = f"; sub-folders are not searched ({', '.join(below)}, ...)" if below else ""
        raise ValueError(f"no image in {folder}: looked for {', '.join(SUFFIXES)}{hint}")
    return files


def save_image(image: Tensor, path: str | os.PathLike[str]) -> Path:
    """Write one image as 8-bit PNG (lossless) or JPEG (quality 95, full colour resolution), chosen by the suffix.

    Missing parent folders are made. The file appears whole or not at all: it is written beside its place and renamed.

    Args:
        image: `(3, H, W)`, floating point in `[0, 1]`.
        path: ends in .png, .jpg or .jpeg.

    Returns:
        The path written.

    Raises:
        TypeError, ValueError: wrong type, shape or range of `image`; unknown suffix; `path` is a folder.
    """
    path = Path(path)
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    if path.suffix.lower() not in formats:
        raise ValueError(f"path must end in .png, .jpg or .jpeg, got {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"path is a folder, expected a file name: {path}")
    if isinstance(image, Tensor) and image.ndim != 3:
        raise ValueError(
            f"image must have shape (3, H, W), got {tuple(image.shape)}; of a batch save images[i] or grid(images)"
        )
    validate_images(image[None] if isinstance(image, Tensor) else image, "image")
    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    options = {"quality": 95, "subsampling": 0} if formats[path.suffix.lower()] == "JPEG" else {}
    with written_aside(path) as part:
        Image.fromarray(np.ascontiguousarray(pixels)).save(part, formats[path.suffix.lower()], **options)
    return path


def grid(images: Tensor, columns: int, *, gap: int = 2) -> Tensor:
    """Lay a batch out in rows on white.

    Args:
        images: `(B, 3, H, W)` in `[0, 1]`.
        columns: images in a row; a batch smaller than this makes a narrower grid.
        gap: white pixels between neighbours and around.

    Returns:
        `(3, rows * (H + gap) + gap, columns * (W + gap) + gap)`; `save_image` takes it.
    """
    validate_images(images)
    columns = min(_positive(columns, "columns"), images.shape[0])
    if gap < 0:
        raise ValueError(f"gap must be 0 or more pixels, got {gap}")
    count, _, height, width = images.shape
    rows = math.ceil(count / columns)
    sheet = images.new_ones(3, rows * (height + gap) + gap, columns * (width + gap) + gap)
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


class _Refused(ValueError):
    """A picture that decodes but that we decline; keeps its message past the handler for damaged files."""


def _existing_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected an image file; load_images reads folders")
    if not path.exists():
        raise FileNotFoundError(f"image file not found: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    return path


def _check_header(picture: Image.Image, path: Path) -> None:
    """Refuse, before any pixel is decoded, what would exhaust memory or is several pictures."""
    if picture.width * picture.height > MAX_PIXELS:
        raise _Refused(_too_large(path, f"{picture.width} x {picture.height}"))
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        raise _Refused(
            f"{path} holds {frames} frames or pages, expected one picture; extract one with Pillow: "
            "picture = PIL.Image.open(path); picture.seek(0); picture.convert('RGB').save('frame.png')"
        )


def _too_large(path: Path, what: str = "far more") -> str:
    return f"{path} is too large: {what} pixels, accepted are up to {MAX_PIXELS:,}; scale it down first"


def _centre_square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    square.format = picture.format
    return square


def _to_rgb(picture: Image.Image, path: Path) -> np.ndarray:
    """Pixels as `(H, W, 3)` float32 in [0, 1]."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _high_precision_gray(picture, path)
    try:
        if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        picture = picture.convert("RGB")
    except ValueError as error:  # Pillow's answer to a pair of colour spaces it has no formula for, such as LAB
        raise _Refused(f"{path} is in the colour space {picture.mode}, save it as RGB first ({error})") from error
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def _high_precision_gray(picture: Image.Image, path: Path) -> np.ndarray:
    gray = np.asarray(picture, dtype=np.float64)
    # Pillow opens some 16-bit grayscale files in its 32-bit mode "I"; in other files "I" has no agreed white.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        gray = gray / _SCALE_16_BIT
    if not np.isfinite(gray).all() or gray.min() < 0 or gray.max() > 1:
        raise _Refused(
            f"{path} has {picture.mode} pixels from {gray.min():.4g} to {gray.max():.4g} with no agreed white value; "
            "accepted are 8-bit and 16-bit pictures and floats in [0, 1]"
        )
    return np.repeat(gray.astype(np.float32)[..., None], 3, axis=2)


def _resize(image: Tensor, size: int) -> Tensor:
    if image.shape[-1] == size:
        return image
    resized = F.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].clamp(0, 1)


def _height_width(image: Tensor) -> str:
    return f"{image.shape[-2]} x {image.shape[-1]}"


def _positive(value: int, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return number
