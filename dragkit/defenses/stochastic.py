"""Chance inside the client: parts of its blocks that are left out at random, anew for every message.

These defences act in the client, not on what it has computed, so they have `encode(client, images, streams)` where the others have
`defence(h, generator)`. The server is not told which parts were missing, and neither is the attacker. They can compare with the
mean over many random instances (`ExpectedClient`, EoT, arXiv 1707.07397). What is hidden is one bit per part: 12 for six blocks of
two branches, few enough to try them all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dragkit.client import SplitClient
from dragkit.defenses.base import DefenceInside

ATTENTION_ENDS = ("attention.o_proj", "self_attn.out_proj", "attn.proj")  # transformers (ViT, DINOv2), CLIP, timm

MLP_ENDS = ("mlp.fc2",)


@dataclass(frozen=True)
class HiddenParts(DefenceInside):
    """Parts of the client's blocks, each left out with probability `share`, independently for every message.

    Attributes:
        share: probability, in [0, 1).
        sites: names of the modules that the parts belong to.
        units: parts per site.
    """

    share: float
    sites: tuple[str, ...]
    units: int = 1
    name: ClassVar[str] = "hidden"

    def __post_init__(self) -> None:
        self._check(self.share)

    @classmethod
    def _check(cls, share: float) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"{cls.name} is given {share}; the share of the parts that are left out is in [0, 1)")

    def draw(self, generator: torch.Generator) -> Tensor:
        """Which parts run for one message, bool `(sites, units)`."""
        return torch.rand(len(self.sites), self.units, generator=generator) >= self.share

    def encode(self, client: SplitClient, images: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        with self.running(client, torch.stack([self.draw(stream) for stream in streams])):
            return client(images)

    @contextmanager
    def running(self, client: SplitClient, kept: Tensor) -> Iterator[None]:
        """Within, the client runs with these parts only: bool `(B, sites, units)`, B = 1 for all images alike."""
        with ExitStack() as hooks:
            for i, site in enumerate(self.sites):
                handle = self.attach(client.model.get_submodule(site), kept[:, i].to(client.device))
                hooks.callback(handle.remove)
            yield

    @abstractmethod
    def attach(self, module: nn.Module, kept: Tensor) -> RemovableHandle:
        """Hook that leaves out the parts of one site for which `kept`, bool `(B, units)`, is False."""


class StochasticDepth(HiddenParts):
    """Residual branches (attention, MLP) of the client's blocks that are skipped (as in training: arXiv 1603.09382).

    The branches that run are not made larger to keep the mean: the network was not trained for either.
    """

    name: ClassVar[str] = "depth"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Self:
        share = 0.1 if value is None else value
        cls._check(share)
        return cls(client.layout, share, _ends(client, (*ATTENTION_ENDS, *MLP_ENDS)))

    def attach(self, module: nn.Module, kept: Tensor) -> RemovableHandle:
        return module.register_forward_hook(lambda module, args, out: out * kept.to(out)[..., None])


class StochasticHeads(HiddenParts):
    """Attention heads of the client's blocks whose outputs are zero."""

    name: ClassVar[str] = "heads"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Self:
        share = 0.25 if value is None else value
        cls._check(share)
        return cls(client.layout, share, _ends(client, ATTENTION_ENDS), _heads(client))

    def attach(self, module: nn.Module, kept: Tensor) -> RemovableHandle:
        def silence(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            heads = args[0].unflatten(-1, (self.units, -1))
            return ((heads * kept.to(heads)[:, None, :, None]).flatten(-2),)

        return module.register_forward_pre_hook(silence)


def _ends(client: SplitClient, ends: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the layers that end the branches of the client's blocks, in order.

    Raises:
        ValueError: a cut that is not after a block, or blocks whose branches we do not know.
    """
    blocks = client.blocks()
    if client.module not in blocks:
        raise ValueError(
            f"the client is cut at {client.at!r}; hidden randomness needs a cut after a block, block:1 or later"
        )
    known = {name for name, _ in client.model.named_modules()}
    of_block = [
        [f"{b}.{end}" for end in ends if f"{b}.{end}" in known] for b in blocks[: blocks.index(client.module) + 1]
    ]
    if not all(of_block):
        raise ValueError(
            f"the blocks of {client.name} have none of {', '.join(ends)}; hidden randomness does not know them"
        )
    return tuple(name for names in of_block for name in names)


def _heads(client: SplitClient) -> int:
    """Number of attention heads, from the configuration (transformers) or the module (timm).

    Raises:
        ValueError: neither says.
    """
    attention = client.model.get_submodule(_ends(client, ATTENTION_ENDS)[0].rpartition(".")[0])
    config = getattr(client.model, "config", None)
    for heads in (getattr(attention, "num_heads", None), getattr(config, "num_attention_heads", None)):
        if isinstance(heads, int):
            return heads
    raise ValueError(f"{client.name} does not say how many attention heads it has")


class ExpectedClient(SplitClient):
    """The attacker's view of a client with hidden randomness: the mean IR of `draws` random instances.

    The instances are drawn once and are the same for every image and call, so an attack's objective does not change under it. The
    model is the client's own, not a copy: do not run both at once.

    Args:
        client: the phone's.
        defence: which of its parts are hidden.
        draws: instances; a call costs as many calls of the client.
        seed: of the attacker's draws, not the phone's.

    Raises:
        ValueError: fewer than one draw.
    """

    def __init__(self, client: SplitClient, defence: HiddenParts, draws: int = 8, seed: int = 0):
        if draws < 1:
            raise ValueError(f"draws is {draws}; at least one instance is needed")
        nn.Module.__init__(self)
        vars(self).update(vars(client))  # the same halves, cut and layout
        generator = torch.Generator().manual_seed(seed)
        self.defence = defence
        self.kept = [defence.draw(generator)[None] for _ in range(draws)]

    def forward(self, images: Tensor) -> Tensor:
        total = torch.zeros(())
        for kept in self.kept:
            with self.defence.running(self, kept):
                total = total.to(self.device) + super().forward(images)
        return total / len(self.kept)
