"""Photos: Imagenette as tensors, and demonstration photos that installed packages ship.

Imagenette is fast.ai's ten-class subset of ImageNet (https://github.com/fastai/imagenette); it is read through torchvision's own
dataset class. Nothing here ever enters the repository: the decoded tensors are cached under `cache_dir()`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.datasets import Imagenette
from torchvision.transforms.v2 import functional as F

from dragkit.cache import cache_dir, load_or_make

Subset = Literal["train", "val"]

CLASSES = (
    "tench",
    "English springer",
    "cassette player",
    "chain saw",
    "church",
    "French horn",
    "garbage truck",
    "gas pump",
    "golf ball",
    "parachute",
)


def find_data() -> Path:
    """Folder that holds `imagenette2-160`: `$DRAGKIT_DATA`, else the cache.

    Raises:
        FileNotFoundError: it is not there; the message says how to get it.
    """
    place = Path(os.environ.get("DRAGKIT_DATA") or cache_dir() / "data")
    if not (place / "imagenette2-160" / "train").is_dir():
        raise FileNotFoundError(
            f"there is no imagenette2-160/ in {place}. Download Imagenette once (100 MB) with `python -m dragkit.data`, "
            "or set DRAGKIT_DATA to the folder that holds imagenette2-160/"
        )
    return place


def download() -> Path:
    """Download Imagenette (about 100 MB) into the cache with torchvision; needs a network. Returns the folder."""
    root = cache_dir() / "data"
    Imagenette(root=root, split="train", size="160px", download=True)
    return root


def imagenette(subset: Subset, size: int = 64) -> tuple[Tensor, Tensor]:
    """All photos of a subset, resized (antialiased) to `size`.

    Args:
        subset: "train" (9,469 photos) or "val" (3,925), in the dataset's own order (grouped by class).
        size: side in pixels, 8 to 160.

    Returns:
        uint8 images `(N, 3, size, size)` and int64 labels `(N,)`, indices into `CLASSES`.

    Raises:
        ValueError: unknown subset or size. FileNotFoundError: see `find_data`.
    """
    if subset not in get_args(Subset):
        raise ValueError(f"subset is {subset!r}; it must be 'train' or 'val'")
    if not 8 <= size <= 160:
        raise ValueError(f"size is {size}; the stored photos are 160 px, so it must be between 8 and 160")

    def decode() -> dict[str, Tensor]:
        dataset = Imagenette(root=find_data(), split=subset, size="160px", download=False)
        images = torch.empty(len(dataset), 3, size, size, dtype=torch.uint8)
        for i, (image, _) in enumerate(dataset):
            images[i] = F.pil_to_tensor(F.resize(image.convert("RGB"), [size, size], antialias=True))
        labels = torch.tensor([label for _, label in dataset._samples])
        return {"images": images, "labels": labels}

    stored = load_or_make(cache_dir() / f"imagenette-{subset}-{size}.safetensors", decode)
    return stored["images"], stored["labels"]


def pick(subset: Subset, n: int, size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor, list[int]]:
    """`n` photos of a subset, balanced over the ten classes, chosen by `seed`.

    Args:
        subset: "train" or "val".
        n: number of photos, from 1 to all of the subset.
        size: side in pixels, 8 to 160.
        seed: of the choice.

    Returns:
        images `(n, 3, size, size)` float in [0, 1], labels `(n,)` and the indices into the subset. A larger `n` with the same
        seed begins with the same photos.

    Raises:
        ValueError: `n` not from 1 to the number of photos, or see `imagenette`. FileNotFoundError: see `find_data`.
    """
    images, labels = imagenette(subset, size)
    if not 1 <= n <= len(images):
        raise ValueError(f"n is {n}; subset {subset!r} has {len(images)} photos")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = [shuffled[labels[shuffled] == c].tolist() for c in range(len(CLASSES))]
    rounds = max(map(len, by_class))
    order = [members[r] for r in range(rounds) for members in by_class if r < len(members)]
    chosen = order[:n]
    return images[chosen].float() / 255, labels[chosen], chosen


def demo_images(size: int = 64) -> dict[str, Tensor]:
    """Public demonstration photos that scikit-image installs: name -> `(3, size, size)` float in [0, 1], centre-cropped."""
    from skimage import data

    photos = {"astronaut": data.astronaut, "cat": data.chelsea, "coffee": data.coffee, "rocket": data.rocket}
    out = {}
    for name, load in photos.items():
        image = torch.from_numpy(load().copy()).permute(2, 0, 1)
        side = min(image.shape[-2:])
        out[name] = F.resize(F.center_crop(image, [side, side]), [size, size], antialias=True).float() / 255
    return out


if __name__ == "__main__":
    print(download())
