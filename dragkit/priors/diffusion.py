"""Diffusion priors: what the attacker knows about photos in general.

A prior encodes photos to latents, decodes latents to photos and predicts the noise in a noisy latent; nothing else. `[0, 1]` images
come in and go out; the networks' `[-1, 1]` range and the latent scaling exist only in this file. Two kinds are loaded by path or
hub name: unconditional (`AutoencoderKL` + `UNet2DModel` + `DDIMScheduler`, the embedded one) and Stable Diffusion v1.5
(`UNet2DConditionModel` with the embedding of the empty prompt, no classifier-free guidance).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from dragkit.config import DragConfig

Settings = tuple[Callable[[int], DragConfig], Callable[[int], DragConfig]]
"""Turns to settings of DRAG: from noise, and from a first guess."""

PUBLISHED: Settings = (DragConfig.published, DragConfig.published_plus)
STABLE_DIFFUSION_15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


class LatentPrior:
    """Latent diffusion (arXiv 2112.10752): a variational autoencoder and a noise predictor on its latents.

    Args:
        vae, unet: diffusers models; frozen and put in eval mode here.
        scheduler: only its table of alpha_bar is used; the sampler's arithmetic is `dragkit.schedule`.
        embedding: `(1, tokens, width)` text embedding of "" for a conditional `unet`; None for an unconditional one.
        image_size: side of the images; default is what the unet was trained for.
        settings: turns to the settings of DRAG that suit this prior, from noise and from a first guess; by default the published
            ones, which suit Stable Diffusion.

    Raises:
        ValueError: parts that do not fit each other, a schedule that does not predict noise, weights that are not finite.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DModel | UNet2DConditionModel,
        scheduler: DDIMScheduler,
        *,
        embedding: Tensor | None = None,
        image_size: int | None = None,
        name: str = "prior",
        settings: Settings = PUBLISHED,
    ):
        prediction = scheduler.config.prediction_type
        if prediction != "epsilon":
            raise ValueError(f"the prior's scheduler says prediction_type {prediction!r}; only 'epsilon' is supported")
        if unet.config.in_channels != vae.config.latent_channels:
            raise ValueError(
                f"the unet takes {unet.config.in_channels} channels, the autoencoder's latents have {vae.config.latent_channels}"
            )
        if isinstance(unet, UNet2DConditionModel) != (embedding is not None):
            raise ValueError("a UNet2DConditionModel needs the embedding of the empty prompt, and only it")
        for part, module in (("vae", vae), ("unet", unet)):
            _check_finite(part, module)
        self.vae, self.unet = (m.eval().requires_grad_(False) for m in (vae, unet))
        self.embedding, self.name, self.settings = embedding, name, settings
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        side = image_size or int(unet.config.sample_size) * factor
        if side % factor:
            raise ValueError(f"image_size is {side}; it must be a multiple of the autoencoder's factor {factor}")
        self.image_size = side
        self.latent_shape = (unet.config.in_channels, side // factor, side // factor)
        self.scaling_factor = float(vae.config.scaling_factor)
        self.shift = float(vae.config.shift_factor or 0.0)
        self.alpha_bar = scheduler.alphas_cumprod.double().cpu()

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        image_size: int | None = None,
        variant: str | None = None,
    ) -> LatentPrior:
        """Load a prior from a folder in diffusers' layout or by hub name, e.g. `STABLE_DIFFUSION_15`. Safetensors only.

        The folder holds `vae/`, `unet/`, `scheduler/`, and for Stable Diffusion `tokenizer/` and `text_encoder/`.

        The precision is always explicit: without it each library would choose its own.

        Raises:
            OSError: a part is missing; the message names it.
        """
        where = str(path_or_name)
        load = {"torch_dtype": dtype, "use_safetensors": True, "variant": variant}
        kind = _unet_class(where)
        vae = AutoencoderKL.from_pretrained(where, subfolder="vae", **load)
        unet = kind.from_pretrained(where, subfolder="unet", **load)
        scheduler = DDIMScheduler.from_pretrained(where, subfolder="scheduler")
        embedding = None
        if kind is UNet2DConditionModel:
            embedding = _empty_prompt(where, dtype, variant).to(device)
        name = Path(where).name or where
        return cls(vae.to(device), unet.to(device), scheduler, embedding=embedding, image_size=image_size, name=name)

    def encode(self, images: Tensor) -> Tensor:
        self._expect(images, (3, self.image_size, self.image_size), "images")
        latent = self.vae.encode((images * 2 - 1).to(self.vae.dtype)).latent_dist.mode()
        return (latent.to(images.dtype) - self.shift) * self.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        self._expect(z, self.latent_shape, "z")
        image = self.vae.decode((z / self.scaling_factor + self.shift).to(self.vae.dtype)).sample
        return image.to(z.dtype) / 2 + 0.5

    def predict_noise(self, z_t: Tensor, t: int) -> Tensor:
        self._expect(z_t, self.latent_shape, "z_t")
        steps = torch.full((len(z_t),), t, device=z_t.device)
        sample = z_t.to(self.unet.dtype)
        if self.embedding is None:
            eps = self.unet(sample, steps).sample
        else:
            eps = self.unet(sample, steps, self.embedding.expand(len(z_t), -1, -1)).sample
        return eps.to(z_t.dtype)

    def recommended(self, turns: int = 400, *, guess: bool = False) -> DragConfig:
        """Settings of DRAG that suit this prior, for about `turns` turns; with `guess` those of DRAG++, from a first guess."""
        return self.settings[guess](turns)

    def double(self) -> LatentPrior:
        """The same prior with float64 networks, in place: for golden tests."""
        self.vae.double()
        self.unet.double()
        self.embedding = None if self.embedding is None else self.embedding.double()
        return self

    def _expect(self, x: Tensor, shape: tuple[int, int, int], name: str) -> None:
        if x.ndim != 4 or tuple(x.shape[1:]) != shape:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; prior {self.name!r} takes (B, {', '.join(map(str, shape))})"
            )

    def __repr__(self) -> str:
        millions = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (self.vae, self.unet)]
        networks = f"autoencoder {millions[0]:.1f} M, noise predictor {millions[1]:.1f} M"
        return f"LatentPrior({self.name!r}, {self.image_size} px, latents {self.latent_shape}, {networks})"


