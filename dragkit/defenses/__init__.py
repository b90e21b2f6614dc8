"""Defences under one name each: "gaussian:0.5", "drop:0.5+shuffle"."""

from __future__ import annotations

from dragkit.client import SplitClient
from dragkit.defenses.additive import Dropout, GaussianNoise, LaplaceNoise
from dragkit.defenses.base import Chain, Defence, defend, defend_images
from dragkit.defenses.disco import Disco, DiscoHard, DiscoRandom, DiscoStatic, DiscoWarm
from dragkit.defenses.shaped import PacNoise, ShapedNoise
from dragkit.defenses.stochastic import StochasticDepth, StochasticHeads
from dragkit.defenses.tokens import TokenDrop, TokenShuffle
from dragkit.defenses.transforms import FeaturePermutation, Rotation
from dragkit.defenses.transport import LowRank, Quantise, TopK

__all__ = ["DEFENCES", "Chain", "Defence", "check_recipe", "defend", "defend_images", "make"]
__all__ += ["Disco", "DiscoHard", "DiscoRandom", "DiscoStatic", "DiscoWarm"]
__all__ += ["Dropout", "GaussianNoise", "LaplaceNoise", "PacNoise", "ShapedNoise"]
__all__ += ["FeaturePermutation", "LowRank", "Quantise", "Rotation", "StochasticDepth", "StochasticHeads"]
__all__ += ["TokenDrop", "TokenShuffle", "TopK"]

DEFENCES: dict[str, type[Defence]] = {
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


def check_recipe(recipe: str) -> list[tuple[str, float | None]]:
    """Names and strengths in a recipe: "drop:0.5+shuffle" is `[("drop", 0.5), ("shuffle", None)]`.

    Raises:
        ValueError: an unknown name, or a strength that is not a number.
    """
    parts = []
    for part in recipe.split("+"):
        name, _, strength = part.partition(":")
        if name not in DEFENCES:
            raise ValueError(
                f"defence is {part!r}; the known ones are {', '.join(DEFENCES)} (name:strength, + joins them)"
            )
        try:
            parts.append((name, float(strength) if strength else None))
        except ValueError:
            raise ValueError(f"defence is {part!r}; what follows the colon must be a number, its strength") from None
    return parts


def make(recipe: str, client: SplitClient) -> Defence:
    """The defence that a recipe names, for this client.

    Raises:
        ValueError: an unknown name or strength, or a client on which the defence cannot work.
    """
    made = tuple(DEFENCES[name].of(client, value) for name, value in check_recipe(recipe))
    return made[0] if len(made) == 1 else Chain(client.layout, made)
