"""Distances for an attacker who knows the defence: over what arrived, over sets, over what a mask or a secret basis leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dragkit.distance import cosine_distance, prepared

_TINY = 1e-12  # keeps a quotient finite where an image is constant


# -- channels and numbers that are missing, or were scaled --------------------------------------------------------------


def channel_cosine_distance(h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
    """Channel-wise cosine distance, 1 - cos over the tokens of each channel, averaged over the channels that are not zero in `h`.

    A gain per channel, shared by all tokens of an image, cancels exactly: DISCO's soft mask (arXiv 2012.11025) is such a gain.

    Args:
        h_hat: the estimate, `(B, N, D)`.
        h: what arrived, `(B, N, D)`.
        mask: which tokens of `h` arrived, bool `(B, N)`; None means all. The others are left out.

    Returns:
        one distance per image, `(B,)` in [0, 2].

    Raises:
        ValueError: as `cosine_distance`.
    """
    h_hat, h, mask = prepared(h_hat, h, mask)
    h_hat, h = h_hat * mask[..., None], h * mask[..., None]
    there = (h != 0).any(1)
    # Gains may be as small as 1e-13, where norms are no longer safe. The largest number of a channel is a gain like any other.
    peaks = (x.detach().abs().amax(1, keepdim=True) for x in (h_hat, h))
    a, b = (x / peak.where(peak > 0, 1) for x, peak in zip((h_hat, h), peaks, strict=True))
    cosine = F.cosine_similarity(a, b, dim=1)
    return ((1 - cosine) * there).sum(1) / there.sum(1).clamp(min=1)


def visible_distance(h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
    """`cosine_distance` over the numbers of `h` that are not exactly zero: against dropout, top-k, and whatever else leaves zeros.

    A token without any such number is left out. Where no number is zero, this is `cosine_distance`.

    Args:
        h_hat: the estimate, `(B, N, D)`.
        h: what arrived, `(B, N, D)`.
        mask: which tokens of `h` arrived, bool `(B, N)`; None means all. The others are left out.

    Returns:
        one distance per image, `(B,)` in [0, 2].

    Raises:
        ValueError: as `cosine_distance`, or an image of zeros.
    """
    h_hat, h, mask = prepared(h_hat, h, mask)
    seen = (h != 0) & mask[..., None]
    return cosine_distance(h_hat * seen, h * seen, seen.any(-1))


@dataclass(frozen=True)
class LoudChannels:
    """`cosine_distance` over the channels that a mask on channels (DISCO) has left loud.

    Attributes:
        threshold: a channel counts if its mean |h| over the tokens that arrived exceeds `threshold` times the average channel's.

    Raises:
        ValueError: threshold not in [0, 1).
    """

    threshold: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; it is a share of the average channel's energy, in [0, 1)")

    def __call__(self, h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        h_hat, h, mask = prepared(h_hat, h, mask)
        energy = _energy(h, mask)
        loud = energy > self.threshold * energy.mean(1, keepdim=True)
        return cosine_distance(h_hat * loud[:, None], h * loud[:, None], mask)


@dataclass(frozen=True)
class TopChannels:
    """`cosine_distance` over the loudest channels by rank, for an attacker who knows how many were kept, not how loud they are.

    Attributes:
        share: of the channels that are compared, in (0, 1].

    Raises:
        ValueError: share not in (0, 1].
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; the share of the channels that are compared is in (0, 1]")

    def __call__(self, h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        h_hat, h, mask = prepared(h_hat, h, mask)
        kept = max(1, round(self.share * h.shape[2]))
        top = torch.zeros_like(h[:, 0]).scatter(1, _energy(h, mask).topk(kept).indices, 1.0)
        return cosine_distance(h_hat * top[:, None], h * top[:, None], mask)


# -- a secret basis of the features -------------------------------------------------------------------------------------


def token_gram_distance(h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compare the cosines between all pairs of tokens of an image: no rotation or permutation of the features changes them.

    `|G - G_hat|^2 / |G - mean(G)|^2` with G the Gram matrix of tokens of unit length, over the pairs that arrived: 0 where all
    pairs agree, 1 for the best constant guess.

    Args:
        h_hat: the estimate, `(B, N, D)`.
        h: what arrived, `(B, N, D)`.
        mask: which tokens of `h` arrived, bool `(B, N)`; None means all. The others are left out.

    Returns:
        one distance per image, `(B,)`, at least 0.

    Raises:
        ValueError: as `cosine_distance`.
    """
    h_hat, h, mask = prepared(h_hat, h, mask)
    with torch.autocast(h.device.type, enabled=False):
        g_hat, g = (F.normalize(x, dim=-1) @ F.normalize(x, dim=-1).mT for x in (h_hat, h))
    pairs = (mask[:, :, None] & mask[:, None, :]).to(g)
    mean = (g * pairs).sum((1, 2), keepdim=True) / pairs.sum((1, 2), keepdim=True)
    spread = ((g - mean).square() * pairs).sum((1, 2))
    return ((g - g_hat).square() * pairs).sum((1, 2)) / spread.clamp(min=_TINY)


# -- sets of tokens: the patches arrived in another order --------------------------------------------------------------


@dataclass(frozen=True)
class Gram:
    """Compare second moments of the patch tokens, which do not depend on their order; prefix tokens by their cosine.

    `|G - G_hat|^2 / (2 |G|^2)` with G = H^T H / n over patch tokens of unit length. It weighs as many tokens as arrived.

    Attributes:
        prefix_tokens: tokens in front that keep their place (`client.layout.prefix_tokens`).
    """

    prefix_tokens: int

    def __call__(self, h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        return _with_prefix(self.prefix_tokens, _moment_distance, h_hat, h, mask)


def gram_distance(h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
    """`Gram` for tokens without a prefix.

    Args:
        h_hat: the estimate, `(B, N, D)`.
        h: what arrived, `(B, N, D)`.
        mask: which tokens of `h` arrived, bool `(B, N)`; None means all.

    Returns:
        one distance per image, `(B,)`, at least 0.

    Raises:
        ValueError: as `cosine_distance`.
    """
    return Gram(0)(h_hat, h, mask)


@dataclass(frozen=True)
class SlicedWasserstein:
    """Compare the patch tokens as a cloud of points, sorted along random directions (Bonneel et al. 2015); prefix by its cosine.

    Half of the mean squared difference times D, for tokens of unit length, so that a single token would give 1 - cos on average.
    Where tokens are missing, their sorted values are interpolated to as many as the estimate has.

    Attributes:
        prefix_tokens: tokens in front that keep their place.
        projections: number of directions.
        seed: of the directions.

    Raises:
        ValueError: fewer than one projection.
    """

    prefix_tokens: int
    projections: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.projections < 1:
            raise ValueError(f"projections is {self.projections}; at least one direction is needed")

    def __call__(self, h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        return _with_prefix(self.prefix_tokens, self.of_sets, h_hat, h, mask)

    def of_sets(self, h_hat: Tensor, h: Tensor, mask: Tensor) -> Tensor:
        directions = _directions(h.shape[2], self.projections, self.seed).to(h)
        a = (F.normalize(h_hat, dim=-1) @ directions).sort(1).values
        b = (F.normalize(h, dim=-1) @ directions).masked_fill(~mask[..., None], torch.inf).sort(1).values
        n, places = mask.sum(1, keepdim=True), h.shape[1]
        at = (torch.arange(places, device=h.device).to(h) + 0.5) / places * n - 0.5
        at = torch.minimum(at.clamp(min=0), n - 1)
        low = at.floor().long()
        low_b, high_b = (b.gather(1, i[..., None].expand_as(b)) for i in (low, torch.minimum(low + 1, n - 1)))
        quantiles = torch.lerp(low_b, high_b, (at - low)[..., None].expand_as(b))
        return (a - quantiles).square().mean((1, 2)) * h.shape[2] / 2


@dataclass(frozen=True, eq=False)
class Assignment:
    """`cosine_distance` after every patch token that arrived was matched with the nearest token of the estimate, one to one.

    The matching is solved anew at every call (scipy, well under a millisecond for 64 tokens), so there is nothing to keep.

    Attributes:
        prefix_tokens: tokens in front that keep their place.
        places: log-probability of each place for each token, in the order of the message, `(B, P, P)`; None where nothing is known.
        trust: weight of `places` beside the cosine distance of tokens; chosen on training photos.

    Raises:
        ValueError: when called, with messages that `places` does not fit.
    """

    prefix_tokens: int
    places: Tensor | None = None
    trust: float = 0.2

    def rows(self, index: Tensor | slice) -> Assignment:
        """The distance of the messages of some of the images, in this order."""
        return self if self.places is None else replace(self, places=self.places[index])

    def __call__(self, h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        h_hat, h, mask = prepared(h_hat, h, mask, self.prefix_tokens)
        p = self.prefix_tokens
        with torch.autocast(h.device.type, enabled=False), torch.no_grad():
            cost = 1 - F.normalize(h[:, p:], dim=-1) @ F.normalize(h_hat[:, p:], dim=-1).mT
            if self.places is not None:
                if self.places.shape != cost.shape:
                    raise ValueError(f"places is {tuple(self.places.shape)}; the messages have {tuple(cost.shape)}")
                cost = cost - self.trust * self.places.to(cost)
        places = match(cost, mask[:, p:]).clamp(min=0)
        matched = h_hat[:, p:].gather(1, places[..., None].expand_as(h_hat[:, p:]))
        return cosine_distance(torch.cat([h_hat[:, :p], matched], 1), h, mask)


def match(cost: Tensor, mask: Tensor | None = None) -> Tensor:
    """The place of every token that makes the sum of costs smallest, no place taken twice (Hungarian method).

    Args:
        cost: of putting token i at place j, `(B, N, P)` with P at least the number of tokens that arrived.
        mask: which tokens arrived, bool `(B, N)`; None means all.

    Returns:
        places `(B, N)`, int64; -1 for tokens that did not arrive.
    """
    from scipy.optimize import linear_sum_assignment

    places = torch.full(cost.shape[:2], -1)
    there = torch.ones(cost.shape[:2], dtype=torch.bool) if mask is None else mask.cpu()
    for i, one in enumerate(cost.detach().double().nan_to_num(posinf=1e6, neginf=-1e6).cpu()):
        rows, columns = linear_sum_assignment(one[there[i]].numpy())
        places[i, there[i].nonzero()[rows, 0]] = torch.from_numpy(columns)
    return places.to(cost.device)


def _with_prefix(
    prefix: int,
    of_sets: Callable[[Tensor, Tensor, Tensor], Tensor],
    h_hat: Tensor,
    h: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Prefix tokens compared in their places, patch tokens as sets; every token that arrived weighs the same."""
    h_hat, h, mask = prepared(h_hat, h, mask, prefix)
    with torch.autocast(h.device.type, enabled=False):
        of_patches = of_sets(h_hat[:, prefix:], h[:, prefix:], mask[:, prefix:])
    of_prefix = (1 - F.cosine_similarity(h_hat[:, :prefix], h[:, :prefix], dim=-1)) * mask[:, :prefix]
    return (of_prefix.sum(1) + mask[:, prefix:].sum(1) * of_patches) / mask.sum(1)


def _moment_distance(h_hat: Tensor, h: Tensor, mask: Tensor) -> Tensor:
    a, b = F.normalize(h_hat, dim=-1), F.normalize(h, dim=-1) * mask[..., None]
    g_hat, g = a.mT @ a / h.shape[1], b.mT @ b / mask.sum(1)[:, None, None]
    return (g - g_hat).square().sum((1, 2)) / (2 * g.square().sum((1, 2))).clamp(min=_TINY)


def _energy(h: Tensor, mask: Tensor) -> Tensor:
    """Mean |h| of each channel over the tokens that arrived, `(B, D)`."""
    return (h.abs() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@lru_cache(maxsize=16)
def _directions(features: int, count: int, seed: int) -> Tensor:
    """Random unit vectors, `(features, count)`, the same on every machine."""
    with torch.inference_mode(False), torch.no_grad():
        return F.normalize(torch.randn(features, count, generator=torch.Generator().manual_seed(seed)), dim=0)
