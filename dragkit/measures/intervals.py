"""How sure one can be of a mean, a difference or a rate: confidence intervals over images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import torch
from torch import Tensor


class Interval(NamedTuple):
    """An estimate (`mean`) with the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_ci(
    values: Tensor | np.ndarray | Sequence[float], level: float = 0.95, seed: int = 0, *, resamples: int = 9999
) -> Interval:
    """Mean of per-image values with a bootstrap confidence interval (BCa, `scipy.stats.bootstrap`).

    Where BCa is undefined (nearly all values equal) the percentile interval is given; for equal values it has no width,
    which says nothing about the next image.

    Args:
        values: `(n,)`, n at least 2, finite; one value per image, so that images are the unit of resampling.
        level: confidence, in (0, 1).
        seed: of the resampling.
        resamples: number of bootstrap samples.

    Raises:
        ValueError: wrong shape, fewer than two values, or a value that is not finite (PSNR of equal images is not).
    """
    x = _values(values, "values")
    _check_level(level)
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), float(x[0]))
    interval = _bootstrap(x, level, seed, resamples, "BCa")
    if not np.isfinite([interval.low, interval.high]).all():
        interval = _bootstrap(x, level, seed, resamples, "percentile")
    return Interval(float(x.mean()), float(interval.low), float(interval.high))


def _bootstrap(x: np.ndarray, level: float, seed: int, resamples: int, method: str) -> Any:
    # Both silence the undefined BCa, which the percentile interval then answers.
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        result = scipy.stats.bootstrap(
            (x,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, 4_000_000 // len(x)),  # bounds memory to tens of MB
            confidence_level=level,
            method=method,
            random_state=np.random.default_rng(seed),
        )
    return result.confidence_interval


def paired_difference(
    a: Tensor | np.ndarray | Sequence[float],
    b: Tensor | np.ndarray | Sequence[float],
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of `a - b` over the same images, with its bootstrap interval; two methods differ if it excludes 0.

    Args:
        a: `(n,)` values of one method.
        b: `(n,)` values of the other, of the same images in the same order.
        level: confidence, in (0, 1).
        seed: of the resampling.
    """
    x, y = _values(a, "a"), _values(b, "b")
    if len(x) != len(y):
        raise ValueError(f"a and b must hold the same images in the same order, got {len(x)} and {len(y)} values")
    return bootstrap_ci(x - y, level, seed)


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """A rate (retrieval top-1, class agreement) with Wilson's score interval, which keeps its width at 0 and at n of n.

    Args:
        successes: from 0 to `trials`.
        trials: 1 or more.
        level: confidence, in (0, 1).
    """
    _check_level(level)
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"successes must be from 0 to trials and trials 1 or more, got {successes} of {trials}")
    interval = scipy.stats.binomtest(int(successes), int(trials)).proportion_ci(level, method="wilson")
    return Interval(successes / trials, float(interval.low), float(interval.high))


def rate(hits: Tensor, level: float = 0.95) -> Interval:
    """Share of True in bool `(B,)`, with Wilson's interval."""
    if hits.dtype != torch.bool or hits.ndim != 1:
        raise ValueError(f"hits is {tuple(hits.shape)} of {hits.dtype}; it must be bool (B,)")
    return wilson_interval(int(hits.sum()), len(hits), level)


def _values(values: Tensor | np.ndarray | Sequence[float], name: str) -> np.ndarray:
    array = (
        values.detach().double().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)
    )
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{name} must hold one value per image for two images or more, got shape {array.shape}")
    if not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array))
        raise ValueError(f"{name} must be finite, got NaN or infinity at index {bad[:8].tolist()}")
    return array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, for example 0.95, got {level}")
