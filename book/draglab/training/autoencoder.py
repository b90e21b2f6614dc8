"""The embedded autoencoder: a small `diffusers.AutoencoderKL`, 64x64 photos to 8x8 latents of 16 channels (f = 8).

Loss: mean over photos of log MSE (whose average is PSNR up to a factor), ST-LPIPS (arXiv 2207.13686) on part of each batch, and a
light KL term as in latent diffusion (arXiv 2112.10752, appendix G).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dragkit import zoo
from dragkit.data import imagenette
from dragkit.devices import pick_device
from dragkit.images import grid
from dragkit.measures.metrics import StLpips, psnr, ssim, st_lpips
from draglab.training.augment import random_crop
from draglab.training.export import export_model, measure_rebuilt, part_run, round_to_fp16, run_folder
from draglab.training.loop import Task, TrainConfig, batch_indices, fit
from draglab.training.muon import muon_and_adamw


@dataclass(frozen=True)
class AutoencoderRecipe:
    """The network and its loss.

    Attributes:
        channels: width of each level.
        layers: residual blocks per level.
        latent_channels: numbers at each of the 8x8 positions.
        kl: weight of the KL term, per latent dimension, in nats.
        perceptual: weight of ST-LPIPS.
        perceptual_share: share of the photos of a batch in ST-LPIPS, which costs twice as much as the model.
        perceptual_from: step from which ST-LPIPS is part of the loss.
        crop: smallest random crop, as a share of the photo's area; 1 trains on whole photos.
    """

    channels: tuple[int, ...] = (24, 48, 96, 192)
    layers: int = 1
    latent_channels: int = 16
    kl: float = 2e-3
    perceptual: float = 1.0
    perceptual_share: float = 0.25
    perceptual_from: int = 0
    crop: float = 1.0


CONFIG = TrainConfig(40_000, 32, 2e-3, warmup=300, ema=0.998, decay=0.35)

RECIPE = AutoencoderRecipe(perceptual_from=4_000, perceptual_share=0.125)


def build(recipe: AutoencoderRecipe) -> AutoencoderKL:
    """A fresh model whose residual branches start at zero, so that training begins from a linear multi-scale transform."""
    levels = len(recipe.channels)
    model = AutoencoderKL(
        latent_channels=recipe.latent_channels,
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )
    for name, module in model.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


class AutoencoderTask(Task):
    """Photos through an autoencoder and back: squared error, the size of the latent, and how alike it looks.

    Attributes:
        recipe: what is trained and how. batch: photos a step.
        seed: of the batches. device: where the photos lie.
        model: with fresh weights. photos, val: training and validation photos, uint8 `(N, 3, H, W)`.
        perceptual: ST-LPIPS on the device; None where the recipe gives it no weight.
    """

    def __init__(self, recipe: AutoencoderRecipe, batch: int, seed: int, device: torch.device):
        self.recipe, self.batch, self.seed, self.device = recipe, batch, seed, device
        self.model = build(recipe)
        self.photos = imagenette("train", 64 if recipe.crop == 1 else 80)[0].to(device)  # room for crops
        self.val = imagenette("val")[0].to(device)
        self.perceptual = StLpips().to(device) if recipe.perceptual > 0 else None

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        """Muon for the matrices between input and output, AdamW for everything else (see `muon_and_adamw`)."""
        outside = (
            "encoder.conv_in",
            "encoder.conv_out",
            "quant_conv",
            "post_quant_conv",
            "decoder.conv_in",
            "decoder.conv_out",
        )
        return muon_and_adamw(self.model, config.lr, config.weight_decay, outside)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Mean log squared error of the round trip, plus the weighted KL of the latent and, late in the run, ST-LPIPS."""
        index = batch_indices(len(self.photos), self.batch, step, self.seed)
        x = 2 * views(self.photos[index], self.recipe.crop, generator) - 1
        posterior = self.model.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
        y = self.model.decode(posterior.mean + posterior.std * noise).sample.float()
        mse = (y - x).square().mean((1, 2, 3))
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        loss = torch.log(mse + 1e-5).mean() + self.recipe.kl * kl
        logged = {"psnr": (10 * torch.log10(4 / mse)).mean().item(), "kl": kl.item()}
        if self.perceptual is not None and step >= self.recipe.perceptual_from:
            n = max(1, round(self.recipe.perceptual_share * len(x)))
            distance = self.perceptual(y[:n] / 2 + 0.5, x[:n] / 2 + 0.5).mean()
            loss = loss + self.recipe.perceptual * distance
            logged["st_lpips"] = distance.item()
        return loss, logged

    def evaluate(self, model: nn.Module, n: int = 200) -> dict[str, float]:
        """PSNR and SSIM of the round trip (posterior mean) on `n` validation photos spread over the subset."""
        x = self.val[:: max(1, len(self.val) // n)].float() / 255
        y = torch.cat([reconstruct(model, part) for part in x.split(64)])
        return {"psnr": psnr(y, x).mean().item(), "ssim": ssim(y, x).mean().item()}

    def samples(self, model: nn.Module) -> Tensor:
        x = self.val[:: len(self.val) // 12][:12].float() / 255
        return grid(torch.cat([x, reconstruct(model, x)]).cpu(), columns=12)


def views(photos: Tensor, crop: float, generator: torch.Generator) -> Tensor:
    """uint8 `photos` to `(B, 3, 64, 64)` in [0, 1]: flipped at random, and cropped if `crop` is below 1."""
    x = photos.float() / 255
    if crop < 1:
        return random_crop(x, crop, generator, aspect=1.1)
    flip = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
    return torch.where(flip[:, None, None, None], x.flip(-1), x)


@torch.no_grad()
def reconstruct(model: Any, images: Tensor) -> Tensor:
    """Decode the posterior mean of `images` `(B, 3, H, W)` in [0, 1]; same shape, clamped."""
    latent = model.encode(images * 2 - 1).latent_dist.mode()
    return (model.decode(latent).sample / 2 + 0.5).clamp(0, 1)


# -- the command ------------------------------------------------------------------------------------------------------


def train_autoencoder(config: TrainConfig = CONFIG, recipe: AutoencoderRecipe = RECIPE, name: str = zoo.PRIOR) -> Path:
    """Train and export the 64x64 autoencoder of a prior.

    Args:
        config: length and pace. recipe: network and loss. name: of the prior that the autoencoder belongs to.

    Returns:
        The export folder.
    """
    device, run = pick_device(config.device), part_run(name, "vae")
    task = AutoencoderTask(recipe, config.batch, config.seed, device)
    model = fit(task, config, run_folder(run))
    round_to_fp16(task.model, model)
    with torch.no_grad():
        latents = encode_all(task.model, imagenette("train")[0][::4], device)
    task.model.register_to_config(scaling_factor=float(1 / latents.std()))
    measured = measure_autoencoder(task.model, device)
    return export_model(task.model, run, f"{name}/vae", measured, config, asdict(recipe), f"autoencoder --name {name}")


def measure_autoencoder(model: AutoencoderKL, device: torch.device) -> dict[str, Any]:
    """Round trip (posterior mean) of all validation photos: mean PSNR in dB, SSIM, ST-LPIPS."""
    metrics = {"psnr": psnr, "ssim": ssim, "st_lpips": st_lpips}
    return measure_rebuilt(lambda x: reconstruct(model, x), metrics, device)


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: Tensor, device: torch.device) -> Tensor:
    """Posterior means of uint8 `images` `(N, 3, 64, 64)`: `(N, 16, 8, 8)`, unscaled, on `device`."""
    parts = [vae.encode(x.to(device).float() / 127.5 - 1).latent_dist.mode() for x in images.split(128)]
    return torch.cat(parts)
