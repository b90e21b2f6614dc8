"""Random messages whose likelihood can be computed, which is all that a gallery bound needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 512  # photos whose features are widened to float64 at a time


class Mechanism(Protocol):
    """How features become a message, and how likely a message is. Any class with these two methods will do."""

    def send(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Features `(Q, m)` to one random message each, `(Q, k)`."""

    def log_likelihood(self, z: Tensor, features: Tensor) -> Tensor:
        """Log-likelihood `(Q, N)` of messages `(Q, k)` if the features had been `(N, m)`, up to a constant per message."""


@dataclass(frozen=True)
class Gaussian:
    """`z = f(x) + noise`, in units in which the noise is white: `z = whiten @ f / std + N(0, I)`.

    k messages about one photo with independent noise tell as much as one with `std / sqrt(k)`.

    Attributes:
        std: of the noise, one number, or one per feature `(m,)`.
        whiten: `(k, m)`, for noise of covariance S a matrix with `whiten.T @ whiten = S^-1`. With k < m it says that only a
            projection is sent. None for the identity.

    Raises:
        ValueError: a std that is not finite and positive, or a matrix that is not finite or not `(k, m)`.
    """

    std: float | Tensor = 1.0
    whiten: Tensor | None = None

    def __post_init__(self) -> None:
        std = torch.as_tensor(self.std)
        if std.ndim > 1 or not bool((std.isfinite() & (std > 0)).all()):
            raise ValueError(f"std is {self.std}; it must be finite and above 0, one number or one per feature")
        if self.whiten is not None and (self.whiten.ndim != 2 or not bool(self.whiten.isfinite().all())):
            raise ValueError(f"whiten is {tuple(self.whiten.shape)}; it must be a finite matrix (k, m)")

    def white(self, features: Tensor) -> Tensor:
        """Features `(N, m)` in units of the noise, float64 `(N, k)`."""
        scaled = features.double() / self.std
        return scaled if self.whiten is None else scaled @ self.whiten.double().T

    def send(self, features: Tensor, generator: torch.Generator) -> Tensor:
        sent = self.white(features)
        return sent + torch.randn(sent.shape, generator=generator, dtype=sent.dtype)

    def log_likelihood(self, z: Tensor, features: Tensor) -> Tensor:
        # -|z - f|^2 / 2 without |z|^2, which is the same for every photo; around a common centre, so that little cancels.
        centre = z.mean(0)
        columns = []
        for block in features.split(BLOCK):
            f = self.white(block) - centre
            columns.append((z - centre) @ f.T - f.square().sum(1) / 2)
        return torch.cat(columns, 1)


@dataclass(frozen=True)
class Laplace:
    """`z = f(x) + noise` with independent Laplace noise of density `exp(-|u| / scale) / (2 scale)`; its deviation is sqrt(2) scale.

    Raises:
        ValueError: a scale that is not finite and positive.
    """

    scale: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale is {self.scale}; it must be finite and above 0")

    def send(self, features: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(features.shape, generator=generator, dtype=torch.float64) - 0.5
        # rand may give 0 exactly, where the logarithm is infinite
        return features.double() - self.scale * u.sign() * (-2 * u.abs()).clamp_min(-1 + 1e-16).log1p()

    def log_likelihood(self, z: Tensor, features: Tensor) -> Tensor:
        return torch.cat([-torch.cdist(z, block.double(), p=1) / self.scale for block in features.split(BLOCK)], 1)