class PixelPrior:
    """Diffusion directly on pixels (arXiv 2006.11239): the "latent" is the image in [-1, 1] and there is no autoencoder.

    Args:
        unet: unconditional noise predictor with three channels; frozen and put in eval mode here.
        scheduler: a DDIM or DDPM scheduler; only its table of alpha_bar is used.
        settings: turns to the settings of DRAG that suit this prior, from noise and from a first guess; published by default.

    Raises:
        ValueError: a unet that needs a class label or does not map three channels to three, a schedule that does not predict
            noise, weights that are not finite.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DDIMScheduler,
        *,
        name: str = "pixel prior",
        settings: Settings = PUBLISHED,
    ):
        if scheduler.config.prediction_type != "epsilon":
            raise ValueError(f"prediction_type is {scheduler.config.prediction_type!r}; only 'epsilon' is supported")
        if unet.config.in_channels != 3:
            raise ValueError(f"the unet takes {unet.config.in_channels} channels; a pixel prior takes 3")
        if unet.config.out_channels != 3:
            raise ValueError(
                f"the unet answers with {unet.config.out_channels} channels; a pixel prior answers with 3 (one that learned "
                "its variance too is not supported)"
            )
        if unet.config.num_class_embeds is not None or unet.config.class_embed_type is not None:
            raise ValueError("the unet wants class labels; a pixel prior is unconditional")
        _check_finite("unet", unet)
        self.unet, self.name, self.settings = unet.eval().requires_grad_(False), name, settings
        self.image_size = int(unet.config.sample_size)
        self.latent_shape = (3, self.image_size, self.image_size)
        self.alpha_bar = scheduler.alphas_cumprod.double().cpu()

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @classmethod
    def from_pretrained(
        cls, path_or_name: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> PixelPrior:
        """Load a pixel prior from a folder in diffusers' layout or by hub name, e.g. "google/ddpm-bedroom-256". Safetensors only.

        The unet and the scheduler lie in `unet/` and `scheduler/`, or at the top as in Google's DDPM repositories.

        Raises:
            OSError: a part is missing. ValueError: the unet is of another class; see also the constructor.
        """
        where = str(path_or_name)
        at = _subfolder(UNet2DModel, where, "unet")
        named = UNet2DModel.load_config(where, subfolder=at).get("_class_name")
        if named != "UNet2DModel":
            raise ValueError(f"the unet in {where} is a {named}; a pixel prior needs a UNet2DModel")
        unet = UNet2DModel.from_pretrained(where, subfolder=at, torch_dtype=dtype, use_safetensors=True)
        scheduler = DDIMScheduler.from_pretrained(where, subfolder=_subfolder(DDIMScheduler, where, "scheduler"))
        return cls(unet.to(device), scheduler, name=Path(where).name or where)

    def encode(self, images: Tensor) -> Tensor:
        self._expect(images, "images")
        return images * 2 - 1

    def decode(self, z: Tensor) -> Tensor:
        self._expect(z, "z")
        return z / 2 + 0.5

    def predict_noise(self, z_t: Tensor, t: int) -> Tensor:
        self._expect(z_t, "z_t")
        steps = torch.full((len(z_t),), t, device=z_t.device)
        return self.unet(z_t.to(self.unet.dtype), steps).sample.to(z_t.dtype)

    def recommended(self, turns: int = 400, *, guess: bool = False) -> DragConfig:
        """Settings of DRAG that suit this prior, for about `turns` turns; with `guess` those of DRAG++, from a first guess."""
        return self.settings[guess](turns)

    def _expect(self, x: Tensor, name: str) -> None:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.latent_shape:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; prior {self.name!r} takes (B, {', '.join(map(str, self.latent_shape))})"
            )

    def __repr__(self) -> str:
        millions = sum(p.numel() for p in self.unet.parameters()) / 1e6
        return f"PixelPrior({self.name!r}, {self.image_size} px, noise predictor {millions:.1f} M)"


def _subfolder(loader: type, where: str, part: str) -> str | None:
    """`part` where its files lie in a folder of that name, None where they lie at the top."""
    try:
        loader.load_config(where, subfolder=part)  # type: ignore[attr-defined]
    except OSError:
        return None
    return part


def _check_finite(part: str, module: nn.Module) -> None:
    for name, p in module.named_parameters():
        if not torch.isfinite(p).all():
            raise ValueError(
                f"weight {name!r} of the prior's {part} is not finite; the checkpoint is damaged, load it again"
            )


def _unet_class(where: str) -> type[UNet2DModel] | type[UNet2DConditionModel]:
    config = UNet2DModel.load_config(where, subfolder="unet")
    classes: dict[str, type] = {"UNet2DModel": UNet2DModel, "UNet2DConditionModel": UNet2DConditionModel}
    named = config.get("_class_name")
    if named not in classes:
        raise ValueError(f"{where}/unet is a {named}; a prior needs one of {', '.join(classes)}")
    return classes[named]


@torch.no_grad()
def _empty_prompt(where: str, dtype: torch.dtype, variant: str | None) -> Tensor:
    """Stable Diffusion's condition for "": `last_hidden_state` of its text encoder, padded to the full length, `(1, 77, width)`.

    Computed once per load; tokenizer and text encoder are dropped afterwards.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(where, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(
        where, subfolder="text_encoder", dtype=dtype, use_safetensors=True, variant=variant
    )
    ids = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    return encoder.eval()(ids).last_hidden_state
