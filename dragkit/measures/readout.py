"""What a linear map reads from an IR: the least that is in it, found without any attack.

Ridge regression from a token (with the prefix tokens appended) to the pixels of its patch, around the mean of each position. A
photo that a linear map shows is determined by the message; where an attack fails on it, the search failed and not the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from dragkit import data, zoo
from dragkit.client import SplitClient
from dragkit.measures import intervals, metrics

READABLE = 0.6  # MS-SSIM from which an IR is said to determine its photo


@dataclass(frozen=True)
class Readout:
    """A fitted linear map; made by `fit_readout`."""

    token_mean: Tensor  # (1, N, E)
    patch_mean: Tensor  # (1, N, 3 p p)
    weight: Tensor  # (E, 3 p p)
    image_size: int

    def __call__(self, client: SplitClient, h: Tensor) -> Tensor:
        """IRs `(B, ...)` to images `(B, 3, S, S)` in [0, 1]."""
        patches = (_tokens(client, h) - self.token_mean) @ self.weight + self.patch_mean
        side = self.image_size // isqrt(patches.shape[1])
        return F.fold(patches.transpose(1, 2), self.image_size, side, stride=side).clamp(0, 1)


def _tokens(client: SplitClient, h: Tensor) -> Tensor:
    """Patch tokens `(B, N, E)`, each with the prefix tokens appended to its features."""
    tokens, prefix = client.tokens(h).float(), client.layout.prefix_tokens
    common = tokens[:, :prefix].flatten(1)[:, None].expand(-1, tokens.shape[1] - prefix, -1)
    return torch.cat([tokens[:, prefix:], common], 2)


@torch.no_grad()
def fit_readout(client: SplitClient, photos: Tensor, ridge: float = 1e-4) -> Readout:
    """Fit on `photos` `(B, 3, S, S)` in [0, 1]; `ridge` is relative to the variance of the tokens.

    Raises:
        ValueError: the patch tokens do not form a square grid that divides the photos.
    """
    tokens = torch.cat([_tokens(client, client(x)) for x in photos.split(50)])
    grid, size = isqrt(tokens.shape[1]), photos.shape[-1]
    if grid**2 != tokens.shape[1] or size % grid:
        raise ValueError(
            f"client sends {tokens.shape[1]} patch tokens; they must form a square grid that divides {size}"
        )
    patches = F.unfold(photos, size // grid, stride=size // grid).transpose(1, 2)
    token_mean, patch_mean = tokens.mean(0, keepdim=True), patches.mean(0, keepdim=True)
    a, y = (tokens - token_mean).flatten(0, 1), (patches - patch_mean).flatten(0, 1)
    gram = a.T @ a + ridge * a.var() * len(a) * torch.eye(a.shape[1])
    return Readout(token_mean, patch_mean, torch.linalg.solve(gram, a.T @ y), size)


@torch.no_grad()
def readable(name: str, at: str, n_fit: int = 2000, n_test: int = 200) -> intervals.Interval:
    """MS-SSIM, with its interval, that a linear map reaches on training photos it was not fitted on."""
    photos, _, _ = data.pick("train", n_fit + n_test)
    client = zoo.load_client(name, at)
    with torch.autocast("cpu", torch.bfloat16):
        fitted = fit_readout(client, photos[:n_fit])
        seen = torch.cat([client(x) for x in photos[n_fit:].split(50)])
    return intervals.bootstrap_ci(metrics.ms_ssim(fitted(client, seen), photos[n_fit:]))


def deepest_readable(name: str, blocks: int = 12) -> tuple[str, dict[str, intervals.Interval]]:
    """The deepest block whose IR determines the photo by `READABLE`, and what was read there and below it.

    Raises:
        ValueError: none does.
    """
    found: dict[str, intervals.Interval] = {}
    for k in range(blocks, -1, -1):
        found[f"block:{k}"] = readable(name, f"block:{k}")
        if found[f"block:{k}"].mean >= READABLE:
            return f"block:{k}", found
    raise ValueError(f"no block of {name} determines the photo: {found}")
