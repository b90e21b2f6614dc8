"""Every attack under one name each, with what it needs to know loaded from the zoo: the rows of the comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from dragkit import zoo
from dragkit.attacks import DragConfig, LikelihoodConfig, RmleConfig, drag, likelihood, rmle
from dragkit.attacks.dragpp import drag_from_grey, drag_plus_plus
from dragkit.attacks.glass import GlassConfig, glass
from dragkit.attacks.inverse import InverseConfig, InverseNetwork, inverse
from dragkit.client import SplitClient
from dragkit.distance import Distance, cosine_distance
from dragkit.generator import StyleGenerator, WEncoder
from dragkit.prior import LatentPrior, PixelPrior
from dragkit.reconstruction import Reconstruction
from dragkit.threat import ThreatModel

ATTACKER = ThreatModel(weights=True, public_data=True)


@dataclass(frozen=True)
class Knowledge:
    """What the attacker may bring, loaded when it is first asked for: the embedded priors, GAN and inverse network.

    Attributes:
        client, prior: names in the zoo. at: split point.
        defence: recipe of the defence that the inverse network was trained against, "" for none.
    """

    client: str
    at: str
    prior: str
    device: str = "cpu"
    defence: str = ""

    @cached_property
    def diffusion(self) -> LatentPrior:
        return zoo.load_prior(self.prior, device=self.device)

    @cached_property
    def pixels(self) -> PixelPrior:
        return zoo.load_pixel_prior(device=self.device)

    @cached_property
    def network(self) -> InverseNetwork:
        return zoo.load_inverse(self.client, self.at, self.defence, device=self.device)

    @cached_property
    def gan(self) -> StyleGenerator:
        return zoo.load_gan(device=self.device)

    @cached_property
    def encoder(self) -> WEncoder:
        return zoo.load_gan_encoder(self.client, self.at, device=self.device)

    def names(self, kinds: tuple[str, ...]) -> list[str]:
        """Zoo names of what a method uses, for the checksums in a result's specification."""
        known = {
            "diffusion": [f"{self.prior}/unet", f"{self.prior}/vae"],
            "pixels": [f"{zoo.PIXEL_PRIOR}/unet"],
            "network": [zoo.inverse_name(self.client, self.at, self.defence)],
            "gan": [zoo.GAN],
            "encoder": [zoo.encoder_name(self.client, self.at)],
        }
        return [name for kind in kinds for name in known[kind]]


class Run(Protocol):
    """An attack with its knowledge filled in: `(h, client, known, config, seed)`, what an adaptive attacker changes, and a file to
    resume from."""

    def __call__(
        self,
        h: Tensor,
        client: SplitClient,
        known: Knowledge,
        config: Any,
        seed: int,
        *,
        mask: Tensor | None = None,
        distance: Distance = cosine_distance,
        threat: ThreatModel = ATTACKER,
        checkpoint: Path | None = None,
    ) -> Reconstruction: ...


def with_prior(attack: Callable[..., Reconstruction], prior: str = "", **extra: str) -> Run:
    """`attack` with its prior, and more by keyword, taken from these parts of `Knowledge`."""

    def run(
        h: Tensor,
        client: SplitClient,
        known: Knowledge,
        config: Any,
        seed: int,
        *,
        mask: Tensor | None = None,
        distance: Distance = cosine_distance,
        threat: ThreatModel = ATTACKER,
        checkpoint: Path | None = None,
    ) -> Reconstruction:
        more = {keyword: getattr(known, part) for keyword, part in extra.items()}
        brought = getattr(known, prior) if prior else None
        given = {"mask": mask, "distance": distance, "seeds": seed, "threat": threat, "checkpoint": checkpoint}
        return attack(h, client, brought, config, **given, **more)

    return run


@dataclass(frozen=True)
class Method:
    """An attack as a row of a table.

    Attributes:
        label: in tables. config: class of its settings. uses: which parts of `Knowledge`. run: see `Run`.
        variant: of another method, with a sweep of its own; not a row of the comparisons.
    """

    label: str
    config: type
    uses: tuple[str, ...]
    run: Run
    variant: bool = False


METHODS: dict[str, Method] = {
    "drag": Method("DRAG", DragConfig, ("diffusion",), with_prior(drag, "diffusion")),
    "drag++": Method(
        "DRAG++",
        DragConfig,
        ("diffusion", "network"),
        with_prior(drag_plus_plus, "diffusion", inverse_network="network"),
    ),
    "drag-grey": Method(
        "DRAG from grey", DragConfig, ("diffusion",), with_prior(drag_from_grey, "diffusion"), variant=True
    ),
    "drag-pixel": Method("DRAG in pixels", DragConfig, ("pixels",), with_prior(drag, "pixels"), variant=True),
    "inverse": Method("inverse network", InverseConfig, ("network",), with_prior(inverse, "network")),
    "rmle": Method("rMLE", RmleConfig, (), with_prior(rmle)),
    "lm": Method("LM", LikelihoodConfig, (), with_prior(likelihood)),
    "glass": Method("GLASS", GlassConfig, ("gan",), with_prior(glass, "gan")),
    "glass++": Method("GLASS++", GlassConfig, ("gan", "encoder"), with_prior(glass, "gan", encoder="encoder")),
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
