"""What the attacker may bring from the zoo, loaded when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dragkit import zoo

if TYPE_CHECKING:
    from dragkit.priors.diffusion import LatentPrior, PixelPrior
    from dragkit.priors.gan import StyleGenerator, WEncoder
    from dragkit.priors.inverse_network import InverseNetwork


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
