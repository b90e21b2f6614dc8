"""Random views of photos, one draw per photo, computed for the whole batch at once. All take images in [0, 1]."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor


class Strength(Protocol):
    """What a recipe says of the augmentation: smallest crop, colour jitter, share of mixed batches."""

    @property
    def crop(self) -> float: ...
    @property
    def jitter(self) -> float: ...
    @property
    def mix(self) -> float: ...


def labelled_batch(
    photos: Tensor, labels: Tensor, index: Tensor, recipe: Strength, classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Photos `index` as a classifier is shown them: cropped, flipped, jittered and mixed as the recipe says.

    Args:
        photos: uint8 `(N, 3, H, W)`. labels: `(N,)`.

    Returns:
        images `(B, 3, 64, 64)` in [0, 1] and targets `(B, classes)` that sum to 1.
    """
    x = random_crop(photos[index].float() / 255, recipe.crop, generator)
    x = colour_jitter(x, recipe.jitter, generator)
    return mix(x, nnf.one_hot(labels[index], classes).float(), recipe.mix, generator)


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def random_crop(
    x: Tensor, smallest: float, generator: torch.Generator, size: int = 64, aspect: float = 4 / 3
) -> Tensor:
    """Random resized crop and flip of `x` `(B, 3, H, W)` as one resampling.

    Args:
        smallest: area of the smallest crop as a share of the photo; 1 keeps (nearly) all of it.
        aspect: largest aspect ratio of a crop.

    Returns:
        `(B, 3, size, size)`.
    """
    n = len(x)
    area = uniform(n, smallest, 1.0, generator)
    bound = float(torch.tensor(aspect).log())
    ratio = torch.exp(uniform(n, -bound, bound, generator))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    sign = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * sign, height
    theta[:, 0, 2] = uniform(n, -1, 1, generator) * (1 - width)
    theta[:, 1, 2] = uniform(n, -1, 1, generator) * (1 - height)
    where = nnf.affine_grid(theta, [n, 3, size, size], align_corners=False).to(x.device)
    return nnf.grid_sample(x, where, padding_mode="reflection", align_corners=False).clamp(0, 1)


def colour_jitter(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation, each scaled by a factor in [1 - strength, 1 + strength]."""
    factors = [uniform(len(x), 1 - strength, 1 + strength, generator).view(-1, 1, 1, 1).to(x.device) for _ in range(3)]
    x = x * factors[0]
    x = (x - x.mean((1, 2, 3), keepdim=True)) * factors[1] + x.mean((1, 2, 3), keepdim=True)
    grey = x.mean(1, keepdim=True)
    return ((x - grey) * factors[2] + grey).clamp(0, 1)


def mix(x: Tensor, target: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """CutMix (arXiv 1905.04899) or mixup (arXiv 1710.09412) of the batch with itself in reverse, for `share` of the batches.

    Returns:
        images and `(B, classes)` targets that still sum to 1.
    """
    draw, lam = torch.rand(1, generator=generator).item(), torch.rand(1, generator=generator).item()
    if draw >= share:
        return x, target
    if draw < share / 2:
        lam = 0.5 + lam / 2
        return lam * x + (1 - lam) * x.flip(0), lam * target + (1 - lam) * target.flip(0)
    size = x.shape[-1]
    side = round(size * (1 - lam) ** 0.5)
    top, left = (int(torch.randint(0, size - side + 1, (1,), generator=generator)) for _ in range(2))
    x = x.clone()
    x[:, :, top : top + side, left : left + side] = x.flip(0)[:, :, top : top + side, left : left + side]
    lam = 1 - (side / size) ** 2
    return x, lam * target + (1 - lam) * target.flip(0)
