"""The contract of every defence: what a client does to its representation before it leaves the phone.

A `Defence` maps `h` to an `h'` of the same shape, with randomness from a generator that the attacker does not have. A
`DefenceInside` changes how the client computes, so it needs the photo and not only `h`. What either costs is measured
(`dragkit.measures.utility`); what the server must know to go on is said by `receive` and `server_knows`.
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
class BaseDefence(ABC):
    """What all defences have in common, ready for one client.

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
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> BaseDefence:
        """The defence for this client.

        Args:
            client: whose messages are defended.
            value: its strength; None takes the defence's own default.
            photos: public photos `(n, 3, H, W)` in [0, 1], on which a defence measures what it has to know about the client's
                IRs; None means training photos of Imagenette. Defences that measure nothing do not look at them.

        Raises:
            ValueError: a value that is no strength of this defence, a client on which it cannot work, or too few photos.
            FileNotFoundError: no photos are given, and Imagenette is not there.
        """

    @abstractmethod
    def encode(self, client: SplitClient, images: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """Images `(B, 3, H, W)` to messages `(B, *client.h_shape)`, with one (CPU) stream of random numbers per image."""

    def receive(self, h: Tensor) -> Tensor:
        """What the server feeds into its half of the model, made from what arrived and from what it has been told."""
        return h

    def arrived(self, h: Tensor) -> Tensor | None:
        """Which tokens of a message are there, bool `(B, N)`; None for all. Anybody who sees the message sees this."""
        return None


class Defence(BaseDefence):
    """A defence that acts on what the client has computed."""

    @abstractmethod
    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        """IRs `(B, *client.h_shape)` to what is sent, of the same shape. All randomness comes from the (CPU) generator."""

    def encode(self, client: SplitClient, images: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        return _each(self, client(images), streams)


class DefenceInside(BaseDefence):
    """A defence that acts inside the client: it has `encode` only, and in a chain it can only come first."""


@dataclass(frozen=True)
class Chain(Defence):
    """Several defences, one after the other."""

    parts: tuple[Defence, ...] = ()

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Defence:
        raise ValueError("a chain has no strength of its own; name its parts, such as drop:0.5+shuffle")

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        for part in self.parts:
            h = part(h, generator)
        return h

    def receive(self, h: Tensor) -> Tensor:
        for part in reversed(self.parts):
            h = part.receive(h)
        return h

    def arrived(self, h: Tensor) -> Tensor | None:
        masks = [mask for part in self.parts if (mask := part.arrived(h)) is not None]
        return torch.stack(masks).all(0) if masks else None


@dataclass(frozen=True)
class ChainInside(DefenceInside):
    """A defence inside the client, and others on what that client computes.

    Attributes:
        first: acts inside the client.
        rest: acts on its IR.
    """

    first: DefenceInside
    rest: Chain

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> DefenceInside:
        raise ValueError("a chain has no strength of its own; name its parts, such as heads:0.25+shuffle")

    @property
    def parts(self) -> tuple[BaseDefence, ...]:
        """All of them, in order."""
        return (self.first, *self.rest.parts)

    def encode(self, client: SplitClient, images: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        return _each(self.rest, self.first.encode(client, images, streams), streams)

    def receive(self, h: Tensor) -> Tensor:
        return self.first.receive(self.rest.receive(h))

    def arrived(self, h: Tensor) -> Tensor | None:
        return self.rest.arrived(h)


def chain(parts: Sequence[BaseDefence]) -> BaseDefence:
    """Defences one after the other; one alone is itself.

    Raises:
        ValueError: no defence, or one that acts inside the client after another.
    """
    if not parts:
        raise ValueError("parts is empty; a chain has at least one defence")
    first, *others = parts
    rest = []
    for part in others:
        if not isinstance(part, Defence):
            raise ValueError(f"{type(part).__name__} acts inside the client, so it can only be the first of a chain")
        rest.append(part)
    if not rest:
        return first
    if isinstance(first, Defence):
        return Chain(first.layout, (first, *rest))
    assert isinstance(first, DefenceInside)
    return ChainInside(first.layout, first, Chain(first.layout, tuple(rest)))


def acting_on_irs(defence: BaseDefence) -> Defence:
    """The very defence, for whoever has IRs and no photos.

    Raises:
        TypeError: it acts inside the client.
    """
    if not isinstance(defence, Defence):
        raise TypeError(
            f"{type(defence).__name__} acts inside the client, so it cannot start from h; "
            "use defend_images(defence, client, images, seeds)"
        )
    return defence


def defend(defence: BaseDefence, h: Tensor, seeds: int | Sequence[int], queries: int = 1) -> Tensor:
    """What the server receives when each photo is sent `queries` times, from undefended IRs.

    Every photo and every query has a random stream of its own, so a batch gives what single messages would.

    Args:
        defence: one that acts on IRs.
        h: `(B, *client.h_shape)`.
        seeds: one per photo, or a number s for s, s + 1, ...
        queries: how often each photo is sent.

    Returns:
        `(queries, B, *client.h_shape)`.

    Raises:
        TypeError: a defence that acts inside the client; use `defend_images`.
        ValueError: fewer than one query.
    """
    acting = acting_on_irs(defence)
    return torch.stack([_each(acting, h, streams) for streams in _streams(len(h), seeds, queries)])


def defend_images(
    defence: BaseDefence, client: SplitClient, images: Tensor, seeds: int | Sequence[int], queries: int = 1
) -> Tensor:
    """`defend` from photos `(B, 3, H, W)` in [0, 1]: for every defence, also one that acts inside the client."""
    return torch.stack([defence.encode(client, images, s) for s in _streams(len(images), seeds, queries)])


def _each(defence: Defence, h: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
    return torch.cat([defence(one[None], stream) for one, stream in zip(h, streams, strict=True)])


def _streams(batch: int, seeds: int | Sequence[int], queries: int) -> Iterator[list[torch.Generator]]:
    """Per query, one generator per photo."""
    if queries < 1:
        raise ValueError(f"queries is {queries}; every photo is sent at least once")
    for query in range(queries):
        yield [torch.Generator().manual_seed(seed + query * REPEAT) for seed in image_seeds(seeds, batch)]
