"""Defences that add chance to every number of the message: Gaussian noise, Laplace noise, dropout.

The strength of noise is given in units of the spread of the IR, so that one number means the same for every model and every cut.
What these defences have to know about the IR is measured on public photos, never on the photo that is sent.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from dragkit.client import Layout, SplitClient
from dragkit.defenses.base import Defence
from dragkit.defenses.public import mean_token, public_tokens, spread


def feature_axis(layout: Layout) -> int:
    """Axis of an IR along which one token lies."""
    return 1 if layout.kind == "BCHW" else -1


def per_feature(layout: Layout, values: Tensor, h: Tensor) -> Tensor:
    """One value per feature, `(D,)`, in a shape that is added to the IR `h`, and in its dtype."""
    return (values[:, None, None] if layout.kind == "BCHW" else values).to(h)


def fill(layout: Layout, h: Tensor, mean: Tensor) -> Tensor:
    """The numbers of a message that are zero, replaced by those of the mean token `(D,)`.

    A token that is missing as a whole stays so: another defence of a chain left it out.
    """
    there = h != 0
    return torch.where(there | ~there.any(feature_axis(layout), keepdim=True), h, per_feature(layout, mean, h))


@dataclass(frozen=True)
class AdditiveNoise(Defence):
    """Independent noise of one standard deviation on every number of the message: `h' = h + std * noise`.

    Its covariance is `std ** 2` times the identity, which is what a likelihood of `h'` needs.

    Attributes:
        scale: standard deviation in units of the spread of the IR.
        std: the same in the numbers of the IR.
    """

    scale: float
    std: float
    name: ClassVar[str] = "noise"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Self:
        scale = 1.0 if value is None else value
        cls._check(scale)
        return cls(client.layout, scale, scale * spread(public_tokens(client, photos)))

    def __post_init__(self) -> None:
        self._check(self.scale)
        if not (math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"std is {self.std}; it must be a finite number above 0")

    @classmethod
    def _check(cls, scale: float) -> None:
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(
                f"{cls.name} is given {scale}; the standard deviation, in units of the spread of the IR, is finite and above 0"
            )

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        return h + self.std * self.draw(h.shape, generator).to(h)

    @staticmethod
    @abstractmethod
    def draw(shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Independent noise of mean 0 and variance 1, float32 on the CPU."""


class GaussianNoise(AdditiveNoise):
    """Normal noise on every number."""

    name: ClassVar[str] = "gaussian"

    @staticmethod
    def draw(shape: torch.Size, generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator)


class LaplaceNoise(AdditiveNoise):
    """Laplace noise on every number, of the same standard deviation: density `exp(-|x| / b) / 2b` with `b = std / sqrt(2)`."""

    name: ClassVar[str] = "laplace"

    @staticmethod
    def draw(shape: torch.Size, generator: torch.Generator) -> Tensor:
        up, down = (torch.empty(shape).exponential_(generator=generator) for _ in range(2))
        return (up - down) / math.sqrt(2)  # the difference of two exponentials is Laplace with b = 1, of variance 2


@dataclass(frozen=True)
class Dropout(Defence):
    """Every number of the message, CLS included, is zero with probability `share`, independently of all others.

    The others are sent as they are: the zeros are erasures that anybody can see, so a factor 1 / (1 - share) would hide nothing.
    The server gets more from the mean token where nothing arrived than from that factor, so this is what `receive` puts there.

    Attributes:
        share: of the numbers, in [0, 1).
        mean: token `(D,)` that the server fills in.
    """

    share: float
    mean: Tensor = field(compare=False, repr=False)
    server_knows: ClassVar[str] = "the mean token of public photos"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Self:
        share = 0.5 if value is None else value
        cls._check(share)
        return cls(client.layout, share, mean_token(public_tokens(client, photos)))

    def __post_init__(self) -> None:
        self._check(self.share)

    @staticmethod
    def _check(share: float) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"dropout is given {share}; the share of the numbers that are left out is in [0, 1)")

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        gone = torch.rand(h.shape, generator=generator) < self.share
        return h.masked_fill(gone.to(h.device), 0)

    def receive(self, h: Tensor) -> Tensor:
        return fill(self.layout, h, self.mean)
