"""Replies to additive noise: average what was sent more than once, and weigh differences as the noise makes them likely.

For Gaussian noise of covariance S the log-likelihood of an estimate is `-|S^(-1/2) (f(x_hat) - h)|^2 / 2` and a constant. A defence
says what its noise is by `whiten(delta)`, which multiplies differences `(B, N, D)` by S^(-1/2), or by `std`, the standard deviation
of independent noise of one strength. Other noise of that strength (Laplace) is treated as if it were Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dragkit.defenses import BaseDefence
from dragkit.distance import prepared

Whitening = Callable[[Tensor], Tensor]
"""Differences of tokens `(B, N, D)` to numbers `(B, ...)` in units of the noise's standard deviation."""


@dataclass(frozen=True)
class Mahalanobis:
    """Squared distance in units of the noise, `|W (h_hat - h)|^2 / (2 |W h|^2)`.

    The division is by a constant of each message. It leaves the most likely estimate where it is and gives the scale of
    `cosine_distance`, which an attack's other terms are tuned for: for tokens of equal length, 1 means orthogonal. So the strength
    of isotropic noise cancels, and k averaged messages, whose noise is smaller by sqrt(k) throughout, need no other W.

    Attributes:
        whiten: W. With a mask, missing tokens are set to zero before it, which is exact if W acts within tokens.
    """

    whiten: Whitening

    def __call__(self, h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        h_hat, h, mask = prepared(h_hat, h, mask)
        with torch.autocast(h.device.type, enabled=False):
            error = self.whiten((h_hat - h) * mask[..., None]).flatten(1).square().sum(1)
            size = self.whiten(h * mask[..., None]).flatten(1).square().sum(1)
        return error / (2 * size).clamp(min=1e-12)


def linear_whitening(matrix: Tensor) -> Whitening:
    """W as a matrix: `(D, r)`, applied to every token, or `(N D, r)`, applied to all tokens of an image at once.

    Raises (when applied):
        ValueError: a matrix for another number of features.
    """

    def whiten(delta: Tensor) -> Tensor:
        w = matrix.to(delta)
        if len(w) == delta.shape[2]:
            return delta @ w
        if len(w) == delta[0].numel():
            return delta.flatten(1) @ w
        raise ValueError(
            f"the whitening matrix is {tuple(w.shape)}; for tokens {tuple(delta.shape)} it must have {delta.shape[2]} or "
            f"{delta[0].numel()} rows"
        )

    return whiten


def whitening_of(defence: BaseDefence) -> Whitening:
    """What the defence says about its noise.

    Raises:
        ValueError: it says nothing.
    """
    whiten = getattr(defence, "whiten", None)
    if callable(whiten):
        return whiten
    std = getattr(defence, "std", None)
    if isinstance(std, float | int) and std > 0:
        return lambda delta: delta / std
    raise ValueError(
        f"reply 'likelihood' needs the covariance of additive noise, and {type(defence).__name__} has neither whiten(delta) "
        "nor a positive std"
    )


def average(messages: Tensor) -> Tensor:
    """Mean of k messages of the same photo, number by number over those in which it is not zero: `(k, B, ...)` to `(B, ...)`.

    A zero is taken for a number (or token) that was left out. Noise never leaves one, so there this is the plain mean.
    """
    times = (messages != 0).sum(0)
    return messages.sum(0) / times.clamp(min=1)
