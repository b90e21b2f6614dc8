"""Public photos, and what a defence has to know about a client's IRs: it is measured on these, never on the photo that is sent."""

from __future__ import annotations

import torch
from torch import Tensor

from dragkit import data
from dragkit.client import SplitClient
from dragkit.images import validate_images

PHOTOS = 64  # of Imagenette that the constants of a client are measured on

FEWEST = 8  # of one's own photos: with fewer, a mean and a spread say more about the photos than about the client

BATCH = 64  # photos per pass


def public_photos(photos: Tensor | None, n: int, *, least: int = FEWEST, seed: int = 0) -> Tensor:
    """The given photos, all of them; where there are none, `n` training photos of Imagenette.

    Args:
        photos: `(m, 3, H, W)` in [0, 1], or None.
        n: how many of Imagenette.
        least: how many of one's own are needed.
        seed: of the choice from Imagenette.

    Raises:
        ValueError: fewer photos than needed, or tensors that are no photos.
        FileNotFoundError: no photos are given, and Imagenette is not there.
    """
    if photos is None:
        try:
            return data.pick("train", n, seed=seed)[0]
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or pass photos=, public photos (n, 3, H, W) in [0, 1]") from error
    validate_images(photos, "photos")
    if len(photos) < least:
        raise ValueError(f"photos holds {len(photos)}; at least {least} are needed here")
    return photos


@torch.no_grad()
def public_tokens(client: SplitClient, photos: Tensor | None = None) -> Tensor:
    """Tokens of public photos, float64 `(n, N, D)` on the CPU, the same on every call.

    Args:
        client: computes them.
        photos: `(n, 3, H, W)` in [0, 1], a few hundred at most; None means 64 training photos of Imagenette.

    Raises:
        ValueError, FileNotFoundError: see `public_photos`.
    """
    batches = public_photos(photos, PHOTOS).split(BATCH)
    return torch.cat([client.tokens(client(x.to(client.device))).double().cpu() for x in batches])


def mean_token(tokens: Tensor) -> Tensor:
    """Mean of tokens `(n, N, D)` over photos and positions, `(D,)`."""
    return tokens.mean((0, 1))


def spread(tokens: Tensor) -> float:
    """Root mean square of tokens `(n, N, D)` minus the mean token: the unit of the noise."""
    return (tokens - mean_token(tokens)).square().mean().sqrt().item()
