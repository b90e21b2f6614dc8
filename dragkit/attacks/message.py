"""What an attacker holds: a representation that arrived, and what they believe about where it came from."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dragkit.cache import weights_digest
from dragkit.client import SplitClient
from dragkit.distance import Distance, check_mask, cosine_distance


@dataclass(frozen=True, eq=False, repr=False)
class Message:
    """An intermediate representation in the attacker's hands. Every attack takes it whole; the photo is never part of it.

    Attributes:
        h: what the server received, `(B, *client.h_shape)`. float64 stays, and makes an attack's state float64; anything else
            becomes float32. Detached from any graph.
        client: the client that the attacker believes in and takes gradients through; usually the phone's, but an attacker who
            knows of a defence may have made a better one.
        mask: which tokens of `h` arrived, bool `(B, N)`, True for those that did; None means all.
        distance: `(tokens of an estimate, tokens of h, mask)` to one value per image, `(B,)`; what an attack makes small.

    Raises:
        TypeError: `h` is not a floating-point tensor, `client` is no `SplitClient`, `mask` no bool tensor, `distance` no function.
        ValueError: `h` is empty, does not come from this client, or holds NaN or infinite values; a mask of another shape, or one
            that leaves an image without tokens.
    """

    h: Tensor
    client: SplitClient
    mask: Tensor | None = None
    distance: Distance = cosine_distance

    def __post_init__(self) -> None:
        if not hasattr(self.client, "h_shape"):
            raise TypeError(
                f"client is a {type(self.client).__name__}; it must be a SplitClient, such as load_client() gives"
            )
        if not callable(self.distance):
            raise TypeError(f"distance is {self.distance!r}; it must be a function such as cosine_distance")
        object.__setattr__(self, "h", _checked(self.h, self.client))
        check_mask(self.mask, self.tokens)
        if self.mask is not None:
            own = self.mask.to(self.h.device, copy=True)  # later changes do not reach in here
            object.__setattr__(self, "mask", own)

    def __len__(self) -> int:
        """Number of images B."""
        return len(self.h)

    @cached_property
    def tokens(self) -> Tensor:
        """`h` as `(B, N, D)`: a token per patch or position, prefix tokens first."""
        return self.client.tokens(self.h)

    def measure(self, images: Tensor) -> Tensor:
        """IR distance `(B,)` between images `(B, 3, S, S)` and the message; differentiable in the images."""
        return self.distance(self.client.tokens(self.client(images)), self.tokens, self.mask)

    def rows(self, index: Tensor | slice) -> Message:
        """The message of some of the images, or of some several times.

        A distance that holds something per image has a method `rows` too, as `dragkit.adaptive.distances.Assignment` has.
        """
        pick = getattr(self.distance, "rows", None)
        mask = None if self.mask is None else self.mask[index]
        return replace(self, h=self.h[index], mask=mask, distance=self.distance if pick is None else pick(index))

    def identity(self) -> tuple[object, ...]:
        """All that an attack on this message depends on, for `fingerprint`; the same in another process."""
        client = self.client
        distance = re.sub(r" at 0x[0-9a-f]+", "", repr(self.distance))
        return (client.name, client.at, weights_digest(client.model), distance, self.h, self.mask)

    def __repr__(self) -> str:
        missing = "" if self.mask is None else f", {int((~self.mask).sum())} tokens missing"
        return f"Message({len(self)} images, h {tuple(self.h.shape)}{missing}; {self.client})"


def _checked(h: Tensor, client: SplitClient) -> Tensor:
    """`h` in the precision of an attack's state, or the reason why it cannot be attacked."""
    if not isinstance(h, Tensor) or not h.is_floating_point():
        given = h.dtype if isinstance(h, Tensor) else type(h).__name__
        raise TypeError(f"h is {given}; it must be a floating-point tensor")
    if h.ndim != len(client.h_shape) + 1 or tuple(h.shape[1:]) != tuple(client.h_shape):
        raise ValueError(
            f"h has shape {tuple(h.shape)}; client {client.at!r} sends (B, {', '.join(map(str, client.h_shape))})"
        )
    if len(h) == 0:
        raise ValueError("h holds no image; the batch must have at least one")
    if not torch.isfinite(h).all():
        raise ValueError("h holds NaN or infinite values; what the server received cannot be compared with anything")
    return h.detach().clone().to(torch.float64 if h.dtype == torch.float64 else torch.float32)
