"""The adversarial prior of GLASS: a small style-based generator against a convolutional discriminator.

Non-saturating logistic loss (arXiv 1406.2661), lazy R1 penalty (arXiv 1801.04406, 1912.04958), DiffAugment (arXiv 2006.10738).

Both networks are judged in one pass. For the logit l of a fake the discriminator's loss is softplus(l) and the generator's
softplus(-l); their derivatives are s and s - 1 with s = sigmoid(l), so what arrives at the fake from the first needs only the
factor (s - 1) / s = -exp(-l) to be what the second would have sent. The discriminator's own gradient is not touched. This is
exact because no layer mixes the images of a batch, and spares a third of the discriminator's forward passes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from dragkit import zoo
from dragkit.client import SplitClient
from dragkit.data import imagenette
from dragkit.devices import pick_device
from dragkit.images import grid
from dragkit.measures.sets import KernelDistance, kernel_distance
from dragkit.priors.gan import StyleGenerator
from draglab.training.augment import uniform
from draglab.training.autoencoder import views
from draglab.training.export import export_model, round_to_fp16, run_folder
from draglab.training.loop import Task, TrainConfig, batch_indices, fit


@dataclass(frozen=True)
class GanRecipe:
    """Networks and losses; the image size follows from the number of channels, 4 pixels for the first.

    Attributes:
        channels: of the generator, at 4, 8, 16, ... pixels.
        critic_channels: of the discriminator, at the same sizes.
        latent_dim: numbers in z.
        mixing: share of the fakes with two styles, one for the layers before a random one and one from there on.
        mapping_rate: learning rate of the mapping network, as a share of the generator's.
        critic_rate: learning rate of the discriminator, as a share of the generator's.
        r1: weight of the gradient penalty (gamma), for images in [-1, 1].
        r1_every: steps from one penalty to the next, which is weighted accordingly.
        jitter: strength of the colours of DiffAugment, 0 for none.
        shift: largest translation, as a share of the side.
        cutout: side of the hidden square, as a share of the image's.

    Raises:
        ValueError: a field that cannot work.
    """

    channels: tuple[int, ...] = (128, 128, 96, 64, 32)
    critic_channels: tuple[int, ...] = (128, 128, 96, 64, 32)
    latent_dim: int = 128
    mixing: float = 0.9
    mapping_rate: float = 0.1
    critic_rate: float = 1.0
    r1: float = 1.0
    r1_every: int = 16
    jitter: float = 1.0
    shift: float = 0.125
    cutout: float = 0.5

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.critic_channels):
            raise ValueError(
                f"channels {self.channels} and critic_channels {self.critic_channels} must have one entry per resolution each"
            )
        if not 0 <= self.mixing <= 1:
            raise ValueError(f"mixing is {self.mixing}; it is a share, between 0 and 1")
        if self.r1 < 0 or self.r1_every < 1:
            raise ValueError(f"r1 is {self.r1} and r1_every {self.r1_every}; at least 0 and 1 are needed")


CONFIG = TrainConfig(30_000, 32, 3e-4, ema=0.999, clip=100.0)

RECIPE = GanRecipe()


class Discriminator(nn.Module):
    """Images `(B, 3, S, S)` in [-1, 1] to logits `(B,)`: real above 0, fake below. No layer mixes the images of a batch.

    Args:
        channels: at 4, 8, 16, ... pixels, as for the generator.
    """

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        down = tuple(reversed(channels))
        self.first = nn.Conv2d(3, down[0], 3, padding=1)
        self.blocks = nn.ModuleList(_Down(a, b) for a, b in itertools.pairwise(down))
        width = down[-1]
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.hidden = nn.Linear(16 * width, width)
        self.logit = nn.Linear(width, 1)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            else:
                nn.init.kaiming_normal_(p, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = nnf.leaky_relu(self.first(x.contiguous(memory_format=torch.channels_last)), 0.2)
        for block in self.blocks:
            x = block(x)
        x = nnf.leaky_relu(self.mix(x), 0.2).flatten(1)
        return self.logit(nnf.leaky_relu(self.hidden(x), 0.2)).flatten().float()


class _Down(nn.Module):
    """A residual block that halves the resolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.flat = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.down = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nnf.leaky_relu(self.down(nnf.leaky_relu(self.flat(x), 0.2)), 0.2)
        return (y + self.skip(nnf.avg_pool2d(x, 2))) / math.sqrt(2)


