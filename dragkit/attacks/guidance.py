"""Guidance: from a gradient to a direction, and from a direction to a step.

DRAG (arXiv 2509.11724) clips the gradient of the IR distance, smooths it with Adam's moments and takes a step on the sphere where
the sampler's noise would have landed (DSG, arXiv 2402.03201). Each part is one function with the image as the unit: norms are over
the axes (C, H, W) of one image, never over the batch, so that B images together give what B runs of one image give.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each image: `(B, *)` to `(B, 1, 1, 1)` (as many ones as axes)."""
    return per_image(x.flatten(1).norm(dim=1), x)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """`(B,)` values with as many axes as `like`, so that each meets its own image."""
    return values.view(-1, *[1] * (like.ndim - 1))


def clip_norm(grad: Tensor, limit: float | None) -> Tensor:
    """Scale each image's gradient down to norm `limit`, as `torch.nn.utils.clip_grad_norm_` does for one; None leaves it."""
    return grad if limit is None else grad * (limit / (norm(grad) + 1e-6)).clamp(max=1.0)


# -- gradient -> direction -------------------------------------------------------------------------------------------


@dataclass
class AdamState:
    """First and second moment `(B, C, H, W)` and the number of updates; DRAG never resets it."""

    m: Tensor
    v: Tensor
    count: int = 0

    @classmethod
    def zeros_like(cls, z: Tensor) -> AdamState:
        return cls(torch.zeros_like(z), torch.zeros_like(z))


def adam_direction(
    grad: Tensor, state: AdamState, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Tensor:
    """Adam's update direction m_hat / (sqrt(v_hat) + eps) (arXiv 1412.6980); updates `state` in place. Shape of `grad`."""
    state.count += 1
    state.m = betas[0] * state.m + (1 - betas[0]) * grad
    state.v = betas[1] * state.v + (1 - betas[1]) * grad.square()
    m_hat = state.m / (1 - betas[0] ** state.count)
    v_hat = state.v / (1 - betas[1] ** state.count)
    return m_hat / (v_hat.sqrt() + eps)


# -- direction -> displacement from the mean of the DDIM step --------------------------------------------------------


def spherical_step(direction: Tensor, noise: Tensor, sigma: float, rate: float, interpolation: str = "lerp") -> Tensor:
    """DSG: replace the step's noise by a point of the same length, turned towards `-direction` (arXiv 2402.03201, alg. 1).

    Gaussian noise of n dimensions and deviation sigma lies near the sphere of radius r = sqrt(n) sigma. The guided point is
    -r u (u the unit direction), the random one sigma * noise; they are mixed by `rate` and the mixture is brought back to radius r.

    Args:
        direction, noise: `(B, C, H, W)`. rate: 0 ignores the guidance, 1 ignores the noise.
        interpolation: "lerp" (the published code) or "slerp" (along the great circle).

    Returns:
        displacement `(B, C, H, W)` of norm r; an image whose direction is zero keeps its noise, brought to radius r.
    """
    radius = sqrt(direction[0].numel()) * sigma
    unit = direction / norm(direction).clamp_min(torch.finfo(direction.dtype).tiny)
    random, guided = sigma * noise, -radius * unit
    if interpolation == "lerp":
        mixed = torch.lerp(random, guided, rate)
    elif interpolation == "slerp":
        mixed = _slerp(random / norm(random).clamp_min(1e-30), -unit, rate)
    else:
        raise ValueError(f"interpolation is {interpolation!r}; it must be 'lerp' or 'slerp'")
    mixed = torch.where(norm(mixed) > 0, mixed, random)  # nothing to turn towards
    return radius * mixed / norm(mixed).clamp_min(torch.finfo(mixed.dtype).tiny)


def _slerp(a: Tensor, b: Tensor, rate: float) -> Tensor:
    """Point at `rate` of the way from unit vectors `a` to `b` along the great circle."""
    cosine = (a * b).flatten(1).sum(1).clamp(-1 + 1e-7, 1 - 1e-7).view(-1, *[1] * (a.ndim - 1))
    angle = cosine.acos()
    return (torch.sin((1 - rate) * angle) * a + torch.sin(rate * angle) * b) / torch.sin(angle)


def gradient_step(direction: Tensor, noise: Tensor, sigma: float, rate: float) -> Tensor:
    """DPS (arXiv 2209.14687, alg. 1): the step's own noise, plus a plain step of size `rate` against the direction."""
    return sigma * noise - rate * direction


def guided_noise(eps: Tensor, direction: Tensor, a_t: float, rate: float) -> Tensor:
    """UGD's forward guidance (arXiv 2302.07121, eq. 6): eps + rate sqrt(1 - a_t) * direction, before the DDIM step is taken."""
    return eps + rate * sqrt(1 - a_t) * direction


def manifold_step(x0_hat: Tensor, direction: Tensor, rate: float) -> Tensor:
    """MPGD (arXiv 2311.16424, alg. 1): move Tweedie's estimate itself, by `rate` against the direction taken there."""
    return x0_hat - rate * direction
