"""How often a guess comes near the photo without any message: the kappa of `success_bound`.

kappa(eta) is the largest probability, over all constant guesses g, that |X - g|^2 / d <= eta. Nobody can search all guesses, so
it is estimated over candidates, and the estimate may be too low: a better guess may exist.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import scipy.cluster.vq
import scipy.stats
import torch
from torch import Tensor


@dataclass(frozen=True)
class BaselineSuccess:
    """Success without a message, of guesses chosen on one half of the photos and tried on the other.

    Attributes:
        threshold: mean squared error, per number, up to which a guess is a success.
        successes: of the guess that was best on the first half.
        trials: photos in the second half.
        most: successes of the candidate that turned out best on the second half.
        candidates: how many were tried.
        guess: the chosen guess, in the shape of a photo.
        level: one-sided confidence of the limits.
    """

    threshold: float
    successes: int
    trials: int
    most: int
    candidates: int
    guess: Tensor
    level: float

    @property
    def rate(self) -> float:
        """Measured success of the chosen guess."""
        return self.successes / self.trials

    @property
    def upper(self) -> float:
        """Upper confidence limit (Clopper and Pearson) of the chosen guess; 3 / n where none of n succeeded, at 95 %."""
        return _upper(self.successes, self.trials, 1 - self.level)

    @property
    def upper_any(self) -> float:
        """Upper confidence limit that holds for all candidates at once (Bonferroni): the kappa to be careful with."""
        return _upper(self.most, self.trials, (1 - self.level) / self.candidates)


def baseline_success(
    photos: Tensor,
    threshold: float,
    *,
    generator: torch.Generator,
    guesses: int = 256,
    clusters: int = 16,
    level: float = 0.95,
) -> BaselineSuccess:
    """Estimate of kappa(threshold).

    The candidates come from a random half of the photos: the mean photo, k-means centres, `guesses` of the photos, and each of
    these moved to the mean of the photos near it.

    Args:
        photos: floats `(P, ...)`, at least 4, drawn independently.
        threshold: mean squared error per number, above 0.
        generator: of the halves and candidates (CPU).
        guesses, clusters: numbers of candidates, fewer where there are not enough photos.
        level: one-sided confidence, in (0, 1).

    Raises:
        ValueError, TypeError: photos that are not finite floats or too few, and numbers outside their ranges.
    """
    if not isinstance(photos, Tensor) or not photos.is_floating_point():
        raise TypeError("photos must be a tensor of floats, pixels in [0, 1]")
    if photos.ndim < 2 or len(photos) < 4 or not bool(photos.isfinite().all()):
        raise ValueError(
            f"photos is {tuple(photos.shape)} or holds NaN; it must be finite (P, ...) with four photos or more"
        )
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it is a mean squared error, above 0")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1")
    if guesses < 1 or clusters < 1:
        raise ValueError(f"guesses is {guesses} and clusters is {clusters}; both must be at least 1")
    flat = photos.flatten(1).float()[torch.randperm(len(photos), generator=generator)]
    choose, trial = flat[: len(flat) // 2], flat[len(flat) // 2 :]
    candidates = candidate_guesses(choose, threshold, generator, guesses, clusters)
    chosen = int(near(candidates, choose, threshold).sum(1).argmax())
    hits = near(candidates, trial, threshold).sum(1)
    return BaselineSuccess(
        threshold,
        int(hits[chosen]),
        len(trial),
        int(hits.max()),
        len(candidates),
        candidates[chosen].view(photos.shape[1:]),
        level,
    )


def candidate_guesses(
    photos: Tensor, threshold: float, generator: torch.Generator, guesses: int = 256, clusters: int = 16
) -> Tensor:
    """Guesses `(C, d)` made from photos `(P, d)`, see `baseline_success`. The first is the mean photo."""
    centres = _centres(photos, min(clusters, len(photos)), generator)
    first = torch.cat([photos.mean(0, keepdim=True), centres, photos[:guesses]])
    matched = near(first, photos, threshold)
    first_moved = matched.to(photos) @ photos / matched.sum(1, keepdim=True).clamp_min(1)
    return torch.cat([first, first_moved[matched.any(1)]])


def near(guesses: Tensor, photos: Tensor, threshold: float) -> Tensor:
    """Whether `|photo - guess|^2 / d <= threshold`, bool `(C, P)`, for guesses `(C, d)` and photos `(P, d)`."""
    centre = photos.mean(0)
    a, b = guesses - centre, photos - centre
    squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return squared <= threshold * photos.shape[1]


def _centres(photos: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Means of the clusters that k-means finds in a random projection, which is quick and good enough for candidates."""
    project = torch.randn(photos.shape[1], 32, generator=generator) / photos.shape[1] ** 0.5
    small = ((photos - photos.mean(0)) @ project).double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a cluster that lost all its photos, which is left out below
        _, label = scipy.cluster.vq.kmeans2(small, small[:clusters], minit="matrix")
    member = torch.nn.functional.one_hot(torch.from_numpy(label).long(), clusters).T.to(photos)
    member = member[member.sum(1) > 0]
    return member @ photos / member.sum(1, keepdim=True)


def _upper(successes: int, trials: int, alpha: float) -> float:
    return 1.0 if successes == trials else float(scipy.stats.beta.ppf(1 - alpha, successes + 1, trials - successes))
