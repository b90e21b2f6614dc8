"""What an attacker holds: a representation that arrived, and what they believe about where it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dragkit.client import SplitClient
from dragkit.distance import Distance, check_mask, cosine_distance


@dataclass(frozen=True, eq=False)
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
        TypeError: `h` is not a floating-point tensor, `mask` is not bool.
        ValueError: `h` is empty, does not come from this client, or holds NaN or infinite values; a mask of another shape, or one
            that leaves an image without tokens.
    """

    h: Tensor
    client: SplitClient
    mask: Tensor | None = None
    distance: Distance = cosine_distance

    def __post_init__(self) -> None:
        object.__setattr__(self, "h", _checked(self.h, self.client))
        check_mask(self.mask, self.tokens)

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
        """The message of some of the images, or of some several times. A distance that holds something per image must fit them."""
        return replace(self, h=self.h[index], mask=None if self.mask is None else self.mask[index])


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
