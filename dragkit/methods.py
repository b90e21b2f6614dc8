"""Every attack under one name each, with what it needs to know loaded from the zoo: the rows of the comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from dragkit import zoo
from dragkit.attacks import DragConfig, LikelihoodConfig, RmleConfig, drag, likelihood, rmle
from dragkit.attacks.dragpp import drag_plus_plus
from dragkit.attacks.glass import GlassConfig, glass
from dragkit.attacks.inverse import InverseConfig, InverseNetwork, inverse
from dragkit.client import SplitClient
from dragkit.generator import StyleGenerator
from dragkit.prior import LatentPrior
from dragkit.reconstruction import Reconstruction


@dataclass(frozen=True)
class Knowledge:
    """What the attacker may bring, loaded when it is first asked for: the embedded prior, GAN and inverse network."""

    client: str
    at: str
    prior: str
    device: str = "cpu"

    @cached_property
    def diffusion(self) -> LatentPrior:
        return zoo.load_prior(self.prior, device=self.device)

    @cached_property
    def network(self) -> InverseNetwork:
        return zoo.load_inverse(self.client, self.at, device=self.device)

    @cached_property
    def gan(self) -> StyleGenerator:
        return zoo.load_gan(device=self.device)

    def names(self, kinds: tuple[str, ...]) -> list[str]:
        """Zoo names of what a method uses, for the checksums in a result's specification."""
        known = {
            "diffusion": [f"{self.prior}/unet", f"{self.prior}/vae"],
            "network": [zoo.inverse_name(self.client, self.at)],
            "gan": [zoo.GAN],
        }
        return [name for kind in kinds for name in known[kind]]


Run = Callable[[Tensor, SplitClient, Knowledge, Any, int], Reconstruction]


@dataclass(frozen=True)
class Method:
    """An attack as a row of a table.

    Attributes:
        label: in tables. config: class of its settings. uses: which parts of `Knowledge`. run: `(h, client, known, config, seed)`.
    """

    label: str
    config: type
    uses: tuple[str, ...]
    run: Run


METHODS: dict[str, Method] = {
    "drag": Method(
        "DRAG", DragConfig, ("diffusion",), lambda h, c, known, s, seed: drag(h, c, known.diffusion, s, seeds=seed)
    ),
    "drag++": Method(
        "DRAG++",
        DragConfig,
        ("diffusion", "network"),
        lambda h, c, known, s, seed: drag_plus_plus(
            h, c, known.diffusion, s, seeds=seed, inverse_network=known.network
        ),
    ),
    "inverse": Method(
        "inverse network",
        InverseConfig,
        ("network",),
        lambda h, c, known, s, seed: inverse(h, c, known.network, s, seeds=seed),
    ),
    "rmle": Method("rMLE", RmleConfig, (), lambda h, c, known, s, seed: rmle(h, c, None, s, seeds=seed)),
    "lm": Method("LM", LikelihoodConfig, (), lambda h, c, known, s, seed: likelihood(h, c, None, s, seeds=seed)),
    "glass": Method("GLASS", GlassConfig, ("gan",), lambda h, c, known, s, seed: glass(h, c, known.gan, s, seeds=seed)),
}


def method_of(config: Any) -> str:
    """The first method that takes settings of this class.

    Raises:
        TypeError: none does.
    """
    for name, method in METHODS.items():
        if isinstance(config, method.config):
            return name
    raise TypeError(f"config is a {type(config).__name__}; no method of {', '.join(METHODS)} takes that")
