"""Whether a reconstruction identifies its photo: its rank in a gallery, and the gain over what the prior alone would score.

A picture may look unlike the photo and still single it out, or look fine and show something else. So the photos of a gallery are
ordered by their distance to the reconstruction, in some embedding: the attacker's own (the raw IR), or that of a network which is
not the victim. Like every measurement, all of this sees the photo and none of it is an input of an attack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dragkit.images import validate_images
from dragkit.measures import intervals, metrics
from dragkit.measures.embedding import Embedding
from dragkit.measures.intervals import Interval

DIRECTION = {
    **metrics.DIRECTION,
    "rank": "lower",
    "reciprocal_rank": "higher",
    "top1": "higher",
    "top5": "higher",
    "class_agreement": "higher",
}
"""Whether a higher score means that more leaks, for the image metrics and for the scores of this file."""

NEAR_DUPLICATE = 0.15
"""Token-wise cosine distance in block 6 of the embedded ViT below which two photos count as one.

Chosen on training photos: a tenth more brightness, a blur of one pixel and a crop of one pixel a side moved at least nine in ten
of 60 photos by less than this, and no two of 1,500 different photos were as close.
"""

FeatureMetric = Literal["cosine", "euclidean"]

_TIE = 1e-9  # distances are float64: equal features differ by rounding only


# -- the gallery -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gallery:
    """Photos among which a reconstruction is looked for; the attacked ones come first, in their order.

    Attributes:
        photos: `(G, 3, S, S)` in [0, 1].
        labels: `(G,)`.
        indices: of the photos in the set that the gallery was chosen from.
        attacked: how many were attacked; the truth of reconstruction i is gallery photo i.
        removed: indices (in that set) of near-duplicates that were left out.
        threshold: the distance below which two photos counted as one.
    """

    photos: Tensor
    labels: Tensor
    indices: list[int]
    attacked: int
    removed: list[int] = field(default_factory=list)
    threshold: float = NEAR_DUPLICATE

    @property
    def truth(self) -> Tensor:
        """Gallery position of each attacked photo, `(attacked,)`."""
        return torch.arange(self.attacked)

    @classmethod
    def build(
        cls,
        photos: Tensor,
        labels: Tensor,
        attacked: int,
        size: int,
        *,
        embedding: Embedding,
        threshold: float = NEAR_DUPLICATE,
    ) -> Gallery:
        """The first `size` of the photos that differ from each other; the attacked ones come first and always stay.

        A photo closer than `threshold` to one already in the gallery is left out and the next one takes its place.

        Args:
            photos: `(n, 3, S, S)` in [0, 1], the attacked ones first. Give more than `size`, since some may be left out.
            labels: `(n,)`, their classes.
            attacked: number of attacked photos.
            size: number of photos in the gallery.
            embedding: where distances are measured. It should be the same for every victim, so that all are looked for in one
                gallery.
            threshold: in that embedding, in [0, 2]; 0 keeps duplicates. The default was chosen for the embedded ViT.

        Raises:
            ValueError: sizes that do not fit the photos, or too many near-duplicates to fill the gallery.
        """
        if tuple(labels.shape) != (len(photos),):
            raise ValueError(f"labels is {tuple(labels.shape)}; it must be ({len(photos)},), one per photo")
        if not 1 <= attacked <= size <= len(photos):
            raise ValueError(
                f"attacked is {attacked} and size is {size}; they must satisfy 1 <= attacked <= size <= {len(photos)}, "
                "the number of photos"
            )
        if not 0 <= threshold <= 2:
            raise ValueError(f"threshold is {threshold}; a cosine distance lies between 0 and 2")
        features = embedding(photos)
        distance = pairwise_distance(features, features)
        kept = list(range(attacked))
        removed: list[int] = []
        for i in range(attacked, len(photos)):
            if len(kept) == size:
                break
            (kept if distance[i, kept].min() >= threshold else removed).append(i)
        if len(kept) < size:
            raise ValueError(
                f"threshold is {threshold}: only {len(kept)} of {len(photos)} photos are that far apart, size is {size}; "
                "lower one of them"
            )
        return cls(photos[kept], labels[kept], kept, attacked, removed, threshold)


# -- retrieval -------------------------------------------------------------------------------------------------------


class RetrievalResult(NamedTuple):
    """How often the photo is found. Rates have Wilson intervals, the mean reciprocal rank a bootstrap interval.

    `chance_*` is the expectation of a guess that knows nothing: a uniformly random order of the candidates.
    """

    ranks: Tensor  # (B,), from 1
    top1: Interval
    top5: Interval
    mrr: Interval
    chance_top1: float
    chance_top5: float
    chance_mrr: float


def pairwise_distance(a: Tensor, b: Tensor, metric: FeatureMetric = "cosine") -> Tensor:
    """Distances `(A, B)` in float64 between features `(A, D)` or `(A, N, D)` and features of the same kind.

    Args:
        a, b: finite floats.
        metric: "cosine" is 1 - cos of each token, averaged over tokens; "euclidean" that of all numbers together.

    Raises:
        TypeError, ValueError: not finite float features of one shape, or an unknown metric.
    """
    for name, features in (("a", a), ("b", b)):
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor of features")
        if features.ndim not in (2, 3) or 0 in features.shape or not bool(features.isfinite().all()):
            raise ValueError(f"{name} must be finite, (B, D) or (B, N, D); got shape {tuple(features.shape)} or NaN")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"a is {tuple(a.shape)} and b is {tuple(b.shape)}; they must agree after the first axis")
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    if metric == "euclidean":
        return torch.cdist(a.flatten(1), b.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    if metric != "cosine":
        raise ValueError(f"metric is {metric!r}; it must be 'cosine' or 'euclidean'")
    tokens = a.shape[1] if a.ndim == 3 else 1
    x, y = (torch.nn.functional.normalize(features, dim=-1).flatten(1) for features in (a, b))
    return 1 - x @ y.T / tokens


def retrieval_ranks(queries: Tensor, gallery: Tensor, truth: Tensor, metric: FeatureMetric = "cosine") -> Tensor:
    """Rank `(B,)` of the truth among the whole gallery, 1 for the nearest; photos as near as the truth count before it.

    Args:
        queries: features of reconstructions, `(B, D)` or `(B, N, D)`; or the tokens of received IRs themselves, which an attacker
            who has a gallery may compare without any reconstruction.
        gallery: features of the gallery, `(G, D)` or `(G, N, D)`.
        truth: gallery position of each query's photo, integers `(B,)`.
        metric: see `pairwise_distance`.

    Raises:
        ValueError, TypeError: shapes that do not fit, features that are not finite, positions outside the gallery.
    """
    return _ranks(pairwise_distance(queries, gallery, metric), truth, None)


def same_class_ranks(
    queries: Tensor, gallery: Tensor, truth: Tensor, labels: Tensor, metric: FeatureMetric = "cosine"
) -> tuple[Tensor, Tensor]:
    """Rank of the truth among gallery photos of its own class only: what leaks of the photo beyond its class.

    Args:
        labels: class of each gallery photo, `(G,)`. The rest as in `retrieval_ranks`.

    Returns:
        ranks `(B,)` from 1, and how many photos each truth was ranked among, itself included, `(B,)`.
    """
    if tuple(labels.shape) != (len(gallery),):
        raise ValueError(f"labels is {tuple(labels.shape)}; it must be ({len(gallery)},), one per gallery photo")
    distance = pairwise_distance(queries, gallery, metric)
    _check_truth(truth, distance)
    labels = labels.cpu()
    among = labels[truth.cpu()][:, None] == labels
    return _ranks(distance, truth, among), among.sum(1)


def retrieval(ranks: Tensor, candidates: int | Tensor, level: float = 0.95) -> RetrievalResult:
    """Top-1, top-5 and mean reciprocal rank of `ranks` `(B,)`, B at least 2, with intervals and chance levels.

    Args:
        ranks: from 1.
        candidates: photos that each truth was ranked among, one number or `(B,)`.
        level: confidence, in (0, 1).

    Raises:
        ValueError: a rank outside 1..candidates.
    """
    of = torch.as_tensor(candidates).cpu().expand(len(ranks))
    ranks = ranks.cpu()
    if ranks.ndim != 1 or bool(((ranks < 1) | (ranks > of)).any()):
        raise ValueError(f"ranks must be (B,) within 1..candidates, got {ranks.tolist()[:8]} among {of.tolist()[:8]}")
    top1, top5 = (intervals.wilson_interval(int((ranks <= k).sum()), len(ranks), level) for k in (1, 5))
    chance = [(1 / g, min(5, g) / g, float((1 / np.arange(1, g + 1)).mean())) for g in of.tolist()]
    return RetrievalResult(
        ranks, top1, top5, intervals.bootstrap_ci(1 / ranks.double(), level), *np.mean(chance, 0).tolist()
    )


def identify(
    images: Tensor, gallery: Gallery, embedding: Embedding, features: Tensor | None = None
) -> dict[str, RetrievalResult]:
    """Look reconstructions `(B, 3, H, W)` of the gallery's attacked photos up, in "gallery" and in "same class".

    Args:
        images: one per attacked photo, in the gallery's order.
        features: `embedding(gallery.photos)` where it is at hand, which saves most of the work for a second attack.

    Raises:
        ValueError: not one reconstruction per attacked photo.
    """
    if len(images) != gallery.attacked:
        raise ValueError(f"images holds {len(images)}; the gallery was built for {gallery.attacked} attacked photos")
    queries = embedding(images)
    features = embedding(gallery.photos) if features is None else features
    among_all = retrieval_ranks(queries, features, gallery.truth)
    return {
        "gallery": retrieval(among_all, len(gallery.photos)),
        "same class": retrieval(*same_class_ranks(queries, features, gallery.truth, gallery.labels)),
    }


def _ranks(distance: Tensor, truth: Tensor, among: Tensor | None) -> Tensor:
    _check_truth(truth, distance)
    own = distance.gather(1, truth.cpu()[:, None])
    not_farther = distance <= own + _TIE
    return (not_farther if among is None else not_farther & among).sum(1)


def _check_truth(truth: Tensor, distance: Tensor) -> None:
    if truth.dtype != torch.int64 or tuple(truth.shape) != (len(distance),):
        raise ValueError(
            f"truth is {tuple(truth.shape)} of {truth.dtype}; it must be int64 ({len(distance)},), one position per query"
        )
    if bool(((truth < 0) | (truth >= distance.shape[1])).any()):
        raise ValueError(f"truth holds {truth.tolist()[:8]}; the gallery has positions 0 to {distance.shape[1] - 1}")


# -- against the prior alone, and among restarts ---------------------------------------------------------------------


def leakage_gain(
    scores: Tensor, prior_only_scores: Tensor, metric: str, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """How much better an attack scores than samples of its prior that never saw the IR: the part that the IR gave away.

    Args:
        scores, prior_only_scores: `(B,)` of the same photos in the same order.
        metric: what they are, a key of `DIRECTION`; its sign is turned so that a positive gain means leakage.
        level: confidence, in (0, 1).
        seed: of the bootstrap.

    Raises:
        ValueError: unknown metric, or scores that `metrics.paired_difference` refuses.
    """
    if metric not in DIRECTION:
        raise ValueError(f"metric is {metric!r}; it must be one of {', '.join(DIRECTION)}")
    better, worse = (scores, prior_only_scores) if DIRECTION[metric] == "higher" else (prior_only_scores, scores)
    return intervals.paired_difference(better, worse, level, seed)


def evidence_map(samples: Tensor) -> Tensor:
    """Standard deviation of every pixel over restarts, averaged over the colours, `(B, H, W)`.

    Where it is near 0 the restarts agree: the message determines the pixel (or the prior knows no alternative, so compare with
    the map of samples of the prior alone). Where it is large the prior invented what is seen.

    Args:
        samples: `(S, B, 3, H, W)` in [0, 1], S at least 2, as `dragkit.attacks.restarts` returns; leave failed restarts out.

    Raises:
        ValueError: another shape, or values that are no images.
    """
    if samples.ndim != 5 or len(samples) < 2:
        raise ValueError(f"samples is {tuple(samples.shape)}; it must be (S, B, 3, H, W) with two restarts or more")
    validate_images(samples.flatten(0, 1), "samples")
    return samples.std(0).mean(1)


def invention(samples: Tensor) -> Tensor:
    """Mean of `evidence_map` per image, `(B,)`: 0 where every restart gives the same picture."""
    return evidence_map(samples).mean((1, 2))
