"""Defences that send less: the largest numbers only, a projection on few directions, few bits per number.

They are deterministic, and the only family with a guarantee for every attacker, every prior and every photo: a message of B bits
says at most `B ln 2` nats about the photo, `I(X; Z) <= H(Z) <= B ln 2`. The guarantee says something only where B is small.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from dragkit.client import SplitClient
from dragkit.defenses.additive import feature_axis, fill, per_feature
from dragkit.defenses.base import Defence, Family
from dragkit.defenses.public import mean_token, public_tokens

FLOAT = 32  # bits of a number that is sent as it is


@dataclass(frozen=True)
class Limited(Defence):
    """A defence whose message is shorter than the IR.

    Attributes:
        shape: number of tokens and of features, (N, D).
    """

    shape: tuple[int, int]
    family: ClassVar[Family] = "less sent"

    @property
    @abstractmethod
    def bits(self) -> int:
        """Length of one message in bits, without what the server was told once and for all."""


@dataclass(frozen=True)
class TopK(Limited):
    """Of each token the numbers that are farthest from the mean token's; the others are zero in `h'`, which anybody can see.

    The distance from the mean token decides, not the magnitude: features that are large in every photo say nothing about this one.
    The server fills in the mean token where nothing arrived. Numbers are sent as float32, and which ones they are costs
    `log2 C(D, k)` bits per token.

    Attributes:
        keep: share of each token's numbers, in (0, 1].
        mean: token `(D,)` of public photos.
    """

    keep: float
    mean: Tensor = field(compare=False, repr=False)
    server_knows: ClassVar[str] = "the mean token of public photos"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Self:
        keep = 0.25 if value is None else value
        cls._check(keep)
        tokens = public_tokens(client, photos)
        return cls(client.layout, (tokens.shape[1], tokens.shape[2]), keep, mean_token(tokens))

    def __post_init__(self) -> None:
        self._check(self.keep)

    @staticmethod
    def _check(keep: float) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"topk is given {keep}; the share of each token's numbers that are sent is in (0, 1]")

    @property
    def k(self) -> int:
        """How many numbers of each token are sent."""
        return max(1, round(self.keep * self.shape[1]))

    @property
    def bits(self) -> int:
        tokens, width = self.shape
        return math.ceil(tokens * (self.k * FLOAT + math.log2(math.comb(width, self.k))))

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        axis = feature_axis(self.layout)
        away = (h - per_feature(self.layout, self.mean, h)).abs()
        chosen = away.topk(self.k, axis).indices
        return torch.zeros_like(h).scatter(axis, chosen, h.gather(axis, chosen))

    def receive(self, h: Tensor) -> Tensor:
        return fill(self.layout, h, self.mean)


@dataclass(frozen=True)
class LowRank(Limited):
    """Each token projected on the first principal directions of tokens of public photos: `h' = mean + (h - mean) V V^T`.

    What travels is `(h - mean) V`: `rank` float32 numbers per token, 4 * N * rank bytes. `h'` is what the server, and whoever
    knows the directions, makes of it.

    Attributes:
        rank: number of directions.
        basis: V `(D, rank)` with orthonormal columns.
        mean: token `(D,)`.
    """

    rank: int
    basis: Tensor = field(compare=False, repr=False)
    mean: Tensor = field(compare=False, repr=False)
    server_knows: ClassVar[str] = "the mean token and the principal directions of public photos"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Self:
        rank = whole("lowrank", 16 if value is None else value, 1, feature_count(client), "the number of directions")
        tokens = public_tokens(client, photos)
        shape, mean, rows = (tokens.shape[1], tokens.shape[2]), mean_token(tokens), tokens.flatten(0, 1)
        if rank >= len(rows):
            raise ValueError(
                f"lowrank is given {rank}, but {len(tokens)} photos of {shape[0]} tokens have {len(rows) - 1} directions; at least "
                f"{math.ceil((rank + 1) / shape[0])} photos are needed"
            )
        directions = torch.linalg.eigh((rows - mean).T @ (rows - mean)).eigenvectors.flip(1)  # largest variance first
        return cls(client.layout, shape, rank, directions[:, :rank].contiguous(), mean)

    @property
    def bits(self) -> int:
        return self.shape[0] * self.rank * FLOAT

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        axis = feature_axis(self.layout)
        basis, mean = self.basis.to(h), self.mean.to(h)
        return (mean + (h.movedim(axis, -1) - mean) @ basis @ basis.T).movedim(-1, axis)


@dataclass(frozen=True)
class Quantise(Limited):
    """Every number rounded to the middle of one of `2 ** depth` equal cells between its feature's `low` and `high`.

    The range is the mean of tokens of public photos plus and minus two standard deviations; what lies outside is clipped. That is
    about the best range for a normal feature at one or two bits (J. Max, "Quantizing for minimum distortion", 1960).

    Attributes:
        depth: bits per number, 1 to 16.
        low, high: ends of the range, one per feature, `(D,)`.
    """

    depth: int
    low: Tensor = field(compare=False, repr=False)
    high: Tensor = field(compare=False, repr=False)
    server_knows: ClassVar[str] = "the range of every feature over public photos"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Self:
        depth = whole("quantise", 2 if value is None else value, 1, 16, "the number of bits per number")
        tokens = public_tokens(client, photos)
        mean, reach = mean_token(tokens), 2 * tokens.flatten(0, 1).std(0)
        return cls(client.layout, (tokens.shape[1], tokens.shape[2]), depth, mean - reach, mean + reach)

    def __post_init__(self) -> None:
        if (self.low > self.high).any():
            raise ValueError("low is above high for some feature; they are the ends of each feature's range")

    @property
    def bits(self) -> int:
        return self.shape[0] * self.shape[1] * self.depth

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        low, high = (per_feature(self.layout, end, h) for end in (self.low, self.high))
        cells = 2**self.depth
        step = ((high - low) / cells).clamp_min(torch.finfo(h.dtype).tiny)  # a feature that never varies has no range
        return low + (((h - low) / step).floor().clamp(0, cells - 1) + 0.5) * step


def whole(name: str, value: float, low: int, high: int, what: str) -> int:
    """`value` as an integer between `low` and `high`; `name` and `what` are for the error.

    Raises:
        ValueError: it is not one.
    """
    if not (math.isfinite(value) and value == int(value) and low <= value <= high):
        raise ValueError(f"{name} is given {value}; {what} is a whole number from {low} to {high}")
    return int(value)


def feature_count(client: SplitClient) -> int:
    """Number of features of a token."""
    return (0, *client.h_shape)[feature_axis(client.layout)]
