"""Expectation over a defence's randomness (EoT, arXiv 1707.07397): defend the estimate too, many times, and compare the results."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dragkit.defenses import Defence, defend
from dragkit.distance import Distance, cosine_distance, prepared


@dataclass(frozen=True)
class Expectation:
    """Mean over draws of `base(defence(h_hat), h, mask)`.

    The draws are the same at every call and for every image, so the distance is a function: an attack that keeps its smallest
    value does not keep a lucky draw, and an image's value does not depend on its batch.

    Attributes:
        defence: acts on tokens `(B, N, D)`, passes gradients on, and holds no secret: what it does but for its draws is known.
        base: compares one draw with the message.
        draws: how many; every one costs a call of the defence, none costs a call of the client.
        seed: of the draws; the attacker's own, the user's is secret.
    """

    defence: Defence
    base: Distance = cosine_distance
    draws: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws is {self.draws}; at least one draw is needed")
        if self.defence.layout.kind != "BND":
            raise ValueError(f"the defence has {self.defence.layout}; expectations are taken over tokens, layout BND")

    def __call__(self, h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        h_hat, h, _ = prepared(h_hat, h, mask)
        with torch.autocast(h.device.type, enabled=False):
            drawn = defend(self.defence, h_hat, [self.seed] * len(h_hat), self.draws)
            return torch.stack([self.base(one, h, mask) for one in drawn]).mean(0)
