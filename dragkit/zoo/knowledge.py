"""What the attacker may bring from the zoo, loaded when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from dragkit import zoo
from dragkit.client import SplitClient
from dragkit.priors.diffusion import LatentPrior, PixelPrior
from dragkit.priors.gan import StyleGenerator, WEncoder
from dragkit.priors.inverse_network import InverseNetwork


def open_prior(name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LatentPrior | PixelPrior:
    """An embedded prior by its name, any other by folder or hub name in diffusers' layout, on latents or on pixels.

    Raises:
        ValueError, OSError: there is none of this name, or a part is missing.
    """
    if zoo.available(f"{name}/vae"):
        return zoo.load_prior(name, dtype=dtype, device=device)
    if name == zoo.PIXEL_PRIOR or zoo.available(f"{name}/unet"):
        return zoo.load_pixel_prior(name, dtype=dtype, device=device)
    pixels = Path(name).is_dir() and not (Path(name) / "vae").is_dir()
    kind = PixelPrior if pixels else LatentPrior
    return kind.from_pretrained(name, dtype=dtype, device=device)


def open_client(name: str, at: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> SplitClient:
    """An embedded client by its name, any other by folder or hub name, timm:NAME or torchvision:NAME, cut at `at`.

    Raises:
        ValueError, OSError: there is none of this name, or it cannot be cut there.
    """
    if name == zoo.WILD_CLIENT or zoo.available(name):
        return zoo.load_client(name, at, dtype=dtype, device=device)
    return SplitClient.from_pretrained(name, at, dtype=dtype, device=device)


@dataclass(frozen=True)
class Knowledge:
    """What the attacker may bring, loaded when it is first asked for: the embedded priors, GAN and inverse network.

    Attributes:
        client: name in the zoo. at: where it is cut. prior: name in the zoo, or what else `open_prior` takes.
        device, dtype: of the networks; the precision is that of the prior.
        defence: spec of the defence that the inverse network was trained against, "" for none.
    """

    client: str
    at: str
    prior: str
    device: str = "cpu"
    defence: str = ""
    dtype: torch.dtype = torch.float32

    @cached_property
    def diffusion(self) -> LatentPrior | PixelPrior:
        return open_prior(self.prior, dtype=self.dtype, device=self.device)

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
