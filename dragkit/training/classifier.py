"""The embedded client: a 12-block ViT trained from scratch on Imagenette, its tokens narrower than its 8x8x3 = 192 patches.

Recipe: random resized crops, flips, colour jitter, CutMix or mixup and label smoothing, after "How to train your ViT"
(arXiv 2106.10270); the matrices of the blocks are trained with Muon (`torch.optim.Muon`), everything else with AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from dragkit.data import CLASSES, imagenette
from dragkit.training.loop import Task, TrainConfig, batch_indices
from dragkit.training.muon import muon_and_adamw

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class ClassifierRecipe:
    width: int = 128
    heads: int = 4
    patch: int = 8
    blocks: int = 12
    dropout: float = 0.0
    crop: float = 0.35  # smallest area of a random crop
    jitter: float = 0.3  # brightness, contrast, saturation
    mix: float = 0.5  # share of the batches that are mixed (CutMix or mixup, evenly)
    smoothing: float = 0.1


def build(recipe: ClassifierRecipe) -> ViTForImageClassification:
    config = ViTConfig(
        hidden_size=recipe.width,
        intermediate_size=4 * recipe.width,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=recipe.heads,
        hidden_dropout_prob=recipe.dropout,
        image_size=64,
        patch_size=recipe.patch,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
    )
    return ViTForImageClassification(config)


class ClassifierTask(Task):
    def __init__(self, recipe: ClassifierRecipe, batch: int, seed: int, device: torch.device):
        self.recipe, self.batch, self.seed, self.device = recipe, batch, seed, device
        self.model = build(recipe)
        photos, labels = imagenette("train", 80)  # larger than the model's 64 px: room for crops
        self.photos, self.labels = photos.to(device), labels.to(device)
        val, val_labels = imagenette("val", 64)
        self.val, self.val_labels = val.to(device), val_labels.to(device)

    def optimizers(self, config: TrainConfig) -> list[torch.optim.Optimizer]:
        outside = ("vit.embeddings", "classifier")
        return muon_and_adamw(self.model, config.lr, config.weight_decay, outside)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        index = batch_indices(len(self.photos), self.batch, step, self.seed)
        x = augment(self.photos[index].float() / 255, self.recipe, generator)
        target = nnf.one_hot(self.labels[index], len(CLASSES)).float()
        x, target = mix(x, target, self.recipe.mix, generator)
        logits = self.model(normalise(x)).logits.float()
        loss = nnf.cross_entropy(logits, target, label_smoothing=self.recipe.smoothing)
        return loss, {"train_top1": (logits.argmax(1) == target.argmax(1)).float().mean().item()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"top1": top1(model, self.val, self.val_labels)}


def normalise(x: Tensor) -> Tensor:
    """Images in [0, 1] to the network's range."""
    return (x - MEAN[0]) / STD[0]


@torch.no_grad()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of uint8 `images` `(N, 3, 64, 64)` whose most likely class is the label."""
    right = 0
    for x, y in zip(images.split(256), labels.split(256), strict=True):
        right += int((model(normalise(x.float() / 255)).logits.argmax(1) == y).sum())
    return right / len(images)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def augment(x: Tensor, recipe: ClassifierRecipe, generator: torch.Generator, size: int = 64) -> Tensor:
    """Random resized crop, flip and colour jitter, one draw per photo, as one resampling of the batch."""
    n = len(x)
    area = _uniform(n, recipe.crop, 1.0, generator)
    aspect = torch.exp(_uniform(n, -0.288, 0.288, generator))  # 3/4 to 4/3
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    sign = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * sign, height
    theta[:, 0, 2] = _uniform(n, -1, 1, generator) * (1 - width)
    theta[:, 1, 2] = _uniform(n, -1, 1, generator) * (1 - height)
    where = nnf.affine_grid(theta, [n, 3, size, size], align_corners=False).to(x.device)
    x = nnf.grid_sample(x, where, padding_mode="reflection", align_corners=False)
    bright, contrast, colour = (
        _uniform(n, 1 - recipe.jitter, 1 + recipe.jitter, generator).view(n, 1, 1, 1).to(x.device) for _ in range(3)
    )
    x = x * bright
    x = (x - x.mean((1, 2, 3), keepdim=True)) * contrast + x.mean((1, 2, 3), keepdim=True)
    grey = x.mean(1, keepdim=True)
    return ((x - grey) * colour + grey).clamp(0, 1)


def mix(x: Tensor, target: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """CutMix (arXiv 1905.04899) or mixup (arXiv 1710.09412) of the batch with itself in reverse, for `share` of the batches."""
    draw, lam = torch.rand(1, generator=generator).item(), torch.rand(1, generator=generator).item()
    if draw >= share:
        return x, target
    if draw < share / 2:
        lam = 0.5 + lam / 2
        return lam * x + (1 - lam) * x.flip(0), lam * target + (1 - lam) * target.flip(0)
    size = x.shape[-1]
    side = round(size * (1 - lam) ** 0.5)
    top, left = (int(torch.randint(0, size - side + 1, (1,), generator=generator)) for _ in range(2))
    x = x.clone()
    x[:, :, top : top + side, left : left + side] = x.flip(0)[:, :, top : top + side, left : left + side]
    lam = 1 - (side / size) ** 2
    return x, lam * target + (1 - lam) * target.flip(0)


def image_processor() -> ViTImageProcessor:
    """The preprocessing the model was trained with, for `preprocessor_config.json`."""
    size = {"height": 64, "width": 64}
    return ViTImageProcessor(size=size, image_mean=list(MEAN), image_std=list(STD), do_resize=True, resample=2)
