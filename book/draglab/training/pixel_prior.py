"""The embedded pixel-space prior: a `diffusers.UNet2DModel` that predicts the noise in 64x64 photos themselves.

Epsilon-prediction with uniform timesteps on images in [-1, 1] and the linear schedule of arXiv 2006.11239, which is also that of
the pixel prior in the published pixel variant of DRAG (an LSUN bedroom DDPM). It ends at alpha_bar = 4e-5, where sampling may
start from pure noise and Tweedie's formula can still divide by sqrt(alpha_bar); a cosine schedule, kinder to small images,
ends too near zero for that.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor, nn

from dragkit import zoo
from dragkit.data import imagenette
from dragkit.devices import pick_device
from dragkit.images import grid
from dragkit.priors.diffusion import PixelPrior
from dragkit.priors.sampling import ddim_sample
from draglab.training.autoencoder import views
from draglab.training.export import export_model, round_to_fp16, run_folder
from draglab.training.loop import TrainConfig, batch_indices, fit
from draglab.training.prior import PriorTask

SIDE = 64

ATTENTION = 8  # pixels; levels no larger than this attend

UNIT = 16  # widths are multiples of it: eight groups of the norms, heads of sixteen features


@dataclass(frozen=True)
class PixelRecipe:
    """The network and its photos.

    Attributes:
        channels: width of each level, at 64, 32, 16, ... pixels; the first one sets the cost.
        layers: residual blocks per level.
        dropout: share of the features left out in training.
        crop: smallest random crop, as a share of the photo's area; 1 trains on whole photos, flipped or not.

    Raises:
        ValueError: a field that cannot work.
    """

    channels: tuple[int, ...] = (32, 48, 96, 128)
    layers: int = 1
    dropout: float = 0.0
    crop: float = 0.8

    def __post_init__(self) -> None:
        if not 2 <= len(self.channels) <= 5 or any(c < UNIT or c % UNIT for c in self.channels):
            raise ValueError(f"channels is {self.channels}; it must be 2 to 5 widths, each a multiple of {UNIT}")
        if self.layers < 1:
            raise ValueError(f"layers is {self.layers}; one residual block per level is the least")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is {self.crop}; it is a share of the photo's area, in (0, 1]")


CONFIG = TrainConfig(20_000, 32, 2e-3, ema=0.999, save_every=900.0)  # each report takes half a minute on one core

RECIPE = PixelRecipe()


def build(recipe: PixelRecipe) -> UNet2DModel:
    """The untrained noise predictor, `(B, 3, 64, 64)` to the same; attention from 8x8 down."""
    small = [SIDE >> level <= ATTENTION for level in range(len(recipe.channels))]
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers,
        norm_num_groups=8,
        attention_head_dim=UNIT,
        dropout=recipe.dropout,
        down_block_types=tuple("AttnDownBlock2D" if s else "DownBlock2D" for s in small),
        up_block_types=tuple("AttnUpBlock2D" if s else "UpBlock2D" for s in reversed(small)),
    )


def noise_schedule() -> DDIMScheduler:
    """The linear schedule of the first diffusion models (arXiv 2006.11239), a thousand steps."""
    return DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, set_alpha_to_one=False
    )


def to_pixels(photos: Tensor) -> Tensor:
    """uint8 `photos` in the network's range [-1, 1]."""
    return photos.float() / 127.5 - 1


class PixelTask(PriorTask):
    """The latent prior's loss and evaluation, on photos: they need `alpha_bar`, `val` and `_batch`, and no autoencoder.

    `val` is every eighth validation photo, as a forward pass at 64x64 costs far more than one on latents.
    """

    def __init__(self, recipe: PixelRecipe, batch: int, seed: int, device: torch.device):
        self.crop, self.batch, self.seed, self.device = recipe.crop, batch, seed, device
        self.scheduler = noise_schedule()
        self.alpha_bar = self.scheduler.alphas_cumprod.to(device)
        self.val = to_pixels(imagenette("val")[0][::8]).to(device)
        self.photos = imagenette("train", 80 if recipe.crop < 1 else SIDE)[0].to(device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = build(recipe)

    def _batch(self, step: int, generator: torch.Generator) -> Tensor:
        """Clean images of the batch of `step` in [-1, 1], flipped and cropped at random."""
        chosen = self.photos[batch_indices(len(self.photos), self.batch, step, self.seed)]
        return 2 * views(chosen, self.crop, generator) - 1

    def samples(self, model: nn.Module) -> Tensor:
        images = ddim_sample(PixelPrior(model, self.scheduler), range(24), num_steps=25)  # type: ignore[arg-type]
        model.requires_grad_(True)
        return grid(images.cpu(), columns=12)


# -- the command ------------------------------------------------------------------------------------------------------


MODEL = f"{zoo.PIXEL_PRIOR}/unet"

RUN = MODEL.replace("/", "-")  # by this name `zoo.find` also sees an export that was not shipped


def train_pixel_prior(config: TrainConfig = CONFIG, recipe: PixelRecipe = RECIPE) -> Path:
    """Train and export the noise predictor on pixels: a prior without an autoencoder.

    Args:
        config: length and pace. recipe: network and photos.

    Returns:
        The export folder, which `PixelPrior.from_pretrained` loads. Its card holds the noise loss of all validation photos.
    """
    task = PixelTask(recipe, config.batch, config.seed, pick_device(config.device))
    model = fit(task, config, run_folder(RUN))
    round_to_fp16(task.model, model)
    task.val = to_pixels(imagenette("val")[0]).to(task.device)
    with torch.no_grad():
        measured = {"noise_loss": {"value": task.evaluate(task.model)["noise_loss"], "n": len(task.val)}}
    out = export_model(task.model, RUN, MODEL, measured, config, asdict(recipe), "pixel-prior")
    task.scheduler.save_pretrained(out / "scheduler")
    return out
