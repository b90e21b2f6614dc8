"""The contract of every defence: what a client does to its representation before it leaves the phone.

A defence maps `h` to an `h'` of the same shape, with randomness from a generator that the attacker does not have. What it costs is
measured (`dragkit.utility`); what the server must know to go on is said by `receive` and `server_knows`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dragkit.client import Layout, SplitClient
from dragkit.streams import image_seeds

Family = Literal["randomness", "tokens", "less sent", "secret basis", "trained"]
Utility = Literal["exact", "approximate", "trained"]
REPEAT = 1_000_003  # distance between the seeds of two queries with the same photo


@dataclass(frozen=True)
class Defence(ABC):
    """A defence, ready for one client.

    Attributes:
        layout: of the client's IR.
        server_knows: what the server has to be told, beside the message.
        utility: "exact" (the server's answer does not change), "approximate", or "trained" (it does, and training mends it).
        family: its kind, as figures name it.
    """

    layout: Layout
    server_knows: ClassVar[str] = "nothing"
    utility: ClassVar[Utility] = "approximate"
    family: ClassVar[Family] = "randomness"

    @classmethod
    @abstractmethod
    def of(cls, client: SplitClient, value: float | None = None) -> Defence:
        """The defence for this client, as strong as `value` says; None takes the defence's own default.

        Raises:
            ValueError: a value that is no strength of this defence, or a client on which it cannot work.
        """

    @abstractmethod
    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        """IRs `(B, *client.h_shape)` to what is sent, of the same shape. All randomness comes from the (CPU) generator."""

    def encode(self, client: SplitClient, images: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """Images `(B, 3, H, W)` to messages, one stream per image. Defences that act inside the client override it."""
        return _each(self, client(images), streams)

    def receive(self, h: Tensor) -> Tensor:
        """What the server feeds into its half of the model, made from what arrived and from what it has been told."""
        return h

    def arrived(self, h: Tensor) -> Tensor | None:
        """Which tokens of a message are there, bool `(B, N)`; None for all. Anybody who sees the message sees this."""
        return None


@dataclass(frozen=True)
class Chain(Defence):
    """Several defences, one after the other."""

    parts: tuple[Defence, ...] = ()

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None) -> Defence:
        raise ValueError("a chain has no strength of its own; name its parts, such as drop:0.5+shuffle")

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        for part in self.parts:
            h = part(h, generator)
        return h

    def encode(self, client: SplitClient, images: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        h = self.parts[0].encode(client, images, streams)  # only the first part may act inside the client
        for part in self.parts[1:]:
            h = _each(part, h, streams)
        return h

    def receive(self, h: Tensor) -> Tensor:
        for part in reversed(self.parts):
            h = part.receive(h)
        return h

    def arrived(self, h: Tensor) -> Tensor | None:
        masks = [mask for part in self.parts if (mask := part.arrived(h)) is not None]
        return torch.stack(masks).all(0) if masks else None


def defend(defence: Defence, h: Tensor, seeds: int | Sequence[int], queries: int = 1) -> Tensor:
    """What the server receives when each photo is sent `queries` times: `(queries, B, *client.h_shape)`.

    Every photo and every query has a random stream of its own, so a batch gives what single messages would.

    Args:
        h: `(B, *client.h_shape)`. seeds: one per photo, or a number s for s, s + 1, ...

    Raises:
        ValueError: fewer than one query.
    """
    return torch.stack([_each(defence, h, streams) for streams in _streams(len(h), seeds, queries)])


def defend_images(
    defence: Defence, client: SplitClient, images: Tensor, seeds: int | Sequence[int], queries: int = 1
) -> Tensor:
    """`defend` from photos `(B, 3, H, W)` in [0, 1]: for every defence, also those that act inside the client."""
    return torch.stack([defence.encode(client, images, s) for s in _streams(len(images), seeds, queries)])


def _each(defence: Defence, h: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
    return torch.cat([defence(one[None], stream) for one, stream in zip(h, streams, strict=True)])


def _streams(batch: int, seeds: int | Sequence[int], queries: int) -> Iterator[list[torch.Generator]]:
    """Per query, one generator per photo."""
    if queries < 1:
        raise ValueError(f"queries is {queries}; every photo is sent at least once")
    for query in range(queries):
        yield [torch.Generator().manual_seed(seed + query * REPEAT) for seed in image_seeds(seeds, batch)]
