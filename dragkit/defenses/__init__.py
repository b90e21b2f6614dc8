"""Defences under one name each: "gaussian:0.5", "drop:0.5+shuffle"."""

from __future__ import annotations

from torch import Tensor

from dragkit.client import SplitClient
from dragkit.defenses.additive import Dropout, GaussianNoise, LaplaceNoise
from dragkit.defenses.base import (
    BaseDefence,
    Chain,
    ChainInside,
    Defence,
    DefenceInside,
    acting_on_irs,
    chain,
    defend,
    defend_images,
)
from dragkit.defenses.disco import Disco, DiscoHard, DiscoRandom, DiscoStatic, DiscoWarm
from dragkit.defenses.shaped import PacNoise, ShapedNoise
from dragkit.defenses.stochastic import StochasticDepth, StochasticHeads
from dragkit.defenses.tokens import TokenDrop, TokenShuffle
from dragkit.defenses.transforms import FeaturePermutation, Rotation
from dragkit.defenses.transport import LowRank, Quantise, TopK

__all__ = ["DEFENCES", "BaseDefence", "Chain", "ChainInside", "Defence", "DefenceInside"]
__all__ += ["acting_on_irs", "chain", "defend", "defend_images", "make", "parse_spec"]
__all__ += ["Disco", "DiscoHard", "DiscoRandom", "DiscoStatic", "DiscoWarm"]
__all__ += ["Dropout", "GaussianNoise", "LaplaceNoise", "PacNoise", "ShapedNoise"]
__all__ += ["FeaturePermutation", "LowRank", "Quantise", "Rotation", "StochasticDepth", "StochasticHeads"]
__all__ += ["TokenDrop", "TokenShuffle", "TopK"]

DEFENCES: dict[str, type[BaseDefence]] = {
    "gaussian": GaussianNoise,
    "laplace": LaplaceNoise,
    "dropout": Dropout,
    "shuffle": TokenShuffle,
    "drop": TokenDrop,
    "topk": TopK,
    "lowrank": LowRank,
    "quantise": Quantise,
    "rotate": Rotation,
    "permute": FeaturePermutation,
    "disco": Disco,
    "disco-hard": DiscoHard,
    "disco-warm": DiscoWarm,
    "disco-static": DiscoStatic,
    "disco-random": DiscoRandom,
    "shaped": ShapedNoise,
    "pac": PacNoise,
    "depth": StochasticDepth,
    "heads": StochasticHeads,
}


def parse_spec(spec: str) -> list[tuple[str, float | None]]:
    """Names and strengths in the spec of a defence: "drop:0.5+shuffle" is `[("drop", 0.5), ("shuffle", None)]`.

    Raises:
        ValueError: an unknown name, a strength that is not a number, or a defence inside the client after another one.
    """
    parts: list[tuple[str, float | None]] = []
    for part in spec.split("+"):
        name, _, strength = part.partition(":")
        if name not in DEFENCES:
            raise ValueError(
                f"defence is {part!r}; the known ones are {', '.join(DEFENCES)} (name:strength, + joins them)"
            )
        if parts and issubclass(DEFENCES[name], DefenceInside):
            raise ValueError(f"defence is {spec!r}; {name} acts inside the client, so it can only come first")
        try:
            parts.append((name, float(strength) if strength else None))
        except ValueError:
            raise ValueError(f"defence is {part!r}; what follows the colon must be a number, its strength") from None
    return parts


def make(spec: str, client: SplitClient, photos: Tensor | None = None) -> BaseDefence:
    """The defence that a spec names, for this client.

    Args:
        spec: such as "gaussian:0.5" or "drop:0.5+shuffle"; see `parse_spec`.
        client: whose messages are defended.
        photos: public photos `(n, 3, H, W)` in [0, 1], like those that the client sees. Defences that add noise, erase or
            compress measure on them how large the client's IRs are and where they lie (`gaussian`, `laplace`, `dropout`, `topk`,
            `lowrank`, `quantise`, `shaped`, `pac`); the others ignore them. None means training photos of Imagenette.

    Raises:
        ValueError: an unknown name or strength, a client on which the defence cannot work, or too few photos.
        FileNotFoundError: the defence needs photos, none are given, and Imagenette is not there.
    """
    return chain([DEFENCES[name].of(client, value, photos) for name, value in parse_spec(spec)])
