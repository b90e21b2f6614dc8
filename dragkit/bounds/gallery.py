"""Gallery bounds: how well the best attacker of all does who only has to find the photo in a gallery they hold.

Draw a gallery of N photos x_1..x_N, let X = x_I be one of them at random, and send Z = noise(f(X)). X is then a photo like any
other, and an attacker who is handed the gallery can do no worse than without it. For them the best guess is known exactly,

    sum_j w_j x_j   with   w_j = p(Z | x_j) / sum_i p(Z | x_i),

so its mean squared error is a lower bound on that of every attacker, biased or not, with any prior and any amount of computing:
MMSE >= E |x_I - sum_j w_j x_j|^2 / d. A perfect sampler of the posterior has twice the MMSE.

What it needs, and says:
- It holds on average over photos like those of the gallery, drawn independently, not for one particular photo. Photos that the
  client was trained on may be unlike others in f: if the attack is tried on new photos, compare with galleries of new photos.
- The larger the gallery, the tighter the bound: it says something while the message carries fewer nats than ln N, and falls to
  zero beyond, where the gallery alone gives the photo away.
- The estimate is Monte Carlo. Its interval comes from galleries without a common photo; with fewer than about eight of them a
  bootstrap interval is too narrow.

Derived for this project; the idea of a random gallery is that of random coding arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dragkit.bounds.mechanisms import Mechanism
from dragkit.measures import intervals
from dragkit.measures.intervals import Interval


@dataclass(frozen=True)
class GalleryBound:
    """A lower bound on the mean squared error of every attacker, estimated on M galleries.

    Attributes:
        values: error of the best attacker who holds the gallery, per number of the target, one per gallery `(M,)`.
        nothing: the same for one who receives no message and answers the gallery's mean, `(M,)`.
        nats: lower estimate of what a message tells of the photo, ln N + E log w_I, at most ln N, `(M,)`.
        size: N.
        queries: messages per gallery.
    """

    values: Tensor
    nothing: Tensor
    nats: Tensor
    size: int
    queries: int

    def interval(self, level: float = 0.95) -> Interval:
        """Mean over galleries with its bootstrap interval."""
        return intervals.bootstrap_ci(self.values, level)

    def posterior_sampler(self, level: float = 0.95) -> Interval:
        """The same for attackers whose answer is a perfect sample of p(photo | message): exactly twice the MMSE."""
        return Interval(*(2 * v for v in self.interval(level)))


@dataclass(frozen=True)
class GalleryIdentification:
    """How often the best attacker finds the sent photo among N.

    Attributes:
        ranks: of the sent photo by posterior probability, from 1, `(M, queries)`.
        size: N.
    """

    ranks: Tensor
    size: int

    def top(self, k: int = 1, level: float = 0.95) -> Interval:
        """Share of messages whose photo is among the k most probable, with a Wilson interval (messages taken as independent).

        Raises:
            ValueError: k outside 1..N.
        """
        if not 1 <= k <= self.size:
            raise ValueError(f"k is {k}; it must be from 1 to the gallery's {self.size} photos")
        return intervals.wilson_interval(int((self.ranks <= k).sum()), self.ranks.numel(), level)

    def chance(self, k: int = 1) -> float:
        """The same without a message."""
        return k / self.size


def gallery_mmse(
    targets: Tensor,
    features: Tensor,
    mechanism: Mechanism,
    *,
    size: int,
    generator: torch.Generator,
    queries: int | None = None,
) -> GalleryBound:
    """Lower bound on the mean squared error of any attacker, per number of the target.

    Args:
        targets: what they are after, floats `(P, ...)`: pixels in [0, 1], or any other representation of the photos.
        features: of the same photos, what the client computes before the mechanism, floats `(P, ...)`.
        mechanism: what happens to the features, see `Mechanism`.
        size: N, photos per gallery, at least 2; P // N galleries are drawn without a common photo, at least two.
        generator: of the galleries and of the noise (CPU).
        queries: messages per gallery, each about another of its photos; None for all N.

    Raises:
        ValueError, TypeError: tensors that do not correspond, are not finite floats, or are too few for two galleries.
    """
    targets = _flat("targets", targets)
    if len(targets) != len(features):
        raise ValueError(f"targets holds {len(targets)} photos and features {len(features)}; they must be the same")
    values, nothing, nats = [], [], []
    for drawn in galleries(features, mechanism, size, queries, generator):
        x = targets[drawn.members]
        x = x - x.mean(0)
        guess = drawn.log_posterior.exp().to(x) @ x
        values.append((x[drawn.sent] - guess).double().square().mean())
        nothing.append(x.double().square().mean())
        nats.append(drawn.log_posterior.gather(1, drawn.sent[:, None]).mean() + math.log(size))
    return GalleryBound(torch.stack(values), torch.stack(nothing), torch.stack(nats), size, queries or size)


def gallery_identification(
    features: Tensor,
    mechanism: Mechanism,
    *,
    size: int,
    generator: torch.Generator,
    queries: int | None = None,
) -> GalleryIdentification:
    """How often the attacker who does best at it finds the sent photo among `size`: they name the most probable ones.

    For Gaussian noise these are the nearest features. Photos that are equally probable (duplicates) are put in random order.

    Args, Raises: as `gallery_mmse`, of which it repeats the messages when given a generator in the same state.
    """
    ahead, equal = [], []
    for drawn in galleries(features, mechanism, size, queries, generator):
        own = drawn.log_posterior.gather(1, drawn.sent[:, None])
        ahead.append((drawn.log_posterior > own).sum(1))
        equal.append((drawn.log_posterior == own).sum(1))
    among = torch.stack(equal)
    coin = torch.rand(
        among.shape, generator=generator, dtype=torch.float64
    )  # after all messages, which stay as they were
    return GalleryIdentification(torch.stack(ahead) + (coin * among).long() + 1, size)


class _Draw(NamedTuple):
    """One gallery: its photos `(N,)`, positions in it of those that are sent `(Q,)`, and log w `(Q, N)` of each message."""

    members: Tensor
    sent: Tensor
    log_posterior: Tensor


def galleries(
    features: Tensor, mechanism: Mechanism, size: int, queries: int | None, generator: torch.Generator
) -> Iterator[_Draw]:
    """Photos in random galleries without overlap, and what a message of each says of all photos of its gallery.

    Args:
        features: what the mechanism sends of each photo, floats `(P, ...)`.
        mechanism: sends, and knows how likely a message is for each photo.
        size: photos in a gallery, from 2 to half of `P`.
        queries: photos of each gallery that are sent; None means all.
        generator: of the galleries and of what the mechanism draws.

    Yields:
        each gallery: its members, which of them were sent, and the log-posterior `(queries, size)` of every message.

    Raises:
        TypeError: features that are not floats. ValueError: `size` or `queries` out of range, features or likelihoods with NaN.
    """
    features = _flat("features", features)
    if size < 2 or len(features) < 2 * size:
        raise ValueError(f"size is {size}; it must be at least 2, and at most half of the {len(features)} photos")
    if queries is not None and not 1 <= queries <= size:
        raise ValueError(f"queries is {queries}; it must be from 1 to the gallery's {size} photos")
    order = torch.randperm(len(features), generator=generator)
    for members in order[: len(order) // size * size].split(size):
        own = features[members]
        sent = torch.randperm(size, generator=generator)[:queries]
        found = mechanism.log_likelihood(mechanism.send(own[sent], generator), own)
        if found.shape != (len(sent), size) or bool(found.isnan().any()):
            raise ValueError(
                f"log_likelihood returned {tuple(found.shape)} or NaN; it must return numbers ({len(sent)}, {size})"
            )
        yield _Draw(members, sent, found.double().log_softmax(1))


def _flat(name: str, values: Tensor) -> Tensor:
    """`(P, ...)` as finite floats `(P, m)`, half precision widened."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(f"{name} must be a tensor of floats (photos as pixels in [0, 1])")
    if values.ndim < 2 or 0 in values.shape:
        raise ValueError(f"{name} is {tuple(values.shape)}; it must be (P, ...), a row per photo")
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinity")
    return values.flatten(1).to(torch.promote_types(values.dtype, torch.float32))
