"""How far apart two sets of images are, in the features of a network."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class KernelDistance(NamedTuple):
    """Kernel distance between two sets of features and its standard error."""

    value: float
    standard_error: float


def kernel_distance(
    feats_a: Tensor, feats_b: Tensor, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> KernelDistance:
    """Squared maximum mean discrepancy between two sets of features, as in KID (https://arxiv.org/abs/1801.01401).

    The unbiased estimator with the kernel `(x . y / d + 1)^3`, averaged over random subsets drawn without
    replacement. Unbiased means that two samples of one distribution average 0 and may come out below 0. With Inception
    features it is KID; with any others say which.

    The standard error is the delete-d jackknife's, `sqrt(m / (n - m) * variance over subsets)` with n the smaller set
    and m the subset size (Shao and Wu, Annals of Statistics 1989). The usual spread over subsets divided by
    `sqrt(subsets)` shrinks at will, because subsets overlap. It is NaN when m = n, with nothing left out.

    Args:
        feats_a: `(n_a, d)`, finite floats.
        feats_b: `(n_b, d)`.
        subsets: number of subsets.
        subset_size: m; default half of the smaller set, at most 1000.
        seed: of the subsets.
    """
    a, b = _features(feats_a, "feats_a"), _features(feats_b, "feats_b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"feats_a and feats_b must have one width, got {a.shape[1]} and {b.shape[1]}")
    smaller = min(len(a), len(b))
    size = min(1000, smaller // 2) if subset_size is None else subset_size
    if not 2 <= size <= smaller:
        raise ValueError(
            f"subset_size must be from 2 to the smaller set's {smaller} (at least 4 rows for the default), got {size}"
        )
    if subsets < 2:
        raise ValueError(f"subsets must be 2 or more, got {subsets}")
    rng = np.random.default_rng(seed)
    values = np.array([_mmd(_draw(a, size, rng), _draw(b, size, rng)) for _ in range(subsets)])
    error = math.sqrt(size / (smaller - size) * values.var(ddof=1)) if size < smaller else math.nan
    return KernelDistance(float(values.mean()), error)


def _features(feats: Tensor, name: str) -> np.ndarray:
    if not isinstance(feats, Tensor) or not feats.is_floating_point():
        given = feats.dtype if isinstance(feats, Tensor) else type(feats).__name__
        raise TypeError(f"{name} must be a floating-point tensor (n, d), got {given}")
    if feats.ndim != 2 or 0 in feats.shape or not bool(torch.isfinite(feats).all()):
        raise ValueError(f"{name} must be finite with shape (n, d), got shape {tuple(feats.shape)} or NaN/infinity")
    # float64: the distance is a small difference of large sums
    return feats.detach().double().cpu().numpy()


def _draw(rows: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    return rows[rng.choice(len(rows), size, replace=False)]


def _mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased MMD^2 of two samples of equal size m: pairs of a sample with itself are left out."""
    m = len(a)
    within = 0.0
    for sample in (a, b):
        gram = _cubic_kernel(sample, sample)
        within += (gram.sum() - np.trace(gram)) / (m * (m - 1))
    return float(within - 2 * _cubic_kernel(a, b).mean())


def _cubic_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    base = a @ b.T / a.shape[1] + 1
    return base * base * base  # numpy's general power is many times slower
