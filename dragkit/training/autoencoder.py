"""The embedded autoencoder: a small `diffusers.AutoencoderKL`, 64x64 photos to 8x8 latents of 16 channels (f = 8).

Loss: mean over photos of log MSE (whose average is PSNR up to a factor), ST-LPIPS (arXiv 2207.13686) on part of each batch, and a
light KL term as in latent diffusion (arXiv 2112.10752, appendix G).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dragkit.data import imagenette
from dragkit.images import grid
from dragkit.metrics import StLpips, psnr, ssim
from dragkit.training.augment import random_crop
from dragkit.training.loop import Task, TrainConfig, batch_indices
from dragkit.training.muon import muon_and_adamw


@dataclass(frozen=True)
class AutoencoderRecipe:
    channels: tuple[int, ...] = (24, 48, 96, 192)
    layers: int = 1
    latent_channels: int = 16
    kl: float = 2e-3  # per latent dimension, in nats
    perceptual: float = 1.0
    perceptual_share: float = 0.25  # of the photos of a batch: the metric costs twice as much as the model
    perceptual_from: int = 0  # step
    crop: float = 1.0  # smallest area of a random crop; 1 trains on whole photos


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
    def __init__(self, recipe: AutoencoderRecipe, batch: int, seed: int, device: torch.device):
        self.recipe, self.batch, self.seed, self.device = recipe, batch, seed, device
        self.model = build(recipe)
        self.photos = imagenette("train", 64 if recipe.crop == 1 else 80)[0].to(device)  # room for crops
        self.val = imagenette("val")[0].to(device)
        self.perceptual = StLpips().to(device) if recipe.perceptual > 0 else None

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
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
        """PSNR and SSIM of the round trip (posterior mean) on `n` validation photos spread over the split."""
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