class Gan(nn.Module):
    """Both networks as one module, for the training loop."""

    generator: StyleGenerator

    def __init__(self, recipe: GanRecipe):
        super().__init__()
        self.generator = StyleGenerator(recipe.channels, recipe.latent_dim)
        self.discriminator = Discriminator(recipe.critic_channels)


class GanTask(Task):
    """Args: client: a model whose last tokens, averaged, are the features in which samples are compared with photos."""

    def __init__(self, recipe: GanRecipe, batch: int, seed: int, device: torch.device, client: SplitClient):
        self.recipe, self.batch, self.seed, self.device, self.client = recipe, batch, seed, device, client
        self.model = Gan(recipe)
        size = self.model.generator.image_size
        self.photos = imagenette("train", size)[0].to(device)
        photos = pooled_features(client, imagenette("val", size)[0][::4].to(device).float() / 255)
        self.centre, self.spread = photos.mean(0), photos.std(0)
        self.reference = self._standardise(photos)

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        """Two Adams (0, 0.99); `config.lr` is the generator's. Weight decay is not used."""
        generator, critic = self.model.generator, self.model.discriminator
        mapping = list(generator.mapping_network.parameters())
        rest = [p for name, p in generator.named_parameters() if not name.startswith("mapping_network")]
        groups: list[dict[str, Any]] = [
            {"params": rest},
            {"params": mapping, "lr": config.lr * self.recipe.mapping_rate},
        ]
        betas = (0.0, 0.99)
        return [
            torch.optim.Adam(groups, lr=config.lr, betas=betas),
            torch.optim.Adam(critic.parameters(), lr=config.lr * self.recipe.critic_rate, betas=betas),
        ]

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The critic's loss, whose gradient is turned around for the generator, and now and then the R1 penalty."""
        index = batch_indices(len(self.photos), self.batch, step, self.seed)
        real = 2 * views(self.photos[index], 1.0, generator) - 1
        fake = 2 * self._fakes(generator) - 1
        shown = diff_augment(torch.cat([fake, real]), self.recipe, generator)
        on_fake, on_real = self.model.discriminator(shown).chunk(2)
        turn_into_generator_gradient(fake, on_fake)
        loss = nnf.softplus(on_fake).mean() + nnf.softplus(-on_real).mean()
        logged = {
            "critic": loss.item(),
            "generator": nnf.softplus(-on_fake).mean().item(),
            "sign": 0.5
            * (on_real.sign().mean() - on_fake.sign().mean()).item(),  # 1: the discriminator is always right
        }
        if self.recipe.r1 > 0 and step % self.recipe.r1_every == 0:
            penalty = self._r1(real, generator)
            loss = loss + 0.5 * self.recipe.r1 * self.recipe.r1_every * penalty
            logged["r1"] = penalty.item()
        return loss, logged

    def _fakes(self, generator: torch.Generator) -> Tensor:
        """A batch of images with mixed styles (arXiv 1812.04948), so that W+ holds more than copies of one style."""
        network = self.model.generator
        z = torch.randn(2 * self.batch, self.recipe.latent_dim, generator=generator)
        first, second = (network.broadcast(w) for w in network.mapping(z.to(self.device)).chunk(2))
        start = torch.randint(1, network.num_layers, (self.batch, 1, 1), generator=generator)
        mixed = torch.rand(self.batch, 1, 1, generator=generator) < self.recipe.mixing
        switched = mixed & (torch.arange(network.num_layers).view(1, -1, 1) >= start)
        return network.synthesis(torch.where(switched.to(self.device), second, first))

    def _r1(self, real: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared norm of the logit's gradient at photos, in float32: it is differentiated once more."""
        with torch.autocast(self.device.type, enabled=False):
            leaf = real.detach().requires_grad_(True)
            logits = self.model.discriminator(diff_augment(leaf, self.recipe, generator))
            (grad,) = torch.autograd.grad(logits.sum(), leaf, create_graph=True)
            return grad.square().sum((1, 2, 3)).mean()

    def evaluate(self, model: Any) -> dict[str, float]:
        """Kernel distance between samples and validation photos."""
        return {"kernel_distance": self.sample_distance(model.generator).value}

    def sample_distance(self, generator: nn.Module) -> KernelDistance:
        """Kernel distance between samples and validation photos, as many of each."""
        images = draw(generator, len(self.reference), self.recipe.latent_dim, self.device)
        return kernel_distance(self._standardise(pooled_features(self.client, images)), self.reference)

    def photo_distance(self) -> KernelDistance:
        """The same for training photos instead of samples: what a perfect generator would reach."""
        n = len(self.reference)
        photos = self.photos[:: len(self.photos) // n][:n].float() / 255
        return kernel_distance(self._standardise(pooled_features(self.client, photos)), self.reference)

    def _standardise(self, features: Tensor) -> Tensor:
        """Zero mean and unit variance on validation photos: the kernel has no scale of its own."""
        return (features - self.centre) / self.spread

    def samples(self, model: Any) -> Tensor:
        return grid(draw(model.generator, 48, self.recipe.latent_dim, self.device).cpu(), columns=12)


def turn_into_generator_gradient(fake: Tensor, logits: Tensor) -> None:
    """Make the gradient of sum softplus(logits) that reaches `fake` that of sum softplus(-logits); see the top of this file."""
    factor = -torch.exp(-logits.detach()).clamp(max=1e6).view(-1, 1, 1, 1)
    fake.register_hook(lambda grad: grad * factor.to(grad.dtype))


@torch.no_grad()
def draw(generator: nn.Module, n: int, latent_dim: int, device: torch.device) -> Tensor:
    """`n` samples `(n, 3, S, S)` in [0, 1], always of the same z."""
    z = torch.randn(n, latent_dim, generator=torch.Generator().manual_seed(1)).to(device)
    return torch.cat([generator(part).clamp(0, 1) for part in z.split(64)])


@torch.no_grad()
def pooled_features(client: SplitClient, images: Tensor) -> Tensor:
    """Mean token of each image, `(B, D)`."""
    return torch.cat([client.tokens(client(x)).mean(1) for x in images.split(128)])


def diff_augment(x: Tensor, recipe: GanRecipe, generator: torch.Generator) -> Tensor:
    """DiffAugment (arXiv 2006.10738) of images `(B, 3, S, S)` in [-1, 1]: colour, translation, cutout; one draw per image."""
    return _cutout(_translate(_colour(x, recipe.jitter, generator), recipe.shift, generator), recipe.cutout, generator)


def _colour(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness +- 0.5, saturation x 0 to 2, contrast x 0.5 to 1.5, at strength 1."""
    if strength == 0:
        return x
    draws = [uniform(len(x), -strength, strength, generator).view(-1, 1, 1, 1).to(x.device) for _ in range(3)]
    x = x + 0.5 * draws[0]
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + draws[1])
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (1 + 0.5 * draws[2])


def _translate(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Whole pixels in both directions, black (0) where nothing is left."""
    reach = round(share * x.shape[-1])
    if reach == 0:
        return x
    moves = torch.randint(0, 2 * reach + 1, (len(x), 2), generator=generator).tolist()
    padded, side = nnf.pad(x, (reach,) * 4), x.shape[-1]
    return torch.stack([p[:, i : i + side, j : j + side] for p, (i, j) in zip(padded, moves, strict=True)])


def _cutout(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A square of side `share * S` with its centre anywhere is set to 0."""
    side = x.shape[-1]
    if round(share * side) == 0:
        return x
    centre = torch.randint(0, side + 1, (len(x), 2), generator=generator)[..., None]
    hit = (torch.arange(side) + 0.5 - centre).abs() < share * side / 2
    kept = ~(hit[:, 0, :, None] & hit[:, 1, None, :])
    return x * kept[:, None].to(x)


# -- the command ------------------------------------------------------------------------------------------------------


FEATURES = "block:12"  # of the embedded client, in which samples are judged


def train_gan(config: TrainConfig = CONFIG, recipe: GanRecipe = RECIPE) -> Path:
    """Train and export the GAN in whose latent space GLASS searches; the discriminator stays in the run's checkpoint.

    Args:
        config: length and pace. recipe: networks and losses.

    Returns:
        The generator's export folder.
    """
    device = pick_device(config.device)
    task = GanTask(recipe, config.batch, config.seed, device, zoo.load_client(at=FEATURES, device=str(device)))
    averaged: Any = fit(task, config, run_folder("gan"))
    averaged.generator.update_statistics()
    round_to_fp16(task.model, averaged)
    samples, photos = task.sample_distance(task.model.generator), task.photo_distance()
    n = len(task.reference)
    measured = {
        "kernel_distance": {"value": samples.value, "se": samples.standard_error, "n": n, "features": FEATURES},
        "kernel_distance_of_training_photos": {"value": photos.value, "se": photos.standard_error, "n": n},
    }
    return export_model(task.model.generator, "gan", zoo.GAN, measured, config, asdict(recipe))
