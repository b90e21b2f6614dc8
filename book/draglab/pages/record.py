"""Numbers and pictures that a notebook vouches for, written down so that a later run can be compared with them.

In a normal session `record` and `record_panel` hand their argument back and write nothing. While the book is being built
the driver sets `DRAGKIT_RECORD` to an empty folder, and then every call adds to

- `numbers.json`: `{"provenance": {...}, "numbers": {key: {"value", "atol", "rtol", "direction", "unit"}}}`
- `<key>.npz`: `images`, uint8 `(B, H, W, 3)`, the pixels themselves and not a rendered figure, and `min_ssim`
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from dragkit.provenance import provenance

Value = TypeVar("Value", float, Sequence[float], Tensor)


def record(
    key: str,
    value: Value,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    direction: Literal["higher", "lower"] | None = None,
    unit: str = "",
) -> Value:
    """Write down one number, or a short list of them, and return it unchanged.

    Args:
        key: its name, unique within the notebook; letters, digits, `_`, `-` and `.`.
        value: a finite number, a sequence of them, or a tensor of at most one axis.
        atol: absolute difference to the golden that a later run may show; with `rtol` the larger bound counts.
        rtol: the same, relative to the golden. 0.01 when neither is given.
        direction: "higher" or "lower" says which way is better; then only a change for the worse fails.
        unit: shown beside the number, such as "dB" or "s".

    Raises:
        ValueError: bad key, tolerance or direction, a value that is not finite, a key recorded twice in one run.
    """
    _check_key(key)
    numbers = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    if numbers.ndim > 1 or not np.isfinite(numbers).all():
        raise ValueError(f"value: record({key!r}) takes a finite number or a flat list of them, got {value!r}")
    for name, bound in (("atol", atol), ("rtol", rtol)):
        if bound is not None and not (math.isfinite(bound) and bound >= 0):
            raise ValueError(f"{name}: must be a finite number >= 0, got {bound!r}")
    if direction not in (None, "higher", "lower"):
        raise ValueError(f"direction: {direction!r} is not one of None, 'higher', 'lower'")
    folder = _folder()
    if folder is None:
        return value
    path = folder / "numbers.json"
    data = json.loads(path.read_text()) if path.exists() else {"provenance": provenance(), "numbers": {}}
    if key in data["numbers"]:
        raise ValueError(f"key: {key!r} was already recorded in this run")
    rtol = 0.01 if atol is None and rtol is None else rtol
    entry = {"value": numbers.tolist(), "atol": atol or 0.0, "rtol": rtol or 0.0, "direction": direction, "unit": unit}
    data["numbers"][key] = entry
    path.write_text(json.dumps(data, indent=1) + "\n")
    return value


def record_panel(key: str, images: Tensor, *, min_ssim: float = 0.95) -> Tensor:
    """Write down the pictures behind a figure and return them unchanged.

    Args:
        key: their name, unique within the notebook.
        images: `(B, 3, H, W)` or `(3, H, W)` in `[0, 1]` (values outside are clamped); sides of at least 7 pixels.
        min_ssim: the structural similarity to the golden that every image of a later run must reach.

    Raises:
        ValueError: bad key, shape or threshold, pixels that are not finite, a key recorded twice in one run.
    """
    _check_key(key)
    batch = images.detach().float().cpu()
    batch = batch[None] if batch.ndim == 3 else batch
    if batch.ndim != 4 or batch.shape[1] != 3 or min(batch.shape[2:]) < 7 or not batch.isfinite().all():
        raise ValueError(f"images: want finite (B, 3, H, W) with H, W >= 7, got shape {tuple(images.shape)}")
    if not 0 <= min_ssim <= 1:
        raise ValueError(f"min_ssim: must lie in [0, 1], got {min_ssim!r}")
    folder = _folder()
    if folder is None:
        return images
    path = folder / f"{key}.npz"
    if path.exists():
        raise ValueError(f"key: {key!r} was already recorded in this run")
    pixels = (batch.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.savez_compressed(path, images=pixels, min_ssim=np.float64(min_ssim))
    return images


def _folder() -> Path | None:
    name = os.environ.get("DRAGKIT_RECORD")
    if not name:
        return None
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_key(key: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", key):
        raise ValueError(f"key: {key!r} must start with a letter or digit and hold letters, digits, '_', '-', '.' only")
