"""Networks that look at a picture: features in which photos are compared, the attacker's own and independent ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dragkit import cache, zoo
from dragkit.cache import digest, load_or_make
from dragkit.client import SplitClient
from dragkit.images import validate_images


@dataclass(frozen=True)
class Embedding:
    """Images `(B, 3, H, W)` in [0, 1] to features `(B, N, D)`, float32 on the CPU: `N` tokens that are compared one by one.

    Attributes:
        name: model, tokens and precision, for tables.
        function: from a batch of images to features.
        batch: images per pass.
        weights: checksum of the model; features are cached on disk under it, or not at all when it is "".
    """

    name: str
    function: Callable[[Tensor], Tensor]
    batch: int = 50
    weights: str = ""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        validate_images(images, "images")
        if not self.weights:
            return self._compute(images)
        file = cache.cache_dir() / "features" / f"{digest(self.name, self.weights, images)[:24]}.safetensors"
        return load_or_make(file, lambda: {"features": self._compute(images)})["features"]

    def _compute(self, images: Tensor) -> Tensor:
        return torch.cat([self.function(x).float().cpu() for x in images.split(self.batch)]).contiguous()


def ir_embedding(client: SplitClient) -> Embedding:
    """The attacker's own view: all tokens of the IR. Their cosine distance, token by token, is what DRAG minimises."""
    return Embedding(
        f"IR of {client.name} at {client.at}", lambda x: client.tokens(client(x.to(client.device))), batch=100
    )


def pooled_embedding(name: str = zoo.WILD_CLIENT, *, device: str = "cpu") -> Embedding:
    """Two tokens of the last block of an embedded ViT, `(B, 2, D)`: CLS and the mean of the patches, of equal weight.

    The real ViT-S runs under bfloat16 autocast, which makes it about three times as fast on a CPU.

    Raises:
        ValueError: no such client in the zoo. ImportError: the wheel of the real ViT-S is not installed.
    """
    client = zoo.load_client(name, "block:12", device=device)
    wild = name == zoo.WILD_CLIENT
    prefix = client.layout.prefix_tokens

    def pool(x: Tensor) -> Tensor:
        with torch.autocast(client.device.type, torch.bfloat16, enabled=wild):
            tokens = client.tokens(client(x.to(client.device))).float()
        return torch.stack([tokens[:, 0], tokens[:, prefix:].mean(1)], 1)

    return Embedding(f"{name} block 12, CLS and mean patch{', bfloat16' * wild}", pool, weights=_checksums(name))


def independent_embedding(victim: str, *, device: str = "cpu") -> Embedding:
    """Pooled tokens of a network that is not the victim: the real ViT-S, or the in-house ViT when the ViT-S is the victim.

    Args:
        victim: name of a client of the zoo.

    Raises:
        ValueError: no such client.
    """
    return pooled_embedding(other_client(victim), device=device)


def other_client(victim: str) -> str:
    """The client of the zoo that judges pictures made from messages of `victim`: never the one that was attacked.

    Raises:
        ValueError: `victim` is no client of the zoo.
    """
    if victim not in zoo.CLIENTS:
        raise ValueError(f"victim is {victim!r}; it must be a client of the zoo: {', '.join(zoo.CLIENTS)}")
    return zoo.CLIENT if victim == zoo.WILD_CLIENT else zoo.WILD_CLIENT


def _checksums(name: str) -> str:
    if name == zoo.WILD_CLIENT:
        from dragkit.zoo.wild import SHA256

        return SHA256
    return " ".join(zoo.card(name)["sha256"].values())
