"""Defences that act on whole tokens: shuffle them, leave some out.

A transformer whose position embeddings come before the cut does not notice the order of its patch tokens, so shuffling is free: the
server's answer is the same. It hides at most log2(n!) bits. Models that look at positions after the cut (Swin, Mixer, rotary
embeddings) are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dragkit.client import Layout, SplitClient
from dragkit.defenses.base import Defence, Family, Utility


@dataclass(frozen=True)
class TokenShuffle(Defence):
    """Patch tokens in a random order of each message's own; prefix tokens (CLS) stay in front (arXiv 2509.11724, section 5.5)."""

    utility: ClassVar[Utility] = "exact"
    family: ClassVar[Family] = "tokens"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> TokenShuffle:
        if value is not None:
            raise ValueError(f"shuffle is given {value}; it has no strength")
        return cls(orderless_layout(client))

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        prefix = self.layout.prefix_tokens
        orders = [torch.randperm(h.shape[1] - prefix, generator=generator).to(h.device) for _ in h]
        mixed = torch.stack([tokens[prefix:][order] for tokens, order in zip(h, orders, strict=True)])
        return torch.cat([h[:, :prefix], mixed], 1)


@dataclass(frozen=True)
class TokenDrop(Defence):
    """A share of the patch tokens is left out, chosen at random for each message (arXiv 2509.11724, section 5.5).

    A token that was left out is zero in `h'`, which anybody can see. The server runs on the tokens that arrived.

    Attributes:
        share: of the patch tokens, in [0, 1).
    """

    share: float = 0.5
    family: ClassVar[Family] = "tokens"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> TokenDrop:
        return cls(orderless_layout(client), 0.5 if value is None else value)

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"drop is given {self.share}; the share of the tokens that are left out is in [0, 1)")

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        prefix, n = self.layout.prefix_tokens, h.shape[1] - self.layout.prefix_tokens
        left_out = [torch.randperm(n, generator=generator)[: round(self.share * n)] + prefix for _ in h]
        kept = torch.ones(h.shape[:2], dtype=torch.bool)
        for row, gone in enumerate(left_out):
            kept[row, gone] = False
        return h * kept.to(h.device)[..., None]

    def receive(self, h: Tensor) -> Tensor:
        return torch.stack([tokens[there] for tokens, there in zip(h, self.arrived(h), strict=True)])

    def arrived(self, h: Tensor) -> Tensor:
        return (h != 0).any(-1)


def orderless_layout(client: SplitClient) -> Layout:
    """The layout of a client whose server ignores the order of its patch tokens.

    Raises:
        ValueError: the server would notice the order, so the defence would change its answers.
    """
    layout = client.layout
    if layout.kind != "BND" or not layout.permutation_equivariant:
        raise ValueError(
            f"shuffling and dropping need tokens and a server that ignores their order; this client has {layout}"
        )
    return layout
