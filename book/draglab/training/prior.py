"""The embedded diffusion prior: a `diffusers.UNet2DModel` that predicts the noise in the autoencoder's 8x8x16 latents.

Epsilon-prediction with uniform timesteps (arXiv 2006.11239) on latents scaled to unit variance (arXiv 2112.10752). The betas reach
alpha_bar = 5e-5 at the last timestep, so that sampling may start from pure noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from torch import Tensor, nn

from dragkit import zoo
from dragkit.data import imagenette
from dragkit.devices import pick_device
from dragkit.images import grid
from dragkit.priors.diffusion import LatentPrior
from dragkit.priors.sampling import ddim_sample
from draglab.training.autoencoder import encode_all, views
from draglab.training.export import export_model, part_run, round_to_fp16, run_folder
from draglab.training.loop import Task, TrainConfig, batch_indices, fit
from draglab.training.muon import muon_and_adamw


@dataclass(frozen=True)
class PriorRecipe:
    """The network and its photos.

    Attributes:
        channels: width of each level.
        layers: residual blocks per level.
        dropout: share of the features left out in training.
        crop: smallest random crop, as a share of the photo's area; 1 trains on whole photos, encoded once and for all.
    """

    channels: tuple[int, ...] = (96, 176)
    layers: int = 2
    dropout: float = 0.0
    crop: float = 1.0


CONFIG = TrainConfig(60_000, 64, 2e-3, ema=0.999)

RECIPE = PriorRecipe()


def build(recipe: PriorRecipe, latent_channels: int = 16, side: int = 8) -> UNet2DModel:
    levels = len(recipe.channels)
    return UNet2DModel(
        sample_size=side,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers,
        norm_num_groups=16,
        attention_head_dim=16,
        dropout=recipe.dropout,
        down_block_types=("AttnDownBlock2D",) * levels,
        up_block_types=("AttnUpBlock2D",) * levels,
    )


def noise_schedule() -> DDIMScheduler:
    """The schedule of the latent prior: a thousand steps, scaled linear, from nearly no noise to nearly only noise."""
    return DDIMScheduler(
        beta_start=0.00255, beta_end=0.0192, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )


class PriorTask(Task):
    """Args: vae: the finished autoencoder's folder (`from_pretrained` layout)."""

    def __init__(self, recipe: PriorRecipe, vae: Path, batch: int, seed: int, device: torch.device):
        self.recipe, self.batch, self.seed, self.device = recipe, batch, seed, device
        self.vae = AutoencoderKL.from_pretrained(vae, torch_dtype=torch.float32).to(device).eval().requires_grad_(False)
        self.scheduler = noise_schedule()
        self.alpha_bar = self.scheduler.alphas_cumprod.to(device)
        self.scaling_factor = float(self.vae.config.scaling_factor)
        self.val = encode_all(self.vae, imagenette("val")[0][::4], device) * self.scaling_factor
        self.photos, self.latents = imagenette("train", 80)[0].to(device), torch.empty(0)
        if recipe.crop == 1:
            photos = imagenette("train")[0]
            both = [encode_all(self.vae, x, device) for x in (photos, photos.flip(-1))]
            self.latents = torch.cat(both) * self.scaling_factor
        self.model = build(recipe, self.val.shape[1], self.val.shape[2])

    def _batch(self, step: int, generator: torch.Generator) -> Tensor:
        """Clean latents of the batch of `step`, scaled."""
        if self.recipe.crop == 1:
            return self.latents[batch_indices(len(self.latents), self.batch, step, self.seed)]
        chosen = self.photos[batch_indices(len(self.photos), self.batch, step, self.seed)]
        with torch.no_grad():
            x = views(chosen, self.recipe.crop, generator)
            return self.vae.encode(2 * x - 1).latent_dist.mode().float() * self.scaling_factor

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        """Muon for the matrices between input and output, AdamW for everything else (see `muon_and_adamw`)."""
        outside = ("conv_in", "conv_out", "time_embedding")
        return muon_and_adamw(self.model, config.lr, config.weight_decay, outside)

    def _noise_loss(self, model: nn.Module, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return (model(a.sqrt() * z + (1 - a).sqrt() * noise, t).sample.float() - noise).square().mean()

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of the predicted noise, at a random step for every image."""
        z = self._batch(step, generator)
        t = torch.randint(0, len(self.alpha_bar), (len(z),), generator=generator).to(z.device)
        noise = torch.randn(z.shape, generator=generator).to(z.device)
        return self._noise_loss(self.model, z, t, noise), {}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Noise loss on validation latents, with timesteps spread evenly and noise that is always the same."""
        generator = torch.Generator().manual_seed(1)
        t = torch.linspace(0, len(self.alpha_bar) - 1, len(self.val)).long()[
            torch.randperm(len(self.val), generator=generator)
        ]
        noise = torch.randn(self.val.shape, generator=generator)
        parts = zip(self.val.split(128), t.to(self.device).split(128), noise.to(self.device).split(128), strict=True)
        return {
            "noise_loss": sum(self._noise_loss(model, *part).item() * len(part[0]) for part in parts) / len(self.val)
        }

    def samples(self, model: nn.Module) -> Tensor:
        prior = LatentPrior(self.vae, model, self.scheduler)  # type: ignore[arg-type]
        images = ddim_sample(prior, range(24), num_steps=25)
        model.requires_grad_(True)
        return grid(images.cpu(), columns=12)


# -- the command ------------------------------------------------------------------------------------------------------


def train_prior(config: TrainConfig = CONFIG, recipe: PriorRecipe = RECIPE, name: str = zoo.PRIOR) -> Path:
    """Train and export the noise predictor of a prior, on its autoencoder's latents (just exported, or shipped).

    Args:
        config: length and pace. recipe: network and photos. name: of the prior that the noise predictor belongs to.

    Returns:
        The export folder.
    """
    run, vae = part_run(name, "unet"), run_folder(part_run(name, "vae")) / "export"
    vae = vae if vae.exists() else zoo.verify(f"{name}/vae")
    task = PriorTask(recipe, vae, config.batch, config.seed, pick_device(config.device))
    model = fit(task, config, run_folder(run))
    round_to_fp16(task.model, model)
    measured = {"noise_loss": {"value": task.evaluate(task.model)["noise_loss"], "n": len(task.val)}}
    out = export_model(task.model, run, f"{name}/unet", measured, config, asdict(recipe), f"prior --name {name}")
    task.scheduler.save_pretrained(out / "scheduler")
    return out
