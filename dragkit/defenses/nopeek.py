"""Distance correlation between two batches (Szekely, Rizzo and Bakirov, Annals of Statistics 2007): what NoPeek makes small.

On one mini-batch of high-dimensional data the usual estimator is nearly 1 even for independent batches; the U-centred one (Szekely
and Rizzo, Annals of Statistics 2014) is not. With squared distances the quantity is another, the square root of linear CKA, which
is 0 for what is merely uncorrelated.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Distances = Literal["euclid", "squared", "cosine"]

_TINY = 1e-12


def pairwise(x: Tensor, kind: Distances = "euclid") -> Tensor:
    """Distances `(B, B)` within a batch `(B, ...)`.

    Args:
        kind: "euclid"; "squared"; or "cosine": 1 - cos of tokens at the same place, averaged over tokens, of `(B, N, D)`.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in get_args(Distances):
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(get_args(Distances))}")
    x = x.float()
    if kind == "cosine":
        tokens = torch.nn.functional.normalize(x if x.ndim == 3 else x.flatten(1)[:, None], dim=-1)
        return 1 - tokens.flatten(1) @ tokens.flatten(1).T / tokens.shape[1]
    flat = x.flatten(1)
    flat = flat - flat.mean(0)  # distances do not change, and the products below lose less
    size = flat.square().sum(1)
    squared = (size[:, None] + size - 2 * flat @ flat.T).clamp_min(0)
    off_diagonal = 1 - torch.eye(len(x), dtype=squared.dtype, device=x.device)
    squared = squared * off_diagonal
    if kind == "squared":
        return squared
    return squared.clamp_min(_TINY).sqrt() * (squared > 0)  # a distance of 0 has no gradient, and stays 0


def distance_correlation(
    x: Tensor,
    z: Tensor,
    *,
    dx: Distances = "euclid",
    dz: Distances = "euclid",
    unbiased: bool = False,
    root: bool = True,
) -> Tensor:
    """Distance correlation of two batches, a number; differentiable in both, in float32 also under autocast.

    Args:
        x, z: `(B, ...)`, the same B: photos and their representations.
        dx, dz: distances, see `pairwise`.
        unbiased: U-centred estimate of the squared correlation; 0 on average for independent batches, and sometimes below 0.
        root: the correlation; False for its square. The root of an unbiased estimate keeps the sign.

    Raises:
        ValueError: batches that differ in length, fewer than four (two for the biased estimate).
    """
    least = 4 if unbiased else 2
    if len(x) != len(z) or len(x) < least:
        raise ValueError(f"x holds {len(x)} and z {len(z)}; both must have the same number, {least} or more")
    with torch.autocast(x.device.type, enabled=False):
        centre = u_centred if unbiased else centred
        a, b = centre(pairwise(x, dx)), centre(pairwise(z, dz))
        squared = (a * b).sum() / (a.square().sum() * b.square().sum() + _TINY).sqrt()
        return squared.sign() * (squared.abs() + _TINY).sqrt() if root else squared


def centred(d: Tensor) -> Tensor:
    """Each entry without the means of its row and column."""
    return d - d.mean(0) - d.mean(1, keepdim=True) + d.mean()


def u_centred(d: Tensor) -> Tensor:
    """Each entry without the means of its row and column, which leave the diagonal out."""
    n = len(d)
    rest = d - d.sum(0) / (n - 2) - d.sum(1, keepdim=True) / (n - 2) + d.sum() / ((n - 1) * (n - 2))
    return rest * (1 - torch.eye(n, dtype=d.dtype, device=d.device))
