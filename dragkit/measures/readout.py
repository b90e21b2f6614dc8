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

from dragkit.client import SplitClient


@dataclass(frozen=True)
class Readout:
    """A fitted linear map; made by `fit_readout`.

    Attributes:
        token_mean: `(1, N, E)`.
        patch_mean: `(1, N, 3 p p)`, for patches of p by p pixels.
        weight: `(E, 3 p p)`.
        image_size: side of the photos, S.
    """

    token_mean: Tensor
    patch_mean: Tensor
    weight: Tensor
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
    """The linear map that reads photos best from this client's IRs.

    Args:
        client: sends patch tokens.
        photos: to fit on, `(n, 3, S, S)` in [0, 1].
        ridge: relative to the variance of the tokens.

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
